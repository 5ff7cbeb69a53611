"""Language models: n-grams of ARPA files, and the scorer that adds them to a beam search."""
