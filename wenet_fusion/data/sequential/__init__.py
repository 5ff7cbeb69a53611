"""Shards that are read in sequence, without an index: from files, URLs and commands."""
