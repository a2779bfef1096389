"""Write, sign and encrypt bundles and deltas."""
