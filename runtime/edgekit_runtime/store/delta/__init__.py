"""Apply a delta: build a new bundle from an installed one and the bytes that changed."""
