"""Rows as tokenised demonstrations for supervised fine-tuning, filtered, mixed and resumable. Runs in the driver."""
