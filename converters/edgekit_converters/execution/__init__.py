"""Runs stages in worker processes, through the cache. It knows no stage by name."""
