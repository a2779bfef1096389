"""Keep outputs in float that are computed in float: AI Edge Quantizer quantizes all outputs of a model or none."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.formats.tflite_graph import node_name


def float_outputs(content: bytes, nodes: tuple[tuple[str, str], ...]) -> bytes:
    """Return a quantized ``.tflite`` without the QUANTIZE between a float node and an output.

    Args:
        content: the file.
        nodes: as in QuantizeRequest; if no output is computed in float, the content is returned unchanged.
    """
    in_float = {name for name, scheme in nodes if scheme == "float32"}
    if not in_float:
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    replaced = _float_tensors_of_outputs(model, graph, in_float)
    if not replaced:
        return content
    graph.outputs = [replaced.get(int(tensor), int(tensor)) for tensor in graph.outputs]
    # keep a QUANTIZE whose result other nodes use; the signature then names the float tensor already
    unused = set(replaced) - {int(tensor) for one in graph.operators for tensor in one.inputs}
    graph.operators = [one for one in graph.operators if not set(map(int, one.outputs)) & unused]
    for definition in model.signatureDefs or ():
        for port in definition.outputs:
            port.tensorIndex = replaced.get(port.tensorIndex, port.tensorIndex)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def outputs_of_signature(content: bytes) -> bytes:
    """Return a quantized ``.tflite`` whose outputs are the ones that its signature names.

    If a float node also uses an output, AI Edge Quantizer outputs the float copy that it made for that node, and does
    not change the signature.
    """
    if _matches_signature(schema.Model.GetRootAs(content, 0)):
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    in_signature = {port.tensorIndex for definition in model.signatureDefs or () for port in definition.outputs}
    producers = {int(tensor): one for one in graph.operators for tensor in one.outputs}
    outputs = []
    for tensor in map(int, graph.outputs):
        producer = producers.get(tensor)
        copied = producer is not None and tensor not in in_signature and int(producer.inputs[0]) in in_signature
        outputs.append(int(producer.inputs[0]) if producer is not None and copied else tensor)
    graph.outputs = outputs
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _matches_signature(file: Any) -> bool:
    """Return whether the signatures name only outputs of the graph, without reading weights."""
    outputs = {int(tensor) for tensor in file.Subgraphs(0).OutputsAsNumpy()}
    definitions = [file.SignatureDefs(place) for place in range(file.SignatureDefsLength())]
    return all(
        one.Outputs(place).TensorIndex() in outputs for one in definitions for place in range(one.OutputsLength())
    )


def _float_tensors_of_outputs(model: Any, graph: Any, in_float: set[str]) -> dict[int, int]:
    """Return quantized output → the float tensor that replaces it."""
    producers = {int(tensor): one for one in graph.operators for tensor in one.outputs}
    found = {}
    for tensor in map(int, graph.outputs):
        producer = producers.get(tensor)
        if producer is None or not _quantizes(model, producer):
            continue
        before = int(producer.inputs[0])
        if before in producers and node_name(graph, producers[before]) in in_float:
            found[tensor] = before
    return found


def _quantizes(model: Any, operator: Any) -> bool:
    return bool(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) == "QUANTIZE")
