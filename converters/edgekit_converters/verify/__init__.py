"""Verify: what the source computes, how far each artifact is from it, what that costs, and how fast it is."""
