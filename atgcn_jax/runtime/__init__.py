"""Process and machine: signals, locks, caches, buckets, multiple processes."""
