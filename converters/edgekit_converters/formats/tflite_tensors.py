"""Run a ``.tflite`` with every tensor preserved, so that calibration can read them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit_converters.formats.tflite_metadata import signature
from edgekit_runtime.tensors import dequantize, quantize


class PreservedTensors:
    """LiteRT with its own kernels: a delegate such as XNNPACK does not expose the tensors between its operators."""

    def __init__(self, path: Path) -> None:
        self._positions = [port.position for port in signature(path).inputs]
        self.interpreter = Interpreter(
            str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self.interpreter.allocate_tensors()
        self._inputs = self.interpreter.get_input_details()
        self._details = {detail["index"]: detail for detail in self.interpreter.get_tensor_details()}

    def run(self, sample: Sequence[np.ndarray]) -> None:
        """Run one sample; arrays are (1, ...) in real numbers and the source's order."""
        for array, place in zip(sample, self._positions, strict=True):
            detail = self._inputs[place]
            scale, zero_point = detail["quantization"]
            quantized = scale and np.issubdtype(detail["dtype"], np.integer)
            value = quantize(array, scale, zero_point, detail["dtype"]) if quantized else array
            self.interpreter.set_tensor(detail["index"], np.ascontiguousarray(value, dtype=detail["dtype"]))
        self.interpreter.invoke()

    def value(self, index: int) -> Any:
        """Return the value of a tensor of the main graph after the last run, in real numbers."""
        value = self.interpreter.get_tensor(index)
        scale, zero_point = self._details[index]["quantization"]
        return dequantize(value, scale, zero_point) if scale else value
