"""ONNX and OpenVINO IR files as source models; OpenVINO opens both."""

from __future__ import annotations

from edgekit_converters.frameworks import Framework, Loader

FRAMEWORK = Framework(
    name="openvino",
    loaders={
        "onnx": Loader("edgekit_converters.load.openvino_file:load_file", "openvino", (".onnx",)),
        "ir": Loader("edgekit_converters.load.openvino_file:load_file", "openvino", (".xml",)),
    },
    tracer="edgekit_converters.trace.ir_tensors:steps",
)
