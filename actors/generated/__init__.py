"""Rows that a program makes: sums, and the tasks of reasoning-gym."""
