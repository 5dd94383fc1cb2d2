"""The files that a run leaves on disk, and the display while it runs."""
