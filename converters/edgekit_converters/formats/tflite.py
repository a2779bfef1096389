"""TFLite artifacts, which LiteRT runs."""

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
        Recipe("int8-dynamic"),
        Recipe("int8-weights"),
        Recipe("int8-dynamic", corrections=("equalize",)),
        replace(INT8, statistics="moving-average"),  # the quantizer's own default
        replace(INT8, statistics="percentile"),
        replace(INT8, statistics="mse"),
        replace(INT8, corrections=("bias",)),
        replace(INT8, corrections=("equalize",)),
        replace(INT8, corrections=("equalize", "bias")),
        replace(INT8, statistics="mse", corrections=("equalize", "bias")),
    ),
    small=(
        Recipe("int8-weights", corrections=("equalize",)),
        Recipe("int4-weights"),
        Recipe("int4-weights", corrections=("equalize",)),
    ),
    last=(Recipe("int16x8-static"),),
)
SCHEMES = (
    *("float32", "float16", "int16x8-static", "int8-weights"),
    *("int4-weights", "int8-dynamic", "int8-static"),
)

FORMAT = Format(
    engine="litert",
    label="TFLite",
    colour="#e07b00",
    suffix=".tflite",
    devices=("cpu", "gpu", "npu"),
    toolchain=Toolchain(
        ("ai_edge_litert", "ai_edge_quantizer"), ("ai-edge-litert", "ai-edge-quantizer"), ("keras", "torch")
    ),
    schemes=SCHEMES,
    mixable_schemes=SCHEMES,
    # AI Edge Quantizer has blocks only for activations quantized at run time, where they measured no better than
    # channels.
    block_sizes=(0,),
    # AI Edge Quantizer has no corrections: edgekit applies them to the float file and to the quantized one.
    corrections=("equalize", "bias", "bias-fast"),
    quantizes_outputs=True,
    candidates=CANDIDATES,
    lowerings={
        "keras": "edgekit_converters.lower.keras_to_tflite:lower",
        "torch": "edgekit_converters.lower.torch_to_tflite:lower",
        "tflite": "edgekit_converters.lower.tflite_to_tflite:lower",
    },
    lowest_version="edgekit_converters.formats.tflite_metadata:lowest_version",
    quantizer="edgekit_converters.quantize.tflite:quantize",
    output_splitter="edgekit_converters.split_outputs.tflite:split",
    tracer="edgekit_converters.trace.tflite_tensors:artifact_steps",
    graph_reader="edgekit_converters.examine.tflite:read",
    value_reader="edgekit_converters.examine.tflite:values",
    artifact_pair="edgekit_converters.sensitivity.tflite:TflitePair",
    layer_builder="edgekit_converters.prune.latency.tflite_layer:write_layer",
    layer_copies=1,
    takes_delegates=True,
    tensor_order="edgekit_converters.formats.tflite_metadata:signature",
)
