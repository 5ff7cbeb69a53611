"""Files of a run: checkpoints, training states, averages."""
