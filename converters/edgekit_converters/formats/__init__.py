"""Artifact formats: what each format can hold, and the functions that write, read and change its files.

A format is one file in this folder with a ``FORMAT``, and one line in ``FORMATS``. The record names the functions as
"module:function", so that reading it imports no toolchain. The other files here read and write TFLite and OpenVINO IR
for all stages.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.toolchain import Toolchain

FORMATS = {  # engine that runs the artifacts: "module:FORMAT"
    "litert": "edgekit_converters.formats.tflite:FORMAT",
    "openvino": "edgekit_converters.formats.ir:FORMAT",
}


def no_settings(_scheme: str, _precision: str, _device: str) -> dict[str, str]:
    """Return no settings: the engine computes in the same precision on every machine."""
    return {}


@dataclass(frozen=True)
class Candidates:
    """The recipes that ``--quantize auto`` tries, each list with the cheapest recipe first."""

    first: tuple[Recipe, ...]  # need no knowledge of the model; float32 is the reference
    small: tuple[Recipe, ...]  # smaller than the first ones, tried when size matters
    last: tuple[Recipe, ...]  # slower than int8 everywhere, tried when nothing else fits


@dataclass(frozen=True)
class Format:
    """One artifact format. Strings are "module:function"; (...) -> ... is what the function takes and returns."""

    engine: str  # a key of FORMATS and of edgekit_runtime.engines.ENGINES
    label: str  # in reports
    colour: str  # in charts, "#rrggbb"
    suffix: str  # of the file that the engine opens
    devices: tuple[str, ...]  # on which the engine can run an artifact
    toolchain: Toolchain  # that writes and runs the artifacts

    schemes: tuple[str, ...]  # keys of SCHEMES that an artifact can hold
    mixable_schemes: tuple[str, ...]  # of these, the ones that the rules of a recipe may mix in one artifact
    block_sizes: tuple[int, ...]  # how many 4-bit weights may share a scale; 0 is a whole channel
    corrections: tuple[str, ...]  # of CORRECTIONS, the ones that the quantizer can apply
    quantizes_outputs: bool  # whether the quantizer gives a model output a scale; else outputs stay in float
    candidates: Candidates

    lowerings: Mapping[str, str]  # framework of the source: (LoadedModel, folder) -> files
    lowest_version: str  # (path) -> the lowest version of the engine's library that opens the file, or None
    quantizer: str  # (QuantizeRequest, folder) -> files
    output_splitter: str  # (Artifact, splits, folder) -> (files, number of parts of each output)
    tracer: str  # (Artifact, inputs) -> Steps
    graph_reader: str  # (Artifact, samples: an array (n, *shape[1:]) an input) -> Graph
    value_reader: str  # (Artifact, samples) -> for each sample {tensor: its values}
    artifact_pair: str  # (SensitivityRequest, a set of node names a unit) -> ArtifactPair
    layer_builder: str  # (LayerTiming, path, int8=) -> files
    layer_copies: int  # how many copies of the layer the builder writes into one file

    tensor_order: str | None = None  # (path) -> Signature; None: the engine lists tensors in the source's order
    takes_delegates: bool = False  # whether the engine can hand operators to a delegate, such as Coral's
    engine_settings: Callable[[str, str, str], dict[str, str]] = no_settings  # (scheme, precision, device) -> settings


def format_of(engine: str) -> Format:
    """Return the format of the artifacts that an engine runs."""
    found: Format = pkgutil.resolve_name(FORMATS[engine])
    return found


def engines_for_framework(framework: str) -> tuple[str, ...]:
    """Return the engines that a framework's models can be lowered for."""
    return tuple(engine for engine in FORMATS if framework in format_of(engine).lowerings)


def engines_for_scheme(scheme: str) -> tuple[str, ...]:
    """Return the engines whose artifacts can hold a scheme."""
    return tuple(engine for engine in FORMATS if scheme in format_of(engine).schemes)
