"""Models that are somewhere else, and the cache that they are fetched into."""
