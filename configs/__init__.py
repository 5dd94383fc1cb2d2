"""What a run is: the typed schema, its YAML files, and how they are read."""
