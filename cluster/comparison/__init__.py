"""Several models on the same prompts, side by side."""
