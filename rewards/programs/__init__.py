"""Rewards that run the program in a completion: tests, olympiad and Codeforces problems."""
