"""The vLLM engine and the adapters that it loads. Runs in the rollout worker."""
