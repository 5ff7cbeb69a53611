"""From lists of recorded utterances to padded training batches."""
