"""Calls rewards under a time-out, kills those that hang, and sums their values."""
