"""Reading a folder of images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import labels
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of four PNGs of 6x8: every pixel's red is its class, its green its number."""
    from PIL import Image

    root = tmp_path / "images"
    for index, name in enumerate(["ant", "bee", "cat"]):
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((6, 8, 3), (index * 10, number * 10, 200), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.needs_image
def test_one_folder_a_class(prepared, folder, image_input):
    data = prepared(str(folder), image_input)
    kept = np.load(data.inputs[0])
    assert kept.dtype == np.uint8
    assert kept.shape == (12, 6, 8, 3)
    assert [tuple(pixel) for pixel in kept[:, 0, 0]] == [
        (index * 10, number * 10, 200) for index in range(3) for number in range(4)
    ]
    assert data.classes == ("ant", "bee", "cat")
    assert list(labels(data)) == [0] * 4 + [1] * 4 + [2] * 4
    assert data.notes == (
        "3 classes, numbered in the order of their folder names: ant, bee, cat",
        "input 'image': 1 of 3 channels are constant: 2",
    )


@pytest.mark.needs_image
def test_equal_images_have_the_digest_of_equal_arrays(prepared, folder, image_input, npz):
    data = prepared(str(folder), image_input)
    arrays = npz(x=np.load(data.inputs[0]), y=labels(data))
    assert prepared(arrays, image_input).sha256 == data.sha256


@pytest.mark.needs_image
def test_samples_are_balanced_over_the_classes(prepared, folder, image_input):
    data = prepared(str(folder), image_input, samples=6)
    assert list(labels(data)) == [0, 0, 1, 1, 2, 2]
    assert data.notes[0] == "6 of 12 samples taken, spread evenly over the set"


@pytest.mark.needs_image
def test_channels_are_moved_for_nchw_without_a_layout_option(prepared, folder):
    spec = InputSpec("image", (1, 3, 6, 8), "float32", "NCHW")
    data = prepared(str(folder), spec, layout="NCHW")
    assert np.load(data.inputs[0]).shape == (12, 3, 6, 8)
    assert any("channels moved" in note for note in data.notes)


@pytest.mark.needs_image
def test_grey_inputs_get_grey_images(prepared, folder):
    from PIL import Image

    data = prepared(str(folder), InputSpec("image", (1, 6, 8, 1), "float32", "NHWC"))
    expected = np.asarray(Image.open(folder / "cat" / "3.png").convert("L"))
    assert np.array_equal(np.load(data.inputs[0])[-1, :, :, 0], expected)


@pytest.mark.needs_image
def test_another_size_needs_resize(prepared, folder, image_input, resized_input):
    from PIL import Image

    Image.new("RGB", (20, 30), (1, 2, 3)).save(folder / "cat" / "other.jpg")
    with pytest.raises(DataError, match=r"other\.jpg: the sample is 30x20x3.*wants 6x8x3.*--resize 6,8"):
        prepared(str(folder), image_input)
    data = prepared(str(folder), resized_input)
    assert "input 'image': samples resized to 6x8" in data.notes
    assert np.load(data.inputs[0]).shape == (13, 6, 8, 3)
    assert np.abs(np.load(data.inputs[0])[-1].astype(int) - (1, 2, 3)).max() <= 2


@pytest.mark.needs_image
def test_all_formats_are_read_and_other_files_passed_over(prepared, tmp_path, image_input):
    from PIL import Image

    root = tmp_path / "flat"
    root.mkdir()
    pixels = np.random.default_rng(4).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for suffix in ("png", "bmp", "JPG", "jpeg", "tif", "ppm"):
        Image.fromarray(pixels).save(root / f"a.{suffix}")
    Image.fromarray(pixels).convert("P").save(root / "palette.png")
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_text("not an image either")
    data = prepared(str(root), image_input)
    assert data.count == 7
    assert data.labels is None
    assert data.classes == ()
    assert "no class folders, so the images have no labels" in data.notes
    assert any(note.endswith("that are no images, skipped: 1") for note in data.notes)


@pytest.mark.needs_image
def test_empty_class_folders_keep_their_number(prepared, folder, image_input):
    (folder / "bat").mkdir()
    data = prepared(str(folder), image_input)
    assert list(labels(data)) == [0] * 4 + [2] * 4 + [3] * 4
    assert "class folders without images: bat" in data.notes


@pytest.mark.needs_image
@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_image_is_named(prepared, folder, image_input, damage):
    victim = folder / "bee" / "2.png"
    victim.write_bytes(victim.read_bytes()[:-30] if damage == "cut" else b"not a PNG")
    with pytest.raises(DataError, match=r"2\.png: cannot be decoded as an image"):
        prepared(str(folder), image_input)


@pytest.mark.needs_image
def test_deep_images_are_refused(prepared, folder, image_input):
    from PIL import Image

    Image.fromarray(np.full((6, 8), 40000, np.uint16)).save(folder / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits a channel"):
        prepared(str(folder), image_input)


@pytest.mark.needs_image
def test_loose_images_beside_classes_are_refused(prepared, folder, image_input):
    (folder / "cat" / "0.png").rename(folder / "0.png")
    with pytest.raises(DataError, match="there are images beside class folders"):
        prepared(str(folder), image_input)


@pytest.mark.needs_image
def test_an_empty_folder_has_no_samples(prepared, tmp_path, image_input):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no samples in it for \w+$"):
        prepared(str(tmp_path / "empty"), image_input)
    np.savez(tmp_path / "empty" / "test.npz", x=np.zeros((4, 6, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"no samples in it .*; it holds test\.npz: give that file, .*test\.npz$"):
        prepared(str(tmp_path / "empty"), image_input)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 640), "is for one image input"), ((1, 6, 8, 5), "1, 3 or 4 channels")]
)
def test_only_an_image_input_takes_images(prepared, tmp_path, shape, message):
    with pytest.raises(DataError, match=message):
        prepared(str(tmp_path), InputSpec("x", shape, "float32"))


def test_without_pillow_the_message_says_how_to_install_it(prepared, tmp_path, image_input, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match="pip install pillow"):
        prepared(str(tmp_path), image_input)
