"""Error rates of a trained model in many modes, chunkings and variants of the search."""
