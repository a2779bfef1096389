"""Quantization schemes and recipes."""
