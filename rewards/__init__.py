"""Rollout group to scores: reward functions, killable graders, and the pool of reward workers."""
