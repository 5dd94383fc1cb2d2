"""One file for each command of the command line. Nothing heavy is imported before a command runs."""
