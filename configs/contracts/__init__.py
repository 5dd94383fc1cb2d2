"""Records, errors, metrics and logs that cross a process boundary, and the private folders that processes share. Imports nothing else of rollcast."""
