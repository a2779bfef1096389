"""Benchmarks against the bare toolchains; ``run.py`` runs them all."""
