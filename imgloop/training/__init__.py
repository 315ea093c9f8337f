"""Training one generation: batches, trainer, tasks."""
