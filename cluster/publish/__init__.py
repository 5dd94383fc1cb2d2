"""What leaves the machine: the files of a run or a model, without its paths and secrets, and the way to a hub."""
