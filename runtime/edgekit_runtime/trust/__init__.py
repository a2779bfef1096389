"""Whose bytes are accepted: keys, signatures, encryption."""
