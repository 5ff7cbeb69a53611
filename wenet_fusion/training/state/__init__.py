"""What a run keeps on disk: checkpoints, training states, averages."""
