"""A C header and source for TFLite Micro: the model as an aligned array, its tensors, and the size of its arena.

The files are valid C11 and C++11. Only a variant for LiteRT on the CPU is a plain ``.tflite``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.package.arena import ALIGNMENT_BYTES, Arena, estimate
from edgekit.package.bundle_contents import BundleContents
from edgekit.package.request import PackageRequest
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec, JoinedBinding, Manifest, OutputSpec, TensorBinding, Variant

HEADER = """\
// The model {model} {version}, variant {variant}; written by edgekit.
#ifndef {guard}_MODEL_H_
#define {guard}_MODEL_H_

#ifdef __cplusplus
extern "C" {{
#endif

// The .tflite, aligned to {alignment} bytes. It can stay in flash, since it is read in place.
#define {guard}_MODEL_BYTES {size}u
extern const unsigned char {word}_model[{guard}_MODEL_BYTES];

// Estimated for tflite::MicroInterpreter: {activations} bytes of activations and {persistent} persistent bytes. Kernels
// may need more: measure with MicroInterpreter::arena_used_bytes() on the device.
#define {guard}_ARENA_BYTES {arena}u

{tensor_lines}
#ifdef __cplusplus
}}
#endif

#endif  // {guard}_MODEL_H_
"""
SOURCE = """\
#include "{word}_model.h"

#ifdef __cplusplus
alignas({alignment})
#else
_Alignas({alignment})
#endif
    const unsigned char {word}_model[{guard}_MODEL_BYTES] = {{
"""
ROW_BYTES = 16  # bytes per line


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write a folder with the header and the source.

    Raises:
        PlanError: the bundle has no such variant, or no plain ``.tflite``.
        ConversionError: the ``.tflite`` cannot be read.
    """
    variant = _variant(contents, request.variant)
    data = contents.read(variant.files[0])
    arena = estimate(data)
    word = re.sub(r"\W", "_", request.name)
    word = f"m{word}" if word[0].isdigit() else word
    names = {"word": word, "guard": word.upper(), "alignment": ALIGNMENT_BYTES}
    out.mkdir()
    with (out / f"{word}_model.c").open("w", encoding="utf-8") as file:
        file.write(SOURCE.format(**names))
        file.writelines(_rows(data))
        file.write("};\n")
    (out / f"{word}_model.h").write_text(_header(request, contents.manifest, variant, data, arena, names), "utf-8")
    return [f"{variant.name}: {len(data):,} bytes, arena about {arena.total_bytes:,} bytes; measure it on the device"]


def _variant(contents: BundleContents, wanted: str) -> Variant:
    """Return the variant of this name, else the smallest. Only plain ``.tflite`` files count."""
    sizes = {path: piece.size_bytes for path, piece in contents.files.items()}
    plain = [each for each in contents.manifest.variants if each.engine == "litert" and each.delegate is None]
    found = [each for each in plain if wanted in ("", each.name)]
    if not found:
        missing = f"no variant {wanted!r} that is a plain .tflite" if wanted else "no variant that is a plain .tflite"
        names = ", ".join(each.name for each in plain) or "none"
        raise PlanError(f"the bundle has {missing}; it has {names}: convert with --device of a board that runs LiteRT")
    smallest = min(found, key=lambda each: sizes[each.files[0]])
    if any(file.encryption for file in contents.manifest.files if file.path == smallest.files[0]):
        raise PlanError(f"{smallest.name} is encrypted, which TFLite Micro cannot read: package the unencrypted bundle")
    return smallest


def _header(
    request: PackageRequest, manifest: Manifest, variant: Variant, data: bytes, arena: Arena, names: dict[str, object]
) -> str:
    lines = [*_tensors("INPUT", variant.inputs, manifest, names), *_tensors("OUTPUT", variant.outputs, manifest, names)]
    return HEADER.format(
        **names,
        model=_comment(manifest.model_name),
        version=request.version,
        variant=variant.name,
        size=len(data),
        activations=arena.activation_bytes,
        persistent=arena.persistent_bytes,
        arena=arena.total_bytes,
        tensor_lines="".join(lines),
    )


def _tensors(
    kind: str, bindings: tuple[TensorBinding | JoinedBinding, ...], manifest: Manifest, names: dict[str, object]
) -> Iterator[str]:
    """Yield comments and macros for each tensor: real = (quantized - ZERO_POINT) * SCALE."""
    specs: Sequence[InputSpec | OutputSpec] = manifest.inputs if kind == "INPUT" else manifest.outputs
    for spec, binding in zip(specs, bindings, strict=True):
        for part in binding.parts:
            macro = f"{names['guard']}_{kind}_{part.index}"
            shape = "x".join(map(str, spec.shape))
            yield f"// {kind.lower()} {part.index}: {_comment(spec.name)}, {shape} {part.dtype}\n"
            if part.scale is not None:
                yield f"#define {macro}_SCALE {float(part.scale)!r}f\n#define {macro}_ZERO_POINT ({part.zero_point})\n"


def _comment(text: str) -> str:
    """Return a text that cannot end a C comment."""
    return text.encode("ascii", "replace").decode().replace("\\", "/").replace("??", "? ?")


def _rows(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), ROW_BYTES):
        yield "    " + "".join(f"0x{byte:02x}, " for byte in data[start : start + ROW_BYTES]).rstrip() + "\n"
