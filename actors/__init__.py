"""Prompt to rollout group: the rows, the prompts, the vLLM engine, and the pool of rollout workers."""
