"""Answers and gold answers: what a text says, of which kind it is, and whether two of them say the same."""
