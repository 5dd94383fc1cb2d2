"""Compare several models on the same prompts, side by side."""
