"""Rows as tokenised prompts and demonstrations, filtered, mixed and resumable. Runs in the driver."""
