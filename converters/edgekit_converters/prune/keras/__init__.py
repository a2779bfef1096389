"""Prune Keras models."""
