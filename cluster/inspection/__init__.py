"""Inspect a run, its data or its completions, without training."""
