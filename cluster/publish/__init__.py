"""Push adapters and models to a hub, with a model card."""
