"""OpenVINO IR artifacts, which OpenVINO runs."""

from __future__ import annotations

from dataclasses import replace

from edgekit_converters.formats import Candidates, Format
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.toolchain import Toolchain

INT8 = Recipe("int8-static")
CANDIDATES = Candidates(
    # Schemes, then statistics and corrections of int8-static: these cost next to nothing at run time.
    first=(
        Recipe("float32"),
        INT8,
        Recipe("float16"),
        Recipe("int8-weights"),
        replace(INT8, statistics="percentile"),
        replace(INT8, corrections=("bias-fast",)),
        replace(INT8, corrections=("smooth",)),
        replace(INT8, corrections=("equalize",)),
        replace(INT8, statistics="percentile", corrections=("equalize",)),
    ),
    small=(
        Recipe("int8-weights", corrections=("equalize",)),
        Recipe("int4-weights", block_size=64),
        Recipe("int4-weights", block_size=64, corrections=("equalize",)),
    ),
    last=(),
)


def engine_settings(scheme: str, precision: str, device: str) -> dict[str, str]:
    """Return the settings that make OpenVINO compute the same everywhere.

    On one thread, OpenVINO 2026.4 fuses int8 dense layers into one kernel that computes something else (a signal to
    noise ratio of 3 dB where two threads give 36 dB). Its fusing is switched off for them; nothing becomes slower.
    """
    settings = {"INFERENCE_PRECISION_HINT": precision}
    if device == "cpu" and scheme == "int8-static":
        settings["SNIPPETS_MODE"] = "DISABLE"
    return settings


FORMAT = Format(
    engine="openvino",
    label="IR",
    colour="#0068b5",
    suffix=".xml",
    devices=("cpu", "gpu", "npu"),
    toolchain=Toolchain(("openvino", "nncf"), ("openvino", "nncf"), ("openvino",), "edgekit_converters.quantize.ir"),
    schemes=("float32", "float16", "int8-weights", "int4-weights", "int8-static"),
    mixable_schemes=("float32", "int8-weights", "int4-weights", "int8-static"),  # it halves all weights or none
    block_sizes=(0, 32, 64, 128),
    corrections=("equalize", "bias", "bias-fast", "smooth"),  # NNCF corrects biases and smooths itself
    quantizes_outputs=False,
    candidates=CANDIDATES,
    lowerings={
        "keras": "edgekit_converters.lower.keras_to_ir:lower",
        "torch": "edgekit_converters.lower.torch_to_ir:lower",
        "tflite": "edgekit_converters.lower.tflite_to_ir:lower",
        "openvino": "edgekit_converters.lower.openvino_to_ir:lower",
    },
    lowest_version="edgekit_converters.formats.ir_metadata:lowest_version",
    quantizer="edgekit_converters.quantize.ir:quantize",
    output_splitter="edgekit_converters.split_outputs.ir:split",
    tracer="edgekit_converters.trace.ir_tensors:artifact_steps",
    graph_reader="edgekit_converters.examine.ir:read",
    value_reader="edgekit_converters.examine.ir:values",
    artifact_pair="edgekit_converters.sensitivity.ir:IrPair",
    layer_builder="edgekit_converters.prune.latency.ir_layer:write_layer",
    layer_copies=4,  # side by side: a call's own time would hide one small layer
    engine_settings=engine_settings,
)
