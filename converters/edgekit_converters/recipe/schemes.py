"""The quantization schemes: names, aliases, and the signal-to-noise ratio that an artifact must reach."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit_runtime.errors import PlanError


@dataclass(frozen=True)
class Scheme:
    """One way to store and compute a model."""

    name: str
    calibrated: bool  # needs calibration data
    floor_db: float  # signal-to-noise ratio against the source, below which an artifact is rejected


# Float artifacts must match. Integer floors separate quantization noise from errors: the worst of the tested models
# (ResNet-8, ResNet-20, DS-CNN, the ad01 autoencoder, MobileNetV2) has 16.7 dB in int8-static, 21.7 with integer weights
# only and 26.9 in int16x8; permuted or transposed constants, or scales wrong by half, give less than 10. Between these,
# with an error below a third of the signal, only accuracy on evaluation data tells. With 4 bits good models have
# 10.7 dB; ResNet-8 in TFLite has 1.2, predicts another class for half of the samples, and is rejected.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", False, 60.0),
        Scheme("float16", False, 40.0),
        Scheme("int16x8-static", True, 15.0),
        Scheme("int8-weights", False, 15.0),
        Scheme("int4-weights", False, 6.0),
        Scheme("int8-dynamic", False, 15.0),
        Scheme("int8-static", True, 10.0),
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

# From the most to the least precise; the least precise scheme in an artifact decides how it is verified and run.
COARSER = (
    *("float32", "float16", "int8-weights", "int4-weights"),
    *("int8-dynamic", "int16x8-static", "int8-static"),
)


def scheme(name: str) -> Scheme:
    """Return the scheme of a name or an alias.

    Raises:
        PlanError: the name is unknown.
    """
    found = SCHEMES.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        raise PlanError(
            f"unknown quantization scheme {name!r}; known: {', '.join(SCHEMES)} "
            f"(also {', '.join(f'{alias} = {full}' for alias, full in ALIASES.items())})"
        )
    return found
