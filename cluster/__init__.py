"""Where processes run and what they say to one another; the command line."""
