"""The quantization schemes: names, the names users bring, who can do them, and how close they must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit_runtime.errors import PlanError


@dataclass(frozen=True)
class Scheme:
    """One way to store and compute a model."""

    name: str
    engines: tuple[str, ...]  # whose format can hold it
    calibrated: bool  # needs calibration data
    floor_db: float  # signal-to-noise ratio against the source below which the artifact is refused


# Float floors are the contract. Integer floors separate "quantized" from "broken": the worst of the real models tried
# (ResNet-8, ResNet-20, DS-CNN, the ad01 autoencoder, MobileNetV2) keeps 16.7 dB in int8-static, 21.7 with integer
# weights alone and 26.9 in int16x8; permuted or transposed constants and scales off by half leave less than 10. What
# lies between, an error below a third of the signal, only accuracy on evaluation data can judge. With 4 bits the good
# ones keep 10.7 dB; ResNet-8 in TFLite keeps 1.2, gives other answers than before in half of all cases, and is refused.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", ("litert", "openvino"), False, 60.0),
        Scheme("float16", ("litert", "openvino"), False, 40.0),
        Scheme("int16x8-static", ("litert",), True, 15.0),
        Scheme("int8-weights", ("litert", "openvino"), False, 15.0),
        Scheme("int4-weights", ("litert", "openvino"), False, 6.0),
        Scheme("int8-dynamic", ("litert",), False, 15.0),
        Scheme("int8-static", ("litert", "openvino"), True, 10.0),
    )
}

ALIASES = {
    "fp32": "float32",
    "f32": "float32",
    "none": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "int8": "int8-static",
    "w8a8": "int8-static",
    "full-int8": "int8-static",
    "dynamic": "int8-dynamic",
    "w8": "int8-weights",
    "w8a32": "int8-weights",
    "int4": "int4-weights",
    "w4": "int4-weights",
    "w4a16": "int4-weights",
    "int16x8": "int16x8-static",
    "w8a16": "int16x8-static",
}

# What the rules of a recipe may mix in one artifact. LiteRT runs all of its schemes side by side; OpenVINO halves the
# weights of a whole file or of none.
MIXED = {
    "litert": tuple(name for name, scheme in SCHEMES.items() if "litert" in scheme.engines),
    "openvino": ("float32", "int8-weights", "int4-weights", "int8-static"),
}
# From the finest to the coarsest arithmetic: what is verified of an artifact, and how it is run, goes by the coarsest.
COARSER = (
    *("float32", "float16", "int8-weights", "int4-weights"),
    *("int8-dynamic", "int16x8-static", "int8-static"),
)
# How many weights share a scale in 4 bits; 0 is a whole channel. AI Edge Quantizer has blocks for activations that are
# quantized on the way alone, where they measured no better than channels.
BLOCK_SIZES = {"litert": (0,), "openvino": (0, 32, 64, 128)}


def refuse_mixture(engine: str, names: Sequence[str], block_size: int = 0) -> None:
    """Refuse what one artifact of an engine cannot be: ``names`` are the schemes of a recipe, its own first.

    Raises:
        PlanError: saying what it can be.
    """
    lacking = [name for name in names if engine not in SCHEMES[name].engines]
    if lacking:
        able = ", ".join(name for name, one in SCHEMES.items() if engine in one.engines)
        raise PlanError(f"{engine} cannot do {lacking[0]}; it can do {able}")
    unmixed = [name for name in names if name not in MIXED[engine]]
    if len(set(names)) > 1 and unmixed:
        raise PlanError(
            f"{engine} cannot mix {unmixed[0]} with {next(name for name in names if name != unmixed[0])} in one "
            f"artifact; it can mix {', '.join(MIXED[engine])}"
        )
    coarsest = max(names, key=COARSER.index)
    if coarsest != names[0]:
        raise PlanError(
            f'a recipe\'s own scheme must be its coarsest: say scheme = "{coarsest}", and select in rules what is '
            f"to be {names[0]}"
        )
    if block_size not in BLOCK_SIZES[engine]:
        able = ", ".join(map(str, BLOCK_SIZES[engine]))
        raise PlanError(f"{engine} cannot do block_size {block_size}; it can do {able} (0 is a whole channel)")


def scheme(name: str) -> Scheme:
    """Return the scheme of a name or of a name users bring.

    Raises:
        PlanError: nobody knows the name.
    """
    found = SCHEMES.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        raise PlanError(
            f"unknown quantization scheme {name!r}; known: {', '.join(SCHEMES)} "
            f"(also {', '.join(f'{alias} = {full}' for alias, full in ALIASES.items())})"
        )
    return found
