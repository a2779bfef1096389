"""Measure the preprocessing of a raw image to an int8 tensor against hand-written numpy, in one process.

224x224x3 uint8, normalised per channel and quantized; then the two cases in which nothing has to be computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import figures
from edgekit_runtime.format.manifest import InputSpec, Preprocessing, TensorBinding
from edgekit_runtime.inference.raw_input import raw_to_tensor

ROUNDS = 60
CALLS_A_ROUND = 5
MEAN, STD, SCALE, ZERO_POINT = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.0187, -14
SHAPE = (1, 224, 224, 3)


def main() -> None:
    """Print each ratio with its target."""
    image = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    ours = _feed(Preprocessing(None, 1 / 255, MEAN, STD), TensorBinding(0, "x", "int8", SCALE, ZERO_POINT))
    in_float64, in_float32 = _by_hand(np.float64), _by_hand(np.float32)
    if not (np.array_equal(ours(image), in_float64(image)) and np.array_equal(ours(image), in_float32(image))):
        raise SystemExit("the sides compute different things")
    _faster("mean and std, float64 numpy over folded", in_float64, ours, image, 8)
    _faster("mean and std, float32 numpy over folded", in_float32, ours, image, 2.5)
    shared = _feed(Preprocessing(None, 1 / 127.5, (1.0,)), TensorBinding(0, "x", "int8", 2 / 255, 0))
    _faster("a table for all channels, float64 numpy over it", in_float64, shared, image)
    to_float = _feed(Preprocessing(None, 1 / 255, MEAN, STD), TensorBinding(0, "x", "float32"))
    _faster("mean and std to float32, numpy over ours", _normalised_by_hand, to_float, image)
    flipped = _feed(Preprocessing(None, 1 / 255), TensorBinding(0, "x", "int8", 1 / 255, -128))
    same = _feed(Preprocessing(None, 1 / 255), TensorBinding(0, "x", "uint8", 1 / 255, 0))
    for label, way in (("the top bit flipped", flipped), ("as it is", same)):
        figures.show_at_most(f"{label}, over a plain copy", _ratios(way, np.copy, image), 3)


def _feed(steps: Preprocessing, binding: TensorBinding) -> Callable[[Any], Any]:
    return raw_to_tensor(InputSpec("image", SHAPE, "float32", "NHWC", steps), binding)


def _by_hand(dtype: type[np.floating[Any]]) -> Callable[[Any], Any]:
    """Return the usual formula in numpy, with all constants in the dtype it computes in."""
    mean, std = np.asarray(MEAN, dtype), np.asarray(STD, dtype)

    def float64(img: Any) -> Any:
        return ((img / 255 - mean) / std / SCALE + ZERO_POINT).round().clip(-128, 127).astype(np.int8)

    def float32(img: Any) -> Any:
        real = (img.astype(np.float32) / np.float32(255) - mean) / std / np.float32(SCALE) + np.float32(ZERO_POINT)
        return real.round().clip(-128, 127).astype(np.int8)

    return float64 if dtype is np.float64 else float32


def _normalised_by_hand(img: Any) -> Any:
    return (img.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def _faster(
    label: str, theirs: Callable[[Any], Any], ours: Callable[[Any], Any], image: Any, least: float | None = None
) -> None:
    """Print the ratio of their time to ours, against a lower limit."""
    ratios = _ratios(theirs, ours, image)
    holds = None if least is None else bool(np.median(ratios) >= least)
    figures.show(label, f"{figures.with_spread(ratios)} x", "" if least is None else f">= {least:g} x", holds=holds)


def _ratios(over: Callable[[Any], Any], under: Callable[[Any], Any], image: Any) -> list[float]:
    """Return the ratios of the two times, measured in turns."""
    return [_round_s(over, image) / _round_s(under, image) for _ in range(ROUNDS)]


def _round_s(call: Callable[[Any], Any], image: Any) -> float:
    start = time.perf_counter()
    for _ in range(CALLS_A_ROUND):
        call(image)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
