"""The roof: starts the processes, runs the loop, and holds every command."""

import rollcast as rollcast  # `python -m cluster` is another way in: it binds the names of the packages first
