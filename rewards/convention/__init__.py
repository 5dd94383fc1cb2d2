"""What a reward is called with and what it gives: groups, grades, and checks of its parameters."""
