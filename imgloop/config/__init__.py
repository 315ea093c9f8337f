"""The configuration: composing it with Hydra, checking it, and the names that follow from it."""
