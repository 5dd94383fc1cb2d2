"""Run programs that a model wrote: in a jail on this machine, on Piston, or on rented machines."""
