"""One call: array to tensor, engine, and back to an array."""
