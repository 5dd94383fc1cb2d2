"""Rows as tokenised prompts, filtered, mixed and resumable. Runs in the driver."""
