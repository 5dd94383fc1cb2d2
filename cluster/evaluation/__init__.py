"""Models sampled on named sets of prompts, and the statistics of their answers."""
