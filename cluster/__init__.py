"""Where processes run, and every command."""
