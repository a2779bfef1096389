"""Schemes and recipes: the vocabulary of quantization."""
