"""Records, errors, metrics and logs that cross a process boundary. Imports nothing else of rollcast."""
