"""The functions of `import rollcast`: settings, data and rewards from Python objects, and a typed result."""
