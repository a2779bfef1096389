"""Trusted keys, signatures and encryption of bundles."""
