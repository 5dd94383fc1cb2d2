"""The built-in rewards, and the registry that finds a reward by its name."""
