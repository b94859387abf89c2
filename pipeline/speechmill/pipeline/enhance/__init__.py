"""Speech enhancement over shards: original audio in, pairs of original and enhanced out."""
