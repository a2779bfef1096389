"""The layout rule: how a sample comes to have the shape an input wants.

A sample that fits as it is, is taken as it is. An image that fits only with its channels moved has them
moved, and a grey one without a channel axis gets one; both are said. Where more than one way fits, the user
is asked.
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
    """The one way a data set's samples become an input's: chosen on the first sample, kept for all."""

    spec: InputSpec
    sample_layout: str | None  # None where the sample is taken as it is
    input_layout: str | None
    grey: bool = False  # samples are (H, W): a channel axis is added last

    def apply(self, samples: Array, name: str) -> Array:
        """Bring ``samples`` (k, *sample shape) to (k, *input shape without batch), keeping their dtype.

        Raises:
            DataError: they have another shape than the first sample promised; ``name`` says which they are.
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
        """Whether samples of ``shape`` (no batch) have another size than the input."""
        size = _resize(self.spec)
        if not size or not self.sample_layout:
            return False
        return shape[:2] != size if self.grey else _height_width_channels(shape, self.sample_layout)[:2] != size

    def notes(self, *, resized: bool = False) -> tuple[str, ...]:
        """What is done to the samples, for people; ``resized`` says whether any had another size."""
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
    """Choose how samples of ``shape`` (no batch) fit the input; ``layout`` is theirs, where it is known.

    Raises:
        DataError: no way fits, or more than one does and ``layout`` does not settle it.
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
            f"{name}: the sample is {_text(shape)}, which has not the layout {layout} that --layout says "
            f"where input {spec.name!r} wants {_text(spec.shape[1:])}; leave --layout out, or say the other"
        )
    if not ways:
        raise DataError(_wrong_shape(spec, shape[:2] if grey else shape, name))
    if len(ways) > 1 and layout is None:
        raise DataError(
            f"{name}: the sample is {_text(shape)}, which fits input {spec.name!r} {_text(spec.shape[1:])} "
            f"with channels first and with channels last; say which it has with --layout NCHW or NHWC"
        )
    return Fit(spec, *ways[0], grey=grey)


def _ways(spec: InputSpec, shape: Shape, layout: str | None) -> list[tuple[str, str]]:
    """Every (sample layout, input layout) that fits and differs in what it does, as-it-is first."""
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
        same = same[:1]  # nothing is done to the sample, so what its axes are called does not matter
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
        return f"{message}; --resize makes images {size[0]}x{size[1]}, which and whose channels must match"
    if len(spec.shape) == 4 and len(shape) in (2, 3):
        height, width, _ = _height_width_channels(spec.shape[1:], spec.layout or "NHWC")
        return f"{message}; images of another size need --resize {height},{width}"
    return f"{message}; the first axis of an array counts the samples"


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"
