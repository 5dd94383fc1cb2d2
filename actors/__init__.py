"""Prompt to rollout group: prompts, the vLLM engine, and the pool of rollout workers."""
