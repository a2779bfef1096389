"""Candidate search of ``--quantize auto``: try quantization recipes, measure them, select the best for each device."""
