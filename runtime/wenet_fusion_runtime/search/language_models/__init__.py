"""Language models: n-gram models from ARPA files, and the scorer that uses them in a beam search."""
