"""How a reward is called, timed out, killed, and summed with the others."""
