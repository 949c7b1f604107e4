"""The process and its machine: signals, locks, caches, buckets, many processes."""
