"""What the sensor gave, through the declared preprocessing into the artifact's tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.format.manifest import Preprocessing
from edgekit_runtime.inference import preprocess
from edgekit_runtime.inference.lookup_table import channels_of, fold
from edgekit_runtime.inference.tensor_io import array_of, converter, named
from edgekit_runtime.record import replace

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import InputSpec, TensorBinding
    from edgekit_runtime.inference.tensor_io import Feed
    from edgekit_runtime.tensors import Array


def raw_feed(spec: InputSpec, binding: TensorBinding) -> Feed:
    """The way of one raw input: an image as uint8 (H, W, C) or (N, H, W, C), else numbers in the input's shape.

    Law: it gives what ``edges.feed`` gives for what ``preprocess.apply`` makes of the input, bit by bit.

    The function raises InputMismatch for what is no such image, or has another size where no resize is declared.
    """
    return _image_feed(spec, binding) if spec.layout else _numbers_feed(spec, binding)


def _numbers_feed(spec: InputSpec, binding: TensorBinding) -> Feed:
    steps, convert = spec.preprocessing or Preprocessing(), converter(spec, binding)

    def way(value: Any) -> Array:
        array = _numbers(spec, value)
        _refuse_shape(spec, array.shape)
        return convert(preprocess.apply(steps, array, spec.dtype))

    return way


def _image_feed(spec: InputSpec, binding: TensorBinding) -> Feed:
    steps, convert = spec.preprocessing or Preprocessing(), converter(spec, binding)
    rest = replace(steps, resize=None)
    first = spec.layout == "NCHW"
    folded = fold(spec, binding, convert)

    def way(value: Any) -> Array:
        images = _images(spec, value)
        if steps.resize is not None:
            images = preprocess.resize(images, steps.resize)
        if folded is None:
            images = np.moveaxis(images, 3, 1) if first else images
            _refuse_shape(spec, images.shape)
            return convert(preprocess.apply(rest, images, spec.dtype, spec.layout))
        tensor = folded(images)
        tensor = np.ascontiguousarray(np.moveaxis(tensor, 3, 1)) if first else tensor
        _refuse_shape(spec, tensor.shape)
        return tensor

    return way


def _numbers(spec: InputSpec, value: Any) -> Array:
    array = value if type(value) is np.ndarray else array_of(spec, value)
    if array.dtype.kind not in "biuf":
        raise InputMismatch(f"input {spec.name!r}: raw values must be numbers, not {array.dtype}")
    return array


def _images(spec: InputSpec, value: Any) -> Array:
    array = _numbers(spec, value)
    images = array[np.newaxis] if array.ndim == 3 else array
    channels = channels_of(spec)
    if images.ndim != 4 or images.shape[3] != channels or images.dtype != np.uint8 or 0 in images.shape:
        raise InputMismatch(
            f"input {spec.name!r}: a raw image must be uint8 (height, width, {channels}) or "
            f"(1, height, width, {channels}), there came {array.dtype} {list(array.shape)}"
        )
    return images


def _refuse_shape(spec: InputSpec, shape: tuple[int, ...]) -> None:
    if shape == spec.shape:
        return
    resized = spec.preprocessing is not None and spec.preprocessing.resize is not None
    raise InputMismatch(f"{named(spec)}{'' if resized else ', no resize is declared'}: its shape is {list(shape)}")
