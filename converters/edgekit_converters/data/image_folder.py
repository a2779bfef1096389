"""Read a folder of images: a subfolder for each class, or images without labels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgekit_converters.data.samples import Array, Block, DataRequest, Samples, spread_note, spread_positions
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

ACCEPTS = "a folder with one folder of images a class"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels of the input → what Pillow turns the image into


def reads(spec: str) -> bool:
    """Return whether the spec names a folder."""
    return Path(spec).is_dir()


def read(request: DataRequest) -> Samples:
    """Read images as uint8 NHWC, grey or colour by the input's channels.

    Classes are numbered in the order of their folder names.

    Images are not rotated by their EXIF tag, as in the loaders that models are trained with. Files without an image
    suffix are skipped and counted in a note; hidden files are skipped without a note.

    Raises:
        DataError: Pillow is missing, there are no images, images lie beside class folders, the model does not
            have one image input, or (while iterating) a file cannot be decoded.
    """
    folder = Path(request.spec)
    mode = _mode(request.inputs, folder)
    _require_pillow()
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _visible(entry)))
    images, skipped = _list(folder, classes)
    chosen = [images[index] for index in spread_positions(len(images), request.samples)]
    return Samples(
        blocks=_blocks(chosen, mode, labelled=bool(classes)),
        layout="NHWC",
        classes=classes,
        notes=(*spread_note(len(chosen), len(images)), *_notes(folder, classes, images, skipped)),
    )


def _mode(inputs: tuple[InputSpec, ...], folder: Path) -> str:
    """Return Pillow's mode for the one image input."""
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise DataError(f"{folder}: a folder of images is for one image input; the model has {found}")
    axes = {"NHWC": (3,), "NCHW": (1,), None: (3, 1)}[inputs[0].layout]
    for axis in axes:
        if shape[axis] in MODES:
            return MODES[shape[axis]]
    raise DataError(f"{folder}: images have 1, 3 or 4 channels, input {inputs[0].name!r} {shape} has others")


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401 - only whether it is there; a folder of images alone needs it
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install pillow") from error


def _list(folder: Path, classes: tuple[str, ...]) -> tuple[list[tuple[Path, int]], int]:
    """Return every image with its class index, in order of class and name, and the number of other files."""
    loose = [entry for entry in folder.iterdir() if entry.is_file() and _visible(entry)]
    if classes and any(_is_image(entry) for entry in loose):
        raise DataError(
            f"{folder}: there are images beside class folders; move them into a class folder, or out of this folder"
        )
    found = [
        (entry, index)
        for index, name in enumerate(classes)
        for entry in sorted((folder / name).iterdir())
        if entry.is_file() and _visible(entry)
    ]
    files = found if classes else [(entry, 0) for entry in sorted(loose)]
    images = [(path, index) for path, index in files if _is_image(path)]
    return images, len(files) - len(images)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _notes(folder: Path, classes: tuple[str, ...], images: list[tuple[Path, int]], skipped: int) -> Iterator[str]:
    if classes:
        shown = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
        yield f"{len(classes)} classes, numbered in the order of their folder names: {shown}"
    else:
        yield "no class folders, so the images have no labels"
    filled = {label for _, label in images}
    empty = [name for index, name in enumerate(classes) if index not in filled]
    if empty:
        yield f"class folders without images: {', '.join(empty)}"
    if skipped:
        yield f"files in {folder} that are no images, skipped: {skipped}"


def _blocks(images: list[tuple[Path, int]], mode: str, labelled: bool) -> Iterator[Block]:
    for path, label in images:
        yield Block((_decode(path, mode),), np.array([label]) if labelled else None, (str(path),))


def _decode(path: Path, mode: str) -> Array:
    """Return an image as (1, H, W, C) uint8."""
    from PIL import Image

    with _decodable(path), Image.open(path) as image:
        if image.mode == "F" or image.mode.startswith("I"):
            raise DataError(f"{path}: more than 8 bits a channel; save such images as arrays in a .npz")
        pixels = np.asarray(image.convert(mode))
    return pixels.reshape(1, *pixels.shape[:2], -1)


@contextmanager
def _decodable(path: Path) -> Iterator[None]:
    from PIL import Image

    try:
        yield
    except (OSError, ValueError, EOFError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded as an image: {error}; remove or replace it") from error
