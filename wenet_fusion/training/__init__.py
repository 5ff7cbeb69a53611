"""Train a model: optimiser, loop, validation, checkpoints, averaging."""
