"""What holds for all data, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataRequest, batches, labels, prepare
from edgekit_converters.data.samples import spread_positions
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, Preprocessing


def test_samples_keep_their_dtype_and_order(prepared, npz, images, image_input):
    data = prepared(npz(x=images, y=np.arange(20)), image_input)
    kept = np.load(data.inputs[0])
    assert kept.dtype == np.uint8
    assert np.array_equal(kept, images)
    assert np.array_equal(labels(data), np.arange(20))
    assert data.count == 20
    assert data.notes == ()


def test_batches_normalise_as_declared_and_end_with_the_rest(prepared, npz, images):
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    spec = InputSpec("image", (1, 6, 8, 3), "float32", "NHWC", preprocessing)
    data = prepared(npz(x=images), spec)
    found = list(batches(data, (spec,), 8))
    assert [batch[0].shape for batch in found] == [(8, 6, 8, 3), (8, 6, 8, 3), (4, 6, 8, 3)]
    expected = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    assert found[0][0].dtype == np.float32
    assert np.allclose(np.concatenate([batch[0] for batch in found]), expected, atol=1e-6)


def test_batches_without_preprocessing_only_cast(prepared, npz, images, image_input):
    data = prepared(npz(x=images), image_input)
    (batch,) = next(batches(data, (image_input,), 20))
    assert batch.dtype == np.float32
    assert np.array_equal(batch, images)


def test_digest_is_of_the_content_alone(prepared, npz, images, image_input, tmp_path):
    spec = npz(x=images, y=np.arange(20))
    first = prepared(spec, image_input)
    np.savez_compressed(tmp_path / "other.npz", images=images, labels=np.arange(20, dtype=np.uint8))
    assert prepared(str(tmp_path / "other.npz"), image_input).sha256 == first.sha256
    images[3, 0, 0, 0] ^= 1
    assert prepared(npz(x=images, y=np.arange(20)), image_input).sha256 != first.sha256


def test_digest_covers_labels_dtype_and_shape(prepared, npz, images):
    flat = InputSpec("x", (1, 4), "float32")
    rows = np.arange(16, dtype=np.int32).reshape(4, 4)
    wide = InputSpec("x", (1, 8), "float32")
    digests = {
        prepared(npz(x=rows), flat).sha256,
        prepared(npz(x=rows, y=np.zeros(4, int)), flat).sha256,
        prepared(npz(x=rows, y=np.ones(4, int)), flat).sha256,
        prepared(npz(x=rows.astype(np.float32)), flat).sha256,
        prepared(npz(x=rows.view(np.uint32)), flat).sha256,
        prepared(npz(x=rows.reshape(2, 8)), wide).sha256,
    }
    assert len(digests) == 6


def test_big_endian_data_are_the_same_data(prepared, npz):
    spec = InputSpec("x", (1, 4), "float32")
    rows = np.random.default_rng(1).normal(size=(5, 4))
    native, swapped = prepared(npz(x=rows), spec), prepared(npz(x=rows.astype(">f8")), spec)
    assert swapped.sha256 == native.sha256
    assert np.array_equal(np.load(swapped.inputs[0]), rows)


@pytest.mark.parametrize(("dtype", "bad"), [(np.float32, np.nan), (np.float64, np.inf), (np.float16, -np.inf)], ids=str)
def test_not_finite_is_refused_with_the_sample(prepared, npz, images, image_input, dtype, bad):
    x = images.astype(dtype)
    x[13, 2, 3, 1] = bad
    with pytest.raises(DataError, match=r"sample 13: input 'image' holds NaN or infinity"):
        prepared(npz(x=x), image_input)


def test_not_finite_is_named_by_its_place_in_the_users_file(prepared, npz, images, image_input):
    x = images.astype(np.float32)
    x[spread_positions(20, 5)[3]] = np.nan
    with pytest.raises(DataError, match=f"sample {spread_positions(20, 5)[3]}: "):
        prepared(npz(x=x), image_input, samples=5)


def test_constant_is_refused(prepared, npz, image_input):
    with pytest.raises(DataError, match="range-constant: every value of every sample is 7"):
        prepared(npz(x=np.full((30, 6, 8, 3), 7, np.uint8)), image_input)


def test_a_mask_of_whole_numbers_may_be_constant(prepared, npz):
    mask = InputSpec("mask", (1, 4), "int64")
    assert prepared(npz(mask=np.ones((5, 4), np.int64)), mask).count == 5


def test_too_few_samples_are_refused_with_the_minimum(prepared, npz, images, image_input):
    with pytest.raises(DataError, match="15 samples are too few for calibration; at least 16 are needed, 100"):
        prepared(npz(x=images[:15]), image_input, minimum=16, recommended=100)
    with pytest.raises(DataError, match=r"8 samples \(--samples 8\) are too few"):
        prepared(npz(x=images), image_input, minimum=16, samples=8)


def test_few_are_noted(prepared, npz, images, image_input):
    data = prepared(npz(x=images), image_input, minimum=16, recommended=100)
    assert data.notes == ("only 20 samples: 100 or more are advised for calibration",)


def test_no_samples_are_refused(prepared, npz, image_input):
    with pytest.raises(DataError, match="no samples in it for evaluation"):
        prepared(npz(x=np.zeros((0, 6, 8, 3))), image_input, purpose="evaluation")


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.array([1j, 2j])], ids=["text", "complex"])
def test_values_that_are_no_numbers_are_refused(prepared, npz, values):
    with pytest.raises(DataError, match="not numbers"):
        prepared(npz(x=values), InputSpec("x", (1,), "float32"))


def test_labels_as_a_column_are_class_indices(prepared, npz, images, image_input):
    data = prepared(npz(x=images, y=np.arange(20, dtype=np.uint8)[:, None]), image_input)
    assert labels(data).dtype == np.int64
    assert np.array_equal(labels(data), np.arange(20))


def test_float_targets_are_kept_as_given(prepared, npz, images, image_input):
    targets = np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32)
    assert np.array_equal(labels(prepared(npz(x=images, y=targets), image_input)), targets)


def test_no_labels_are_none(prepared, npz, images, image_input):
    data = prepared(npz(x=images), image_input)
    assert data.labels is None
    assert labels(data) is None
    assert len(list(Path(data.inputs[0]).parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(20, dtype=int), "argmax of one-hot"),
        (np.arange(20) - 1, "sample 0: the label is negative"),
        (np.full(20, np.nan), "the label holds NaN"),
        (np.array(["cat"] * 20), "not numbers"),
    ],
    ids=["one-hot", "negative", "nan", "text"],
)
def test_labels_that_are_no_labels_are_refused(prepared, npz, images, image_input, labels, message):
    with pytest.raises(DataError, match=message):
        prepared(npz(x=images, y=labels), image_input)


@pytest.mark.parametrize("values", [np.array([[0.5, 1.0]]), np.array([[0, 300]])], ids=["float", "range"])
def test_values_the_inputs_dtype_cannot_hold_are_refused(prepared, npz, values):
    with pytest.raises(DataError, match="wants int8, the samples are"):
        prepared(npz(x=values), InputSpec("x", (1, 2), "int8"))


def test_scaling_of_scaled_samples_is_noted(prepared, npz, images):
    spec = InputSpec("image", (1, 6, 8, 3), "float32", "NHWC", Preprocessing(scale=1 / 255))
    assert prepared(npz(x=images), spec).notes == ()
    (note,) = prepared(npz(x=images / 255.0), spec).notes
    assert "is a scale of 0.003922 intended?" in note


@pytest.mark.parametrize("name", ["missing", "missing.npz", "missing.npy", "missing.py:samples"])
def test_a_missing_path_is_refused(prepared, image_input, tmp_path, name):
    with pytest.raises(DataError, match="no such file"):
        prepared(str(tmp_path / name), image_input)


def test_an_unknown_kind_is_refused_with_the_kinds_there_are(prepared, image_input, tmp_path):
    (tmp_path / "data.csv").write_text("1,2,3")
    with pytest.raises(DataError, match=r"cannot be read.*folder.*npz.*callable"):
        prepared(str(tmp_path / "data.csv"), image_input)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_not_turned_into_something_else(npz, tmp_path, image_input):
    x = np.random.default_rng(3).normal(size=(300, 6, 8, 3))
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "input_0.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        prepare(DataRequest(npz(x=x), (image_input,)), folder)
    assert not list(folder.iterdir())


def test_spread_takes_all_when_there_are_no_more():
    assert spread_positions(5, None) == spread_positions(5, 5) == spread_positions(5, 9) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("total", "limit"), [(10, 3), (10000, 200), (101, 100), (7, 6), (3, 1)])
def test_spread_takes_one_position_of_each_interval(total, limit):
    taken = spread_positions(total, limit)
    assert [position * limit // total for position in taken] == pytest.approx(range(limit), abs=1)
    assert taken == sorted(set(taken))
    assert len(taken) == limit
    assert all(
        index * total // limit <= position < (index + 1) * total // limit for index, position in enumerate(taken)
    )


@pytest.mark.parametrize("order", ["sorted", "alternating"])
def test_spread_gives_every_class_its_share(order):
    classes = np.repeat(np.arange(10), 100) if order == "sorted" else np.tile(np.arange(10), 100)
    counts = np.bincount(classes[spread_positions(1000, 100)], minlength=10)
    assert counts.min() >= 8
    assert counts.max() <= 12
