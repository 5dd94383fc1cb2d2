"""Whether a model, its tokenizer and the lengths of a run fit one another, by their settings alone."""
