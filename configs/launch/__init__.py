"""Lines that users type or keep in shell scripts to start a training: the arguments in them, and the trainer that they are for."""
