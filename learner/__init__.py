"""Scored group to gradient to adapter: the packed GRPO learner on DeepSpeed ZeRO-2."""
