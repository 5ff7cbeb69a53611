"""Evaluate a trained model in several decoding modes, chunkings and variants of the search; check data and models."""
