"""What a ``.tflite`` file need not compute, or LiteRT computes slowly, put more simply; every value stays what it is.

* ``x[:, ::2, ::2]``, such as a residual shortcut takes, becomes STRIDED_SLICE, for which LiteRT has no fast kernel: of
  32x32x16 integers one takes as long as six convolutions of that size. MAX_POOL_2D over single pixels with the same
  strides gives the same values, in float and in integers, at a tenth of the time.
* A RELU of what is a RELU's already, as is left where a residual branch went, gives what it takes.
* The bias of a TRANSPOSE_CONV, into which a normalization was folded, has one axis as everybody's else, for AI Edge
  Quantizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Operator, Fused = schema.BuiltinOperator, schema.ActivationFunctionType
SLICE, POOL, TRANSPOSED = Operator.STRIDED_SLICE, Operator.MAX_POOL_2D, Operator.TRANSPOSE_CONV
# operator: what it changes nothing of, as an operator, or fused into one
AGAIN = {
    Operator.RELU: ((Operator.RELU, Operator.RELU6), (Fused.RELU, Fused.RELU6)),
    Operator.RELU6: ((Operator.RELU6,), (Fused.RELU6,)),
}


def simplify(path: Path) -> None:
    """Rewrite a float file in place; one in which nothing is to be done is not touched."""
    content = path.read_bytes()
    file = schema.Model.GetRootAs(content)
    codes = {file.OperatorCodes(place).BuiltinCode() for place in range(file.OperatorCodesLength())}
    if not codes & {SLICE, TRANSPOSED, *AGAIN}:
        return
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    if sum(_decimate(model, graph) + _once(model, graph) + _flatten(model, graph) for graph in model.subgraphs):
        flatbuffer_utils.write_model(model, str(path))


def _decimate(model: Any, graph: Any) -> int:
    """Take every so many-th pixel by pooling; return how often that was done."""
    found = 0
    for operator in list(graph.operators):
        strides = _strides(model, graph, operator)
        if strides:
            found += 1
            _pool(model, operator, strides)
            _join(model, graph, operator)
    return found


def _strides(model: Any, graph: Any, operator: Any) -> tuple[int, int] | None:
    """The strides in height and width of a slice that takes every so many-th pixel from the first one on, of all."""
    options = operator.builtinOptions
    if _kind(model, operator) != SLICE or _masks(options):
        return None
    given, taken = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    begins, steps = (_constant(model, graph, operator.inputs[place]) for place in (1, 3))
    if given.type != schema.TensorType.FLOAT32 or given.shape is None or len(given.shape) != 4:
        return None
    if begins is None or steps is None or (steps < 1).any() or (steps[[0, 3]] != 1).any() or (steps == 1).all():
        return None
    starts = [begin and not options.beginMask >> axis & 1 for axis, begin in enumerate(begins)]
    whole = [-(-size // step) for size, step in zip(given.shape, steps, strict=True)]
    if any(starts) or list(taken.shape) != whole:
        return None
    return int(steps[1]), int(steps[2])


def _masks(options: Any) -> bool:
    """Whether a slice changes the number of axes."""
    return bool(options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask)


def _constant(model: Any, graph: Any, place: int) -> np.ndarray | None:
    data = model.buffers[graph.tensors[place].buffer].data
    return None if data is None or len(data) == 0 else np.frombuffer(bytes(data), np.int32)


def _pool(model: Any, operator: Any, strides: tuple[int, int]) -> None:
    options = schema.Pool2DOptionsT()
    options.padding, options.fusedActivationFunction = schema.Padding.VALID, schema.ActivationFunctionType.NONE
    options.filterHeight = options.filterWidth = 1
    options.strideH, options.strideW = strides
    operator.inputs = np.array(operator.inputs[:1], np.int32)
    operator.builtinOptions, operator.builtinOptionsType = options, schema.BuiltinOptions.Pool2DOptions
    operator.opcodeIndex = _code(model)


def _code(model: Any) -> int:
    codes = [one.builtinCode for one in model.operatorCodes]
    if POOL not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = POOL
        code.version = 1
        model.operatorCodes.append(code)
        return len(codes)
    return codes.index(POOL)


def _join(model: Any, graph: Any, operator: Any) -> None:
    """Let one pool do what two did, one an axis, where nobody else takes what lies between."""
    between = operator.inputs[0]
    makers = [one for one in graph.operators if between in one.outputs]
    readers = sum(list(one.inputs).count(between) for one in graph.operators) + list(graph.outputs).count(between)
    options = makers[0].builtinOptions if makers else None
    if readers != 1 or not isinstance(options, schema.Pool2DOptionsT) or options.filterHeight * options.filterWidth > 1:
        return
    if _kind(model, makers[0]) != POOL:
        return
    operator.builtinOptions.strideH *= options.strideH
    operator.builtinOptions.strideW *= options.strideW
    operator.inputs = makers[0].inputs
    graph.operators.remove(makers[0])


def _once(model: Any, graph: Any) -> int:
    """Leave out activations of what went through them already; return how many."""
    found = 0
    for operator in list(graph.operators):
        before = next((one for one in graph.operators if operator.inputs[0] in one.outputs), None)
        kinds, fused = AGAIN.get(_kind(model, operator), ((), ()))
        if before is None or operator.outputs[0] in graph.outputs:
            continue
        if _kind(model, before) in kinds or getattr(before.builtinOptions, "fusedActivationFunction", None) in fused:
            for one in graph.operators:
                taken = [operator.inputs[0] if place == operator.outputs[0] else place for place in one.inputs]
                one.inputs = np.array(taken, np.int32)
            graph.operators.remove(operator)
            found += 1
    return found


def _flatten(model: Any, graph: Any) -> int:
    """Give biases of transposed convolutions one axis; return how many had more."""
    found = 0
    for operator in graph.operators:
        bias = int(operator.inputs[3]) if _kind(model, operator) == TRANSPOSED and len(operator.inputs) > 3 else -1
        takers = [one for one in graph.operators if bias in one.inputs]
        tensor = graph.tensors[bias]
        if bias >= 0 and len(tensor.shape) > 1 and all(_kind(model, one) == TRANSPOSED for one in takers):
            tensor.shape = np.array([np.prod(tensor.shape)], np.int32)
            found += 1
    return found


def _kind(model: Any, operator: Any) -> int:
    kind: int = model.operatorCodes[operator.opcodeIndex].builtinCode
    return kind
