"""The typed configuration of a run, one file a YAML section."""
