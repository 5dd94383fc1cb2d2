"""The command line, one file for each command: its options and help texts, nothing else."""
