"""Write a single layer as OpenVINO IR, with random weights: only its latency matters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgekit_converters.formats.ir import FORMAT
from edgekit_converters.prune.latency.table import LayerTiming


def write_layer(layer: LayerTiming, path: Path, *, int8: bool) -> tuple[Path, ...]:
    """Write the layer; with ``int8``, its input is fake-quantized and its weights are integers, as NNCF leaves them.

    The file holds ``FORMAT.layer_copies`` of it, side by side.
    """
    random = np.random.default_rng(0)
    if layer.operator in ("dense", "attention"):
        given = ops.parameter([layer.positions, layer.ins], np.float32)
        widths = (layer.ins, *layer.kernel, layer.outs) if layer.operator == "attention" else (layer.ins, layer.outs)
        copies = [_matrices(_activation(given, int8), widths, random, int8) for _ in range(FORMAT.layer_copies)]
    else:
        extent = [side * stride for side, stride in zip(layer.extent, layer.strides, strict=True)]
        given = ops.parameter([1, layer.ins, *extent], np.float32)
        copies = [_convolution(layer, _activation(given, int8), random, int8) for _ in range(FORMAT.layer_copies)]
    model = ov.Model([ops.result(_activation(node, int8)) for node in copies], [given], "layer")
    ov.save_model(model, path, compress_to_fp16=False)
    return path, path.with_suffix(".bin")


def _matrices(node: Any, widths: Sequence[int], random: np.random.Generator, int8: bool) -> Any:
    for ins, outs in pairwise(widths):
        node = ops.matmul(
            _activation(node, int8), _weights(random, (outs, ins), int8), transpose_a=False, transpose_b=True
        )
    return node


def _convolution(layer: LayerTiming, node: Any, random: np.random.Generator, int8: bool) -> Any:
    strides, window = list(layer.strides), layer.window
    pads = [0, 0], [0, 0], [1, 1]  # with auto_pad
    divisions = layer.ins if layer.operator == "depthwise" else layer.divisions
    if divisions == 1:
        weights = _weights(random, (layer.outs, layer.ins, *window), int8)
        return ops.convolution(node, weights, strides, *pads, auto_pad="same_upper")
    shape = (divisions, max(1, layer.outs // divisions), layer.ins // divisions, *window)
    return ops.group_convolution(node, _weights(random, shape, int8), strides, *pads, auto_pad="same_upper")


def _activation(node: Any, int8: bool) -> Any:
    if not int8:
        return node
    ends = [np.float32(value) for value in (-6.4, 6.35, -6.4, 6.35)]
    return ops.fake_quantize(node, *ends, 256)


def _weights(random: np.random.Generator, shape: tuple[int, ...], int8: bool) -> Any:
    if not int8:
        return ops.constant(random.normal(0, 0.1, shape).astype(np.float32))
    values = ops.convert(ops.constant(random.integers(-127, 128, shape).astype(np.int8)), np.float32)
    outs = shape[:2] if len(shape) == 5 else shape[:1]  # (groups, outs of each, ...), else (outs, ...)
    return ops.multiply(values, ops.constant(np.full((*outs, *[1] * (len(shape) - len(outs))), 0.01, np.float32)))
