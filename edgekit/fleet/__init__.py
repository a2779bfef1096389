"""Inventory and preflight: which boards can run a bundle."""
