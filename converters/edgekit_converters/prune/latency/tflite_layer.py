"""Write a single layer as a ``.tflite`` file, with random weights: only its latency matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.prune.latency.table import LayerTiming

ACTIVATION_SCALE, WEIGHT_SCALE = 0.05, 0.01


def write_layer(layer: LayerTiming, path: Path, *, int8: bool) -> tuple[Path, ...]:
    """Write the layer; with ``int8`` in integer arithmetic, with weight scales by channel."""
    built = _Built(int8=int8)
    high, wide = layer.extent
    if layer.operator == "dense":
        tensor = built.activation((layer.positions, layer.ins))
        built.graph.inputs = [tensor]
        tensor = built.dense(tensor, layer.positions, layer.ins, layer.outs)
    elif layer.operator == "attention":
        keys = layer.kernel[0]
        tensor = built.activation((layer.positions, layer.ins))
        built.graph.inputs = [tensor]
        tensor = built.dense(tensor, layer.positions, layer.ins, keys)
        tensor = built.dense(tensor, layer.positions, keys, layer.outs)
    else:
        tensor = built.activation((1, high * layer.strides[0], wide * layer.strides[1], layer.ins))
        built.graph.inputs = [tensor]
        tensor = built.convolution(tensor, layer)
    built.graph.outputs = [tensor]
    flatbuffer_utils.write_model(built.model, str(path))
    return (path,)


class _Built:
    """A model with one graph, to which tensors and operators are added."""

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.random = np.random.default_rng(0)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], b"main"
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []

    def activation(self, shape: tuple[int, ...]) -> int:
        """Add an activation tensor, and return its index."""
        kind = schema.TensorType.INT8 if self.int8 else schema.TensorType.FLOAT32
        return self._tensor(shape, kind, np.array([ACTIVATION_SCALE]))

    def dense(self, tensor: int, positions: int, ins: int, outs: int) -> int:
        """Add a fully connected operator."""
        options = schema.FullyConnectedOptionsT()
        given = self.activation((positions, outs))
        operands = [tensor, self._weights((outs, ins), 0), self._bias(outs)]
        self._operator("FULLY_CONNECTED", options, operands, given)
        return given

    def convolution(self, tensor: int, layer: LayerTiming) -> int:
        """Add a convolution, depthwise or not, with 'same' padding."""
        depthwise = layer.operator == "depthwise"
        options: Any = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH, options.strideW = layer.strides
        if depthwise:
            options.depthMultiplier = max(1, layer.outs // layer.ins)
        high, wide = layer.window
        outs, ins = (1, layer.outs) if depthwise else (layer.outs, max(1, layer.ins // layer.divisions))
        weights = self._weights((outs, high, wide, ins), 3 if depthwise else 0)
        given = self.activation((1, *layer.extent, layer.outs))
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self._operator(code, options, [tensor, weights, self._bias(layer.outs)], given)
        return given

    def _weights(self, shape: tuple[int, ...], axis: int) -> int:
        scales = np.full(shape[axis], WEIGHT_SCALE)
        if self.int8:
            values = self.random.integers(-127, 128, shape).astype(np.int8)
            return self._tensor(shape, schema.TensorType.INT8, scales, axis, values)
        return self._tensor(shape, schema.TensorType.FLOAT32, scales, axis, self.random.normal(0, 0.1, shape))

    def _bias(self, count: int) -> int:
        if self.int8:
            scales = np.full(count, ACTIVATION_SCALE * WEIGHT_SCALE)
            return self._tensor((count,), schema.TensorType.INT32, scales, 0, np.zeros(count, np.int32))
        return self._tensor((count,), schema.TensorType.FLOAT32, np.ones(1), 0, np.zeros(count))

    def _tensor(
        self, shape: tuple[int, ...], kind: int, scales: np.ndarray, axis: int = 0, values: np.ndarray | None = None
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"t{len(self.graph.tensors)}".encode(), shape, kind, 0
        tensor.shape = np.array(shape, np.int32)
        if self.int8:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales.astype(np.float32)
            tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
            tensor.quantization.quantizedDimension = axis
        if values is not None:
            buffer = schema.BufferT()
            stored = values if self.int8 else values.astype(np.float32)
            buffer.data = np.frombuffer(stored.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _operator(self, name: str, options: Any, operands: list[int], given: int) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 3 if self.int8 else 1
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs, operator.outputs = operands, [given]
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.model.operatorCodes.append(code)
        self.graph.operators.append(operator)
