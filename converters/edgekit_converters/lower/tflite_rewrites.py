"""Rewrite slow or needless operators of a ``.tflite`` file; no value changes.

* ``x[:, ::2, ::2]``, as in residual shortcuts, becomes STRIDED_SLICE, for which LiteRT has no fast kernel: on 32x32x16
  integers it takes as long as six convolutions of that size. MAX_POOL_2D over single pixels with the same strides gives
  the same values, in float and in integers, in a tenth of the time.
* A RELU of a RELU, as is left after a residual branch is removed, changes nothing.
* The bias of a TRANSPOSE_CONV with a folded normalization gets one axis, as AI Edge Quantizer expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Operator, Fused = schema.BuiltinOperator, schema.ActivationFunctionType
SLICE, POOL, TRANSPOSED = Operator.STRIDED_SLICE, Operator.MAX_POOL_2D, Operator.TRANSPOSE_CONV
# activation: the operators, and the fused activations, whose results it does not change
REPEATED = {
    Operator.RELU: ((Operator.RELU, Operator.RELU6), (Fused.RELU, Fused.RELU6)),
    Operator.RELU6: ((Operator.RELU6,), (Fused.RELU6,)),
}


def simplify(path: Path) -> None:
    """Rewrite a float file in place; a file without such operators is not written."""
    content = path.read_bytes()
    file = schema.Model.GetRootAs(content)
    codes = {file.OperatorCodes(place).BuiltinCode() for place in range(file.OperatorCodesLength())}
    if not codes & {SLICE, TRANSPOSED, *REPEATED}:
        return
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    if sum(
        _pool_strided_slices(model, graph) + _remove_repeated_activations(model, graph) + _flatten_biases(model, graph)
        for graph in model.subgraphs
    ):
        flatbuffer_utils.write_model(model, str(path))


def _pool_strided_slices(model: Any, graph: Any) -> int:
    """Replace strided slices by pooling; return how many."""
    found = 0
    for operator in list(graph.operators):
        strides = _strides(model, graph, operator)
        if strides:
            found += 1
            _replace_by_pool(model, operator, strides)
            _merge_pools(model, graph, operator)
    return found


def _strides(model: Any, graph: Any, operator: Any) -> tuple[int, int] | None:
    """Return the strides in height and width of a slice over a whole image from its first pixel; None for others."""
    options = operator.builtinOptions
    if _kind(model, operator) != SLICE or _changes_rank(options):
        return None
    source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    begins, steps = (_constant(model, graph, operator.inputs[place]) for place in (1, 3))
    if source.type != schema.TensorType.FLOAT32 or source.shape is None or len(source.shape) != 4:
        return None
    if begins is None or steps is None or (steps < 1).any() or (steps[[0, 3]] != 1).any() or (steps == 1).all():
        return None
    starts = [begin and not options.beginMask >> axis & 1 for axis, begin in enumerate(begins)]
    strided = [-(-size // step) for size, step in zip(source.shape, steps, strict=True)]
    if any(starts) or list(result.shape) != strided:
        return None
    return int(steps[1]), int(steps[2])


def _changes_rank(options: Any) -> bool:
    """Return whether a slice changes the number of axes."""
    return bool(options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask)


def _constant(model: Any, graph: Any, place: int) -> np.ndarray | None:
    data = model.buffers[graph.tensors[place].buffer].data
    return None if data is None or len(data) == 0 else np.frombuffer(bytes(data), np.int32)


def _replace_by_pool(model: Any, operator: Any, strides: tuple[int, int]) -> None:
    options = schema.Pool2DOptionsT()
    options.padding, options.fusedActivationFunction = schema.Padding.VALID, schema.ActivationFunctionType.NONE
    options.filterHeight = options.filterWidth = 1
    options.strideH, options.strideW = strides
    operator.inputs = np.array(operator.inputs[:1], np.int32)
    operator.builtinOptions, operator.builtinOptionsType = options, schema.BuiltinOptions.Pool2DOptions
    operator.opcodeIndex = _pool_code(model)


def _pool_code(model: Any) -> int:
    codes = [one.builtinCode for one in model.operatorCodes]
    if POOL not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = POOL
        code.version = 1
        model.operatorCodes.append(code)
        return len(codes)
    return codes.index(POOL)


def _merge_pools(model: Any, graph: Any, operator: Any) -> None:
    """Merge two pools, one an axis, if nothing else uses the tensor between them."""
    between = operator.inputs[0]
    producers = [one for one in graph.operators if between in one.outputs]
    uses = sum(list(one.inputs).count(between) for one in graph.operators) + list(graph.outputs).count(between)
    options = producers[0].builtinOptions if producers else None
    if uses != 1 or not isinstance(options, schema.Pool2DOptionsT) or options.filterHeight * options.filterWidth > 1:
        return
    if _kind(model, producers[0]) != POOL:
        return
    operator.builtinOptions.strideH *= options.strideH
    operator.builtinOptions.strideW *= options.strideW
    operator.inputs = producers[0].inputs
    graph.operators.remove(producers[0])


def _remove_repeated_activations(model: Any, graph: Any) -> int:
    """Remove activations that change nothing; return how many."""
    found = 0
    for operator in list(graph.operators):
        before = next((one for one in graph.operators if operator.inputs[0] in one.outputs), None)
        kinds, fused = REPEATED.get(_kind(model, operator), ((), ()))
        if before is None or operator.outputs[0] in graph.outputs:
            continue
        if _kind(model, before) in kinds or getattr(before.builtinOptions, "fusedActivationFunction", None) in fused:
            for one in graph.operators:
                inputs = [operator.inputs[0] if place == operator.outputs[0] else place for place in one.inputs]
                one.inputs = np.array(inputs, np.int32)
            graph.operators.remove(operator)
            found += 1
    return found


def _flatten_biases(model: Any, graph: Any) -> int:
    """Reshape biases of transposed convolutions to one axis; return how many."""
    found = 0
    for operator in graph.operators:
        bias = int(operator.inputs[3]) if _kind(model, operator) == TRANSPOSED and len(operator.inputs) > 3 else -1
        consumers = [one for one in graph.operators if bias in one.inputs]
        tensor = graph.tensors[bias]
        if bias >= 0 and len(tensor.shape) > 1 and all(_kind(model, one) == TRANSPOSED for one in consumers):
            tensor.shape = np.array([np.prod(tensor.shape)], np.int32)
            found += 1
    return found


def _kind(model: Any, operator: Any) -> int:
    kind: int = model.operatorCodes[operator.opcodeIndex].builtinCode
    return kind
