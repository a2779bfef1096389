"""Quantizing rounds as the kernels do; dequantizing is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime.tensors import dequantization_table, dequantize, quantize


def test_quantize_rounds_halves_to_even_and_clips() -> None:
    x = np.array([-1e9, -0.75, -0.25, 0.25, 0.75, 1.25, 1e9], np.float32)
    np.testing.assert_array_equal(quantize(x, 0.5, 1, "int8"), [-128, -1, 1, 1, 3, 3, 127])
    np.testing.assert_array_equal(quantize(x, 0.5, 1, "uint8"), [0, 0, 1, 1, 3, 3, 255])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_quantized_value_survives_dequantize_and_quantize(dtype: str) -> None:
    limits = np.iinfo(dtype)
    q = np.arange(limits.min, limits.max + 1, dtype=dtype)
    for scale, zero_point in ((0.0157, limits.min), (1.0, 7), (3.2e-5, limits.max)):
        np.testing.assert_array_equal(quantize(dequantize(q, scale, zero_point), scale, zero_point, dtype), q)


@pytest.mark.parametrize("to", ["float32", "float16", "float64"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_dequantization_table_equals_dequantize(dtype: str, to: str) -> None:
    q = np.arange(256, dtype=np.uint8).view(dtype)
    for scale in (0.0123, *np.random.default_rng(0).lognormal(0, 1, 50)):
        for zero_point in (5, np.iinfo(dtype).min, np.iinfo(dtype).max):
            table = dequantization_table(dtype, float(scale), int(zero_point), to)
            np.testing.assert_array_equal(table.take(q.view(np.uint8)), dequantize(q, scale, zero_point, to))
            assert table.dtype == to


@pytest.mark.needs_litert
def test_litert_rounds_the_same_way(make_tflite: Callable[..., Path]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    x = np.linspace(-70, 70, 281, dtype=np.float32).reshape(1, -1)  # every half step of 0.5, and beyond the ends
    path = make_tflite("QUANTIZE", ("x", x.shape, "float32", None, None), ("q", x.shape, "int8", (0.5, 3), None))
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x / 2)
    interpreter.invoke()
    theirs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(quantize(x / 2, 0.5, 3, "int8"), theirs)
