"""Apply a delta: a new bundle from the old one and the bytes that changed."""
