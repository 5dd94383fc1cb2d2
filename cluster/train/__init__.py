"""`rollcast train` and `rollcast sft`: the drivers."""
