"""Convert samples to the shape of an input.

A sample that fits stays unchanged. The channels of an image are moved if it fits only then, and a grey image without a
channel axis gets one; notes list both. If several conversions fit, the user has to choose with ``--layout``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec
from edgekit_runtime.inference import preprocess

LAYOUTS = ("NHWC", "NCHW")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """The conversion of a set's samples for an input, chosen for the first sample and used for all."""

    spec: InputSpec
    sample_layout: str | None  # None: the sample stays unchanged
    input_layout: str | None
    grey: bool = False  # samples are (H, W): a channel axis is added last

    def apply(self, samples: Array, name: str) -> Array:
        """Convert ``samples`` (k, *sample shape) to (k, *input shape without batch) of the same dtype.

        Raises:
            DataError: their shape differs from that of the first sample; the message starts with ``name``.
        """
        if not self._takes(samples.shape[1:]):
            raise DataError(_wrong_shape(self.spec, samples.shape[1:], name))
        if not self.sample_layout:
            return samples
        whole = samples[..., np.newaxis] if self.grey else samples
        last = np.moveaxis(whole, 1, -1) if self.sample_layout == "NCHW" else whole  # (k, H, W, C)
        size = _resize(self.spec)
        if size:
            resized = preprocess.resize(last, size)
            last = resized if resized.dtype == np.uint8 else resized.astype(np.float32, copy=False)
        return np.moveaxis(last, -1, 1) if self.input_layout == "NCHW" else last

    def _takes(self, shape: Shape) -> bool:
        if not self.sample_layout or not self.input_layout:
            return shape == self.spec.shape[1:]
        return len(shape) == (2 if self.grey else 3) and _fits(
            self.spec, (*shape, 1) if self.grey else shape, self.sample_layout, self.input_layout
        )

    def resizes(self, shape: Shape) -> bool:
        """Return whether samples of ``shape`` (no batch) have to be resized."""
        size = _resize(self.spec)
        if not size or not self.sample_layout:
            return False
        return shape[:2] != size if self.grey else _height_width_channels(shape, self.sample_layout)[:2] != size

    def notes(self, *, resized: bool = False) -> tuple[str, ...]:
        """Return notes on the conversion; ``resized`` tells whether a sample was resized."""
        found = []
        if self.grey:
            found.append(f"input {self.spec.name!r}: channel axis added: samples are grey images without one")
        elif self.sample_layout != self.input_layout:
            found.append(
                f"input {self.spec.name!r}: channels moved: samples are {self.sample_layout}, "
                f"the input is {self.input_layout}"
            )
        size = _resize(self.spec)
        if size and resized:
            found.append(f"input {self.spec.name!r}: samples resized to {size[0]}x{size[1]}")
        return tuple(found)


def choose(spec: InputSpec, shape: Shape, layout: str | None, name: str) -> Fit:
    """Choose how samples of ``shape`` (no batch) fit the input; ``layout`` is that of the samples, if known.

    Raises:
        DataError: no conversion fits, or several do and ``layout`` is unknown.
    """
    if len(spec.shape) != 4:
        if shape != spec.shape[1:]:
            raise DataError(_wrong_shape(spec, shape, name))
        return Fit(spec, None, None)
    grey = len(shape) == 2
    if grey:
        shape, layout = (*shape, 1), "NHWC"
    ways = _ways(spec, shape, layout)
    if not ways and layout and _ways(spec, shape, None):
        raise DataError(
            f"{name}: the sample is {_text(shape)}, which does not fit --layout {layout}: "
            f"input {spec.name!r} wants {_text(spec.shape[1:])}; leave --layout out, or give the other one"
        )
    if not ways:
        raise DataError(_wrong_shape(spec, shape[:2] if grey else shape, name))
    if len(ways) > 1 and layout is None:
        raise DataError(
            f"{name}: the sample is {_text(shape)}, which fits input {spec.name!r} {_text(spec.shape[1:])} "
            f"with channels first and with channels last; choose with --layout NCHW or NHWC"
        )
    return Fit(spec, *ways[0], grey=grey)


def _ways(spec: InputSpec, shape: Shape, layout: str | None) -> list[tuple[str, str]]:
    """Return every (sample layout, input layout) that fits and gives other values, the unchanged one first."""
    if len(shape) != 3:
        return []
    allowed = [
        (sample, wanted)
        for sample in ((layout,) if layout else LAYOUTS)
        for wanted in ((spec.layout,) if spec.layout else LAYOUTS)
        if _fits(spec, shape, sample, wanted)
    ]
    same = [way for way in allowed if way[0] == way[1]]
    if not _resize(spec):
        same = same[:1]  # the sample stays unchanged in all of them
    return same + [way for way in allowed if way[0] != way[1]]


def _fits(spec: InputSpec, shape: Shape, sample_layout: str, input_layout: str) -> bool:
    *sample_size, sample_channels = _height_width_channels(shape, sample_layout)
    *size, channels = _height_width_channels(spec.shape[1:], input_layout)
    return sample_channels == channels and size == list(_resize(spec) or sample_size)


def _height_width_channels(shape: Shape, layout: str) -> Shape:
    return shape if layout == "NHWC" else (shape[1], shape[2], shape[0])


def _resize(spec: InputSpec) -> tuple[int, int] | None:
    return spec.preprocessing.resize if spec.preprocessing else None


def _wrong_shape(spec: InputSpec, shape: Shape, name: str) -> str:
    layout = f" {spec.layout}" if spec.layout else ""
    wanted = f"{_text(spec.shape[1:])}{layout}"
    message = f"{name}: the sample is {_text(shape)}, input {spec.name!r} wants {wanted}"
    size = _resize(spec)
    if size:
        return f"{message}; --resize makes images {size[0]}x{size[1]}; this size and the channels must match the input"
    if len(spec.shape) == 4 and len(shape) in (2, 3):
        height, width, _ = _height_width_channels(spec.shape[1:], spec.layout or "NHWC")
        return f"{message}; images of another size need --resize {height},{width}"
    return f"{message}; the first axis of an array counts the samples"


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"
