"""Bias correction of a quantized ``.tflite``: restore the mean that every layer's output has in float.

M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), section 4.2, with means from calibration samples (their appendix D); also A. Finkelstein,
U. Almog and M. Grobman, "Fighting Quantization Bias With Bias" (2019). Rounded weights and inputs shift the mean of
a layer's sum; the difference is added to its bias:

    b' = b + E[W x] − E[Wq xq].

A convolution is linear in its input, so E[W x] needs only the mean of the input under each tap of the kernel. That is
the sum before the layer's activation, which cannot be read when the activation is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from edgekit_converters.data import pick_samples
from edgekit_converters.formats.tflite_tensors import PreservedTensors
from edgekit_converters.progress import report_progress
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import CalibrationError

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
SAMPLES = 128  # spread evenly over the set; both files run the same ones, so that the samples' spread cancels
DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}

Array = NDArray[Any]


@dataclass(frozen=True)
class WeightedLayer:
    """A layer with weights; tensors are given by their index."""

    kind: str
    input: int
    weights: int
    bias: int
    options: Any  # of the operator, with strides and dilations


def correct_bias(request: QuantizeRequest, quantized: Path, *, weights_only: bool) -> None:
    """Correct the biases of the quantized file in place, from the float file of the request.

    Layers are corrected in order: the input of each comes from the corrected layers before it. ``weights_only`` uses
    the float input: one run of the samples serves all layers, and only the rounding of weights is corrected. A
    layer without a bias, or in float, is not changed.

    Raises:
        CalibrationError: there are no calibration data.
    """
    if request.calibration is None:
        raise CalibrationError("bias correction needs calibration data", stage="quantize", advice="--calibrate DATA")
    columns = pick_samples(request.calibration, request.inputs, SAMPLES)
    samples = [[column[row : row + 1] for column in columns] for row in range(len(columns[0]))]
    source, quantized_file = _TfliteLayers(request.artifact.files[0]), _TfliteLayers(quantized)
    pairs = [
        (one, other)
        for one, other in zip(source.layers, quantized_file.layers, strict=True)
        if source.constant(one)
        and quantized_file.constant(other)
        and quantized_file.scaled(other.weights)
        and quantized_file.scaled(other.bias)
    ]
    means = source.means([one for one, _ in pairs], samples)
    for done, (one, other) in enumerate(pairs):
        report_progress(done, len(pairs))
        mean = means[done] if weights_only else quantized_file.means([other], samples)[0]
        quantized_file.shift(other, source.sum_of(one, means[done]) - quantized_file.sum_of(other, mean))
        quantized_file.write()


class _TfliteLayers:
    """A ``.tflite`` file and its layers, in the order of execution."""

    def __init__(self, path: Path) -> None:
        # read_model maps the file into memory, so the model would change when the file is written
        self._path, self._model = path, flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
        self._tensors = self._model.subgraphs[0].tensors
        self.layers = [
            self._layer(operator) for operator in self._model.subgraphs[0].operators if self._has_weights(operator)
        ]

    def write(self) -> None:
        """Write the file with the biases as they are now."""
        self._path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(self._model)))

    def means(self, layers: Sequence[WeightedLayer], samples: Sequence[Sequence[Array]]) -> list[Array]:
        """Return the mean input under each tap, (kernel rows, columns, channels), of each layer over all samples."""
        interpreter = PreservedTensors(self._path)
        sums: list[Any] = [0.0] * len(layers)
        for sample in samples:
            interpreter.run(sample)
            for place, layer in enumerate(layers):
                sums[place] += self._taps(layer, interpreter.value(layer.input))
        return [total / len(samples) for total in sums]

    def sum_of(self, layer: WeightedLayer, mean: Array) -> Array:
        """Return a layer's mean sum by channel, (channels,), for the mean input under each tap."""
        weights, bias = self._real(layer.weights), self._real(layer.bias)
        if layer.kind == "DEPTHWISE_CONV_2D":
            multiplier = weights.shape[3] // mean.shape[2]  # results a channel
            sums = (weights[0] * np.repeat(mean, multiplier, axis=2)).sum(axis=(0, 1))
        else:
            sums = weights.reshape(len(weights), -1) @ mean.ravel()
        return np.asarray(sums + bias)

    def shift(self, layer: WeightedLayer, by: Array) -> None:
        """Add real numbers, (channels,), to a layer's integer bias."""
        bias, stored = self._tensors[layer.bias], self._integers(layer.bias)
        limits = np.iinfo(stored.dtype)
        steps = stored + np.rint(by / np.asarray(bias.quantization.scale, np.float64))
        data = steps.clip(limits.min, limits.max).astype(stored.dtype)
        self._model.buffers[bias.buffer].data = np.frombuffer(data.tobytes(), np.uint8)

    def constant(self, layer: WeightedLayer) -> bool:
        """Return whether weights and bias are constants: weights that are only stored in fewer bits are computed."""
        places = (layer.weights, layer.bias)
        return all(place >= 0 and self._model.buffers[self._tensors[place].buffer].data is not None for place in places)

    def scaled(self, index: int) -> bool:
        """Return whether a tensor holds integers with a scale, in a dtype that is supported here."""
        tensor = self._tensors[index]
        integers = tensor.type in DTYPES and tensor.type != schema.TensorType.FLOAT32
        return index >= 0 and integers and tensor.quantization is not None and tensor.quantization.scale is not None

    def _has_weights(self, operator: Any) -> bool:
        return flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex) in LAYERS

    def _layer(self, operator: Any) -> WeightedLayer:
        kind = str(flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex))
        index, weights, *bias = (int(index) for index in operator.inputs)
        return WeightedLayer(kind, index, weights, bias[0] if bias else -1, operator.builtinOptions)

    def _taps(self, layer: WeightedLayer, inputs: Array) -> Array:
        if layer.kind == "FULLY_CONNECTED":
            return np.asarray(inputs.reshape(-1, self._tensors[layer.weights].shape[1]).mean(axis=0, dtype=np.float64))
        return tap_means(inputs, tuple(self._tensors[layer.weights].shape[1:3]), layer.options)

    def _integers(self, index: int) -> Array:
        tensor = self._tensors[index]
        data = bytes(self._model.buffers[tensor.buffer].data)
        return np.frombuffer(data, DTYPES[tensor.type]).reshape(tensor.shape)

    def _real(self, index: int) -> Array:
        """Return a constant in real numbers."""
        tensor, stored = self._tensors[index], self._integers(index).astype(np.float64)
        if not self.scaled(index):
            return stored
        shape = [1] * stored.ndim
        shape[tensor.quantization.quantizedDimension] = -1
        scale, zero = (np.asarray(side) for side in (tensor.quantization.scale, tensor.quantization.zeroPoint))
        return np.asarray((stored - zero.reshape(shape)) * scale.reshape(shape))


