"""The places where a model's programs run: the jail on this machine, Piston, and rented machines."""
