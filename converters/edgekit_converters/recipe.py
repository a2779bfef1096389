"""A quantization recipe: what becomes of which layer, from which statistics, with which corrections.

It speaks of the source's layers and of no toolchain; each quantizer compiles it to its own terms.
"""

from __future__ import annotations

from dataclasses import dataclass

# How a tensor's range is drawn from what calibration saw of it.
STATISTICS = ("min-max", "moving-average", "percentile", "mse", "histogram")
# What is done about the error that quantization makes; each quantizer says which of them it knows.
CORRECTIONS = ("equalize", "bias", "bias-fast", "smooth")


@dataclass(frozen=True)
class Rule:
    """Another scheme for some layers: those that every one of the given criteria selects."""

    scheme: str  # "float32" keeps them in float
    layers: tuple[str, ...] = ()  # names in the source, or patterns such as "head.*"
    operators: tuple[str, ...] = ()  # types, such as "softmax"
    depth: tuple[str, ...] = ()  # "first", "last": of the layers that have weights


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized. Later rules win over earlier ones, and all of them over ``scheme``."""

    scheme: str
    statistics: str = "min-max"
    percentile: float = 99.99  # of the values seen that stay inside the range, for "percentile"
    corrections: tuple[str, ...] = ()
    block_size: int = 0  # weights that share a scale, for int4; 0 is a whole channel
    rules: tuple[Rule, ...] = ()
