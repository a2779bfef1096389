"""Verify: compare each artifact with the source, evaluate both on data, and time the artifacts."""