def tap_means(inputs: Array, kernel: tuple[int, ...], options: Any) -> Array:
    """Return the mean input under each tap of a kernel over all positions, (rows, columns, channels).

    Args:
        inputs: (1, height, width, channels); beyond its border there are zeros.
        kernel: rows and columns.
        options: the strides, dilations and padding of a TFLite convolution.
    """
    strides = options.strideH, options.strideW
    dilations = options.dilationHFactor, options.dilationWFactor
    same = options.padding == schema.Padding.SAME
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    counts, pads = [], [(0, 0)]
    for size, stride, span in zip(inputs.shape[1:3], strides, extents, strict=True):
        count = -(-size // stride) if same else (size - span) // stride + 1
        missing = max((count - 1) * stride + span - size, 0)
        counts.append(count)
        pads.append((missing // 2, missing - missing // 2))
    padded = np.pad(inputs, [*pads, (0, 0)])[0]
    starts = [np.arange(size) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    ends = [(count - 1) * stride + 1 for count, stride in zip(counts, strides, strict=True)]
    return np.array(
        [
            [
                padded[y : y + ends[0] : strides[0], x : x + ends[1] : strides[1]].mean(axis=(0, 1), dtype=np.float64)
                for x in starts[1]
            ]
            for y in starts[0]
        ]
    )
