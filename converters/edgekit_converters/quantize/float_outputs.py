"""Outputs that are computed in float leave in float: AI Edge Quantizer quantizes all of a model's outputs or none."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.formats.tflite_graph import node_name


def float_outputs(content: bytes, nodes: tuple[tuple[str, str], ...]) -> bytes:
    """Return a quantized ``.tflite`` without the QUANTIZE between a node kept in float and an output.

    Args:
        content: the file.
        nodes: as in QuantizeRequest; where none of them makes an output in float, the content is given back as it is.
    """
    kept = {name for name, scheme in nodes if scheme == "float32"}
    if not kept:
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    bared = _bared(model, graph, kept)
    if not bared:
        return content
    graph.outputs = [bared.get(int(tensor), int(tensor)) for tensor in graph.outputs]
    # what other nodes take quantized, too, is still made for them; the signature names the float tensor already then
    needless = set(bared) - {int(tensor) for one in graph.operators for tensor in one.inputs}
    graph.operators = [one for one in graph.operators if not set(map(int, one.outputs)) & needless]
    for definition in model.signatureDefs or ():
        for port in definition.outputs:
            port.tensorIndex = bared.get(port.tensorIndex, port.tensorIndex)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def signed_outputs(content: bytes) -> bytes:
    """Return a quantized ``.tflite`` whose outputs are those that its signature names.

    Where an output is also taken by a node in float, AI Edge Quantizer gives out the float copy that was made for that
    node, and leaves the signature as it was.
    """
    if _is_signed(schema.Model.GetRootAs(content, 0)):
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    signed = {port.tensorIndex for definition in model.signatureDefs or () for port in definition.outputs}
    makers = {int(tensor): one for one in graph.operators for tensor in one.outputs}
    outputs = []
    for tensor in map(int, graph.outputs):
        maker = makers.get(tensor)
        copied = maker is not None and tensor not in signed and int(maker.inputs[0]) in signed
        outputs.append(int(maker.inputs[0]) if maker is not None and copied else tensor)
    graph.outputs = outputs
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _is_signed(file: Any) -> bool:
    """Tell a file whose signatures name outputs of it alone, without reading its weights."""
    given = {int(tensor) for tensor in file.Subgraphs(0).OutputsAsNumpy()}
    definitions = [file.SignatureDefs(place) for place in range(file.SignatureDefsLength())]
    return all(one.Outputs(place).TensorIndex() in given for one in definitions for place in range(one.OutputsLength()))


def _bared(model: Any, graph: Any, kept: set[str]) -> dict[int, int]:
    """Return quantized output → the float tensor behind it, which takes its place."""
    makers = {int(tensor): one for one in graph.operators for tensor in one.outputs}
    found = {}
    for tensor in map(int, graph.outputs):
        last = makers.get(tensor)
        if last is None or not _quantizes(model, last):
            continue
        before = int(last.inputs[0])
        if before in makers and node_name(graph, makers[before]) in kept:
            found[tensor] = before
    return found


def _quantizes(model: Any, operator: Any) -> bool:
    return bool(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) == "QUANTIZE")
