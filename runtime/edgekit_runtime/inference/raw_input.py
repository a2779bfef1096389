"""Convert raw sensor data to the artifact's tensor, with the declared preprocessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.format.manifest import Preprocessing
from edgekit_runtime.inference import preprocess
from edgekit_runtime.inference.lookup_table import channels_of, fuse_preprocessing
from edgekit_runtime.inference.tensor_io import as_array, describe, value_converter
from edgekit_runtime.record import replace

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import InputSpec, TensorBinding
    from edgekit_runtime.inference.tensor_io import ToTensor
    from edgekit_runtime.tensors import Array


def raw_to_tensor(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    """Return the conversion of a raw input: an image as uint8 (H, W, C) or (1, H, W, C), else numbers in its shape.

    The result equals, bit by bit, that of ``preprocess.apply`` followed by ``tensor_io.to_tensor``.

    The conversion raises InputMismatch for another kind of value, and for another size if no resize is declared.
    """
    return _image_converter(spec, binding) if spec.layout else _number_converter(spec, binding)


def _number_converter(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    steps, convert = spec.preprocessing or Preprocessing(), value_converter(spec, binding)

    def convert_numbers(value: Any) -> Array:
        array = _numbers(spec, value)
        _check_shape(spec, array.shape)
        return convert(preprocess.apply(steps, array, spec.dtype))

    return convert_numbers


def _image_converter(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    steps, convert = spec.preprocessing or Preprocessing(), value_converter(spec, binding)
    normalization = replace(steps, resize=None)
    channels_first = spec.layout == "NCHW"
    fused = fuse_preprocessing(spec, binding, convert)

    def convert_image(value: Any) -> Array:
        images = _images(spec, value)
        if steps.resize is not None:
            images = preprocess.resize(images, steps.resize)
        if fused is None:
            images = np.moveaxis(images, 3, 1) if channels_first else images
            _check_shape(spec, images.shape)
            return convert(preprocess.apply(normalization, images, spec.dtype, spec.layout))
        tensor = fused(images)
        tensor = np.ascontiguousarray(np.moveaxis(tensor, 3, 1)) if channels_first else tensor
        _check_shape(spec, tensor.shape)
        return tensor

    return convert_image


def _numbers(spec: InputSpec, value: Any) -> Array:
    array = value if type(value) is np.ndarray else as_array(spec, value)
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
            f"(1, height, width, {channels}), but got {array.dtype} {list(array.shape)}"
        )
    return images


def _check_shape(spec: InputSpec, shape: tuple[int, ...]) -> None:
    if shape == spec.shape:
        return
    resized = spec.preprocessing is not None and spec.preprocessing.resize is not None
    raise InputMismatch(f"{describe(spec)}{'' if resized else ', no resize is declared'}: its shape is {list(shape)}")
