"""Fused preprocessing equals the separate steps bit by bit, for chosen and for thousands of random cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.format.manifest import InputSpec, Preprocessing, TensorBinding
from edgekit_runtime.inference import preprocess, raw_input, tensor_io
from edgekit_runtime.inference.raw_input import raw_to_tensor

# Every byte in each of up to 4 channels, the channels out of step with one another: (1, 16, 16, C).
LEVELS = np.stack([np.roll(np.arange(256, dtype=np.uint8), 37 * c) for c in range(4)], axis=-1).reshape(1, 16, 16, 4)
IMAGENET = Preprocessing(None, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def sides(steps: Preprocessing | None, binding: TensorBinding, channels: int = 3, **how: Any) -> tuple[Any, Any]:
    layout = how.get("layout", "NHWC")
    shape = (1, 16, 16, channels) if layout == "NHWC" else (1, channels, 16, 16)
    return InputSpec("image", shape, how.get("dtype", "float32"), layout, steps), binding


def naive(spec: InputSpec, binding: TensorBinding, images: np.ndarray) -> np.ndarray:
    """Run the separate steps on the whole image."""
    moved = np.moveaxis(images, 3, 1) if spec.layout == "NCHW" else images
    prepared = preprocess.apply(spec.preprocessing or Preprocessing(), moved, spec.dtype, spec.layout)
    return tensor_io.to_tensor(spec, binding)(prepared)


def assert_equal(spec: InputSpec, binding: TensorBinding, images: np.ndarray) -> None:
    expected = naive(spec, binding, images)
    result = raw_to_tensor(spec, binding)(images)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(result, expected)


def quantized(dtype: str, scale: float, zero_point: int) -> TensorBinding:
    return TensorBinding(0, "x", dtype, scale, zero_point)


def kind(spec: InputSpec, binding: TensorBinding) -> str:
    """Return the method that was selected: the name of its function or class."""
    found = raw_input.fuse_preprocessing(spec, binding, tensor_io.value_converter(spec, binding))
    if found is None:
        return "chain"
    named = getattr(found, "__qualname__", type(found).__name__)
    return "_look_up" if named.endswith("take") else named.split(".")[0]


@pytest.mark.parametrize(
    ("steps", "binding", "way"),
    [
        (None, quantized("uint8", 1.0, 0), "_identity"),
        (Preprocessing(None, 1 / 255), quantized("uint8", 1 / 255, 0), "_identity"),
        (Preprocessing(None, 1 / 255), quantized("int8", 1 / 255, -128), "_flip_top_bit"),
        (Preprocessing(None, 1.0, (128.0,), (128.0,)), quantized("int8", 1 / 128, 0), "_flip_top_bit"),
        (IMAGENET, quantized("int8", 0.0187, -14), "_Linear"),
        (IMAGENET, quantized("uint8", 0.0187, 114), "_Linear"),
        (IMAGENET, quantized("int8", 0.01, 0), "_Linear"),  # saturates at both ends
        (IMAGENET, quantized("int16", 0.0005, 7), "_Linear"),
        (Preprocessing(None, 1 / 127.5, (1.0,)), quantized("int8", 2 / 255, 0), "_look_up"),  # ties, rounded to even
        (Preprocessing(None, 0.5, (0.0, 0.5, 0.0)), quantized("uint8", 1.0, 0), "_look_up"),
        (IMAGENET, TensorBinding(0, "x", "float32"), "chain"),
        (Preprocessing(None, 1e38), quantized("int8", 1.0, 0), "chain"),
    ],
)
def test_each_method_is_used_where_expected_and_equals_separate_steps(
    steps: Preprocessing | None, binding: TensorBinding, way: str
) -> None:
    spec, _ = sides(steps, binding)
    assert kind(spec, binding) == way
    if steps is not None and steps.scale == 1e38:
        with pytest.raises(InputMismatch, match="infinite"), np.errstate(over="ignore"):
            raw_to_tensor(spec, binding)(LEVELS[..., :3])
        return
    assert_equal(spec, binding, np.ascontiguousarray(LEVELS[..., :3]))
    assert_equal(spec, binding, LEVELS[..., :3])  # with gaps between its pixels
    assert_equal(spec, binding, LEVELS[:, ::-1, ::-1, 2::-1])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float32", "float16"])
def test_fused_preprocessing_equals_separate_steps_for_random_parameters(
    layout: str, channels: int, dtype: str
) -> None:
    rng = np.random.default_rng([channels, *map(ord, layout + dtype)])
    for _ in range(150):
        several = int(rng.choice([0, 1, channels]))
        scale = float(rng.choice([1.0, 1 / 255, 1 / 127.5, rng.uniform(1e-3, 2)]))
        largest = 255 * scale
        mean = tuple(float(v) for v in rng.choice([0.0, 0.5, 1.0, 127.5, rng.uniform(0, largest)], several))
        std = tuple(float(v) for v in rng.choice([1.0, 0.5, 127.5, rng.uniform(0.1, largest)], several))
        binding = TensorBinding(0, "x", dtype)
        if dtype[0] != "f":
            limits = np.iinfo(dtype)
            step = float(rng.choice([1 / 255, 2 / 255, 1.0, rng.uniform(1e-4, largest / 100)]))
            binding = quantized(dtype, step, int(rng.integers(limits.min, limits.max + 1)))
        spec, _ = sides(Preprocessing(None, scale, mean, std), binding, channels, layout=layout)
        assert_equal(spec, binding, LEVELS[..., :channels])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_an_integer_input_gets_the_rounded_values(dtype: str) -> None:
    spec, binding = sides(Preprocessing(None, 0.37, (11.0,)), TensorBinding(0, "x", dtype), dtype=dtype)
    assert_equal(spec, binding, LEVELS[..., :3])


def test_images_larger_than_a_block_are_computed_completely() -> None:
    spec = InputSpec("image", (1, 200, 300, 3), "float32", "NHWC", IMAGENET)
    binding = quantized("int8", 0.0187, -14)
    image = np.random.default_rng(3).integers(0, 256, spec.shape).astype(np.uint8)
    assert image.size > 3 * raw_input.BLOCK
    assert_equal(spec, binding, image)


def test_images_are_resized_before_the_fused_step() -> None:
    steps = Preprocessing((16, 16), IMAGENET.scale, IMAGENET.mean, IMAGENET.std)
    binding = quantized("int8", 0.0187, -14)
    image = np.random.default_rng(4).integers(0, 256, (1, 40, 30, 3)).astype(np.uint8)
    for layout in ("NHWC", "NCHW"):
        spec, _ = sides(steps, binding, layout=layout)
        assert_equal(spec, binding, image)


def test_the_image_is_not_changed() -> None:
    image = LEVELS[..., :3].copy()
    for scale, zero_point in ((1 / 255, -128), (0.0187, -14), (1.0, 0)):
        steps = IMAGENET if scale == 0.0187 else Preprocessing(None, 1 / 255)
        raw_to_tensor(*sides(steps, quantized("int8", scale, zero_point)))(image)
    np.testing.assert_array_equal(image, LEVELS[..., :3])
