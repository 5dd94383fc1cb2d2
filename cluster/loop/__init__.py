"""The training loop as pure control flow; it knows neither Ray nor any role."""
