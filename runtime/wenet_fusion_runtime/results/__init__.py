"""Results: tokens, words and timestamps, and the formats that they are written in."""
