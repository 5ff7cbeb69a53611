"""Read shards in sequence, without an index: from files, URLs and commands."""
