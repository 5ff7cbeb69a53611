"""Read lists of recorded utterances and load them as padded training batches."""
