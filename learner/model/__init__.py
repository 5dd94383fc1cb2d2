"""The trained model: base, adapter, log-probabilities, quantisation and merging."""
