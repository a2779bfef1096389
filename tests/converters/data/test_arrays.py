"""Reading .npz and .npy."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_converters.data import batches, labels
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

PAIR = (InputSpec("left", (1, 4), "float32"), InputSpec("right", (1, 2), "int32"))


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("image", "y"), ("x", "labels")])
def test_the_keys_people_use_are_known(prepared, npz, images, image_input, names):
    data = prepared(npz(**dict(zip(names, (images, np.arange(20)), strict=True))), image_input)
    assert np.array_equal(np.load(data.inputs[0]), images)
    assert np.array_equal(labels(data), np.arange(20))


def test_an_input_called_y_is_no_label(prepared, npz):
    data = prepared(npz(y=np.arange(8.0).reshape(2, 4), labels=[0, 1]), InputSpec("y", (1, 4), "float32"))
    assert np.load(data.inputs[0]).shape == (2, 4)
    assert np.array_equal(labels(data), [0, 1])


def test_classes_are_kept(prepared, npz, images, image_input):
    spec = npz(x=images, y=np.zeros(20, int), classes=np.array(["cat", "dog"]))
    assert prepared(spec, image_input).classes == ("cat", "dog")


def test_several_inputs_by_name_in_the_models_order(prepared, npz):
    left, right = np.random.default_rng(0).normal(size=(6, 4)), np.arange(12).reshape(6, 2)
    data = prepared(npz(right=right, left=left), PAIR)
    (first, second), *rest = list(batches(data, PAIR, 6))
    assert not rest
    assert np.array_equal(first, left.astype(np.float32))
    assert np.array_equal(second, right)
    assert second.dtype == np.int32


@pytest.mark.parametrize(
    "keys", [("features", "y"), ("x", "lables"), ("x", "images"), ("x", "y", "labels"), ("y",), ()]
)
def test_unknown_keys_are_refused_with_both_lists(prepared, npz, images, image_input, keys):
    with pytest.raises(DataError) as refusal:
        prepared(npz(**dict.fromkeys(keys, images)), image_input)
    assert f"the keys are {', '.join(sorted(keys)) or 'none'}" in str(refusal.value)
    assert "wanted: image/x/images" in str(refusal.value)


def test_a_missing_input_is_refused(prepared, npz):
    with pytest.raises(DataError, match="the keys are left; wanted: left, right"):
        prepared(npz(left=np.zeros((6, 4))), PAIR)


def test_numbers_of_samples_must_agree(prepared, npz, images, image_input):
    with pytest.raises(DataError, match=r"must be equal; the shapes are \(20, 6, 8, 3\), \(19,\)"):
        prepared(npz(x=images, y=np.zeros(19, int)), image_input)
    with pytest.raises(DataError, match="must be equal"):
        prepared(npz(left=np.zeros((6, 4)), right=np.zeros((5, 2))), PAIR)
    with pytest.raises(DataError, match="counts the samples"):
        prepared(npz(x=np.float32(1)), image_input)


def test_npy_is_one_input_without_labels(prepared, images, image_input, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(images))
    data = prepared(str(tmp_path / "x.npy"), image_input)
    assert np.array_equal(np.load(data.inputs[0]), images)
    assert data.labels is None
    with pytest.raises(DataError, match="feeds one input; the model has left, right"):
        prepared(str(tmp_path / "x.npy"), PAIR)


def test_samples_take_an_even_spread_and_say_so(prepared, npz, images, image_input):
    data = prepared(npz(x=images, y=np.arange(20)), image_input, samples=5)
    taken = labels(data)
    assert [value // 4 for value in taken] == [0, 1, 2, 3, 4]
    assert np.array_equal(np.load(data.inputs[0]), images[taken])
    assert data.notes == ("5 of 20 samples taken, spread evenly over the set",)


def test_more_than_one_block_is_written_whole(prepared, npz):
    rows = np.random.default_rng(5).normal(size=(1000, 4)).astype(np.float32)
    data = prepared(npz(x=rows, y=np.arange(1000)), InputSpec("x", (1, 4), "float32"))
    assert np.array_equal(np.load(data.inputs[0]), rows)
    assert np.array_equal(labels(data), np.arange(1000))


def test_pickles_are_never_loaded(prepared, image_input, tmp_path, images):
    for name, write in (("x.npz", lambda path, x: np.savez(path, x=x)), ("x.npy", np.save)):
        write(tmp_path / name, np.array([images[0], "not an image"], dtype=object))
        with pytest.raises(DataError, match=r"cannot be read as arrays.*without object arrays"):
            prepared(str(tmp_path / name), image_input)


def test_damaged_files_are_refused(prepared, npz, images, image_input, tmp_path):
    whole = (tmp_path / "data.npz", npz(x=images))[0].read_bytes()
    np.save(tmp_path / "x.npy", images)
    array = (tmp_path / "x.npy").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged = {
        "cut.npz": whole[: len(whole) // 2],
        "flipped.npz": bytes(flipped),
        "cut.npy": array[:-1],
        "text.npy": b"1 2 3",
        "empty.npy": b"",
        "empty.npz": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            prepared(str(tmp_path / name), image_input)


def test_a_member_that_is_no_array_is_refused(prepared, image_input, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("x", "a text")
    with pytest.raises(DataError, match=r"notes\.npz"):
        prepared(str(tmp_path / "notes.npz"), image_input)


def test_empty_npy_has_no_samples(prepared, image_input, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 6, 8, 3)))
    with pytest.raises(DataError, match="no samples"):
        prepared(str(tmp_path / "x.npy"), image_input)


@pytest.mark.needs_data
def test_real_images(prepared, shared_data):
    spec = InputSpec("input", (1, 3, 32, 32), "float32", "NCHW")
    data = prepared(str(shared_data / "cifar10" / "calibration.npz"), spec, minimum=16, recommended=100)
    assert data.count == 500
    assert np.load(data.inputs[0], mmap_mode="r").shape == (500, 3, 32, 32)
    assert data.notes == ("input 'input': channels moved: samples are NHWC, the input is NCHW",)
