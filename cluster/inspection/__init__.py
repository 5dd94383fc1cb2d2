"""Look at a run, its data or its completions; train nothing."""
