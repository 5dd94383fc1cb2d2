"""The GRPO step: advantages, importance ratios, losses, and the worker that runs them."""
