"""The layout rule."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_converters.data.layout import choose
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, Preprocessing

NOTHING = ()
MOVED_FIRST = ("input 'x': channels moved: samples are NHWC, the input is NCHW",)
MOVED_LAST = ("input 'x': channels moved: samples are NCHW, the input is NHWC",)
ADDED = ("input 'x': channel axis added: samples are grey images without one",)


def counted(*shape: int) -> np.ndarray:
    """Two samples of a shape, every value another."""
    return np.arange(2 * int(np.prod(shape)), dtype=np.int32).reshape(2, *shape)


@pytest.mark.parametrize(
    ("input_shape", "input_layout", "sample", "axes", "notes"),
    [
        ((6, 8, 3), "NHWC", (6, 8, 3), (0, 1, 2, 3), NOTHING),
        ((3, 6, 8), "NCHW", (3, 6, 8), (0, 1, 2, 3), NOTHING),
        ((3, 6, 8), "NCHW", (6, 8, 3), (0, 3, 1, 2), MOVED_FIRST),
        ((6, 8, 3), "NHWC", (3, 6, 8), (0, 2, 3, 1), MOVED_LAST),
        ((6, 8, 3), None, (6, 8, 3), (0, 1, 2, 3), NOTHING),
        ((6, 8, 3), None, (3, 6, 8), (0, 2, 3, 1), MOVED_LAST),
        ((49, 10, 1), None, (49, 10, 1), (0, 1, 2, 3), NOTHING),
        ((640,), None, (640,), (0, 1), NOTHING),
        ((), None, (), (0,), NOTHING),
        ((2, 3, 4, 5), None, (2, 3, 4, 5), (0, 1, 2, 3, 4), NOTHING),
    ],
)
def test_samples_fit_as_they_are_or_with_channels_moved(input_shape, input_layout, sample, axes, notes):
    spec = InputSpec("x", (1, *input_shape), "float32", input_layout)
    way = choose(spec, sample, None, "sample 0")
    assert np.array_equal(way.apply(counted(*sample), "sample 0"), counted(*sample).transpose(axes))
    assert way.notes() == notes


@pytest.mark.parametrize(("shape", "layout"), [((6, 8, 1), "NHWC"), ((1, 6, 8), "NCHW"), ((6, 8, 1), None)])
def test_grey_images_get_their_channel(shape, layout):
    way = choose(InputSpec("x", (1, *shape), "float32", layout), (6, 8), None, "sample 0")
    assert np.array_equal(way.apply(counted(6, 8), "sample 0"), counted(*shape))
    assert way.notes() == ADDED


@pytest.mark.parametrize("input_layout", ["NHWC", "NCHW", None])
def test_a_cube_is_ambiguous(input_layout):
    spec = InputSpec("x", (1, 3, 3, 3), "float32", input_layout)
    with pytest.raises(DataError, match=r"sample 0.*'x'.*--layout NCHW or NHWC"):
        choose(spec, (3, 3, 3), None, "sample 0")


@pytest.mark.parametrize(
    ("input_layout", "layout", "axes"),
    [
        ("NHWC", "NHWC", (0, 1, 2, 3)),
        ("NHWC", "NCHW", (0, 2, 3, 1)),
        ("NCHW", "NHWC", (0, 3, 1, 2)),
        ("NCHW", "NCHW", (0, 1, 2, 3)),
    ],
)
def test_the_given_layout_settles_it(input_layout, layout, axes):
    way = choose(InputSpec("x", (1, 3, 3, 3), "float32", input_layout), (3, 3, 3), layout, "sample 0")
    assert np.array_equal(way.apply(counted(3, 3, 3), "sample 0"), counted(3, 3, 3).transpose(axes))


def test_the_layout_option_is_respected():
    spec = InputSpec("x", (1, 6, 8, 3), "float32", "NHWC")
    with pytest.raises(DataError, match="sample is 6x8x3, which does not fit --layout NCHW"):
        choose(spec, (6, 8, 3), "NCHW", "sample 0")
    with pytest.raises(DataError, match=r"sample is 5x8x3, input 'x' wants 6x8x3 NHWC; .*--resize"):
        choose(spec, (5, 8, 3), "NCHW", "sample 0")


@pytest.mark.parametrize(("layout", "sample"), [("NHWC", (6, 8, 3)), ("NCHW", (3, 6, 8)), (None, (6, 8))])
def test_resizing_is_noted_only_if_the_size_differs(layout, sample):
    spec = InputSpec("x", (1, 6, 8, 3 if layout else 1), "float32", "NHWC", Preprocessing(resize=(6, 8)))
    way = choose(spec, sample, layout, "sample 0")
    assert not way.resizes(sample)
    assert way.resizes(tuple(size * 2 if size in (6, 8) else size for size in sample))
    assert not [note for note in way.notes() if "resized" in note]
    assert way.notes(resized=True)[-1] == "input 'x': samples resized to 6x8"


@pytest.mark.parametrize("sample", [(12, 16, 3), (3, 12, 16)])
@pytest.mark.parametrize(("wanted", "layout"), [((6, 8, 3), "NHWC"), ((3, 6, 8), "NCHW")])
def test_images_are_resized_in_either_layout(sample, wanted, layout):
    spec = InputSpec("x", (1, *wanted), "float32", layout, Preprocessing(resize=(6, 8)))
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), dtype=np.uint8)
    array = image if sample[2] == 3 else np.moveaxis(image, -1, 1)
    result = choose(spec, sample, None, "sample 0").apply(array, "sample 0")
    assert result.shape == (1, *wanted)
    assert result.dtype == np.uint8
    last = result if layout == "NHWC" else np.moveaxis(result, 1, -1)
    means = image.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(last[0].astype(float) - means).mean() < 30  # near the means of 2x2, in the right places
    assert abs(last.mean() - means.mean()) < 2


def test_resizing_gives_one_dtype_for_all_sizes():
    spec = InputSpec("x", (1, 6, 8, 3), "float32", "NHWC", Preprocessing(resize=(6, 8)))
    way = choose(spec, (6, 8, 3), None, "sample 0")
    found = {way.apply(np.zeros((1, *size, 3), np.float64), "").dtype for size in [(6, 8), (12, 8)]}
    assert found == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("shape", "resize", "sample", "message"),
    [
        ((6, 8, 3), None, (12, 16, 3), r"12x16x3, input 'x' wants 6x8x3 NHWC; .*--resize 6,8"),
        ((6, 8, 3), None, (6, 8), r"the sample is 6x8, input 'x' wants 6x8x3"),
        ((6, 8, 3), None, (48,), r"the sample is 48,"),
        ((6, 8, 3), (6, 9), (12, 16, 3), r"--resize makes images 6x9"),
        ((6, 8, 3), (6, 8), (12, 16, 1), r"the channels must match"),
    ],
)
def test_a_wrong_shape_is_refused_with_both_shapes(shape, resize, sample, message):
    preprocessing = Preprocessing(resize=resize) if resize else None
    spec = InputSpec("x", (1, *shape), "float32", "NHWC", preprocessing)
    with pytest.raises(DataError, match=message):
        choose(spec, sample, None, "sample 0")


def test_inputs_other_than_images_must_fit_unchanged():
    with pytest.raises(DataError, match="sample 0: the sample is 4x5, input 'x' wants 5x4; the first axis"):
        choose(InputSpec("x", (1, 5, 4), "float32"), (4, 5), None, "sample 0")


def test_later_samples_must_fit_as_the_first_did():
    way = choose(InputSpec("x", (1, 3, 6, 8), "float32", "NCHW"), (6, 8, 3), None, "sample 0")
    with pytest.raises(DataError, match="sample 9: the sample is 3x6x8"):
        way.apply(counted(3, 6, 8), "sample 9")
