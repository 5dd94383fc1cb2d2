"""The vocabulary that everything else is built on: the configuration of a run, and the records that its processes exchange."""
