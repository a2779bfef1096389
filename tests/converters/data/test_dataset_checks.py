"""The checks of a set as a whole report problems with numbers, and nothing for a set without problems."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edgekit_converters.data.dataset_checks import DatasetChecks
from edgekit_runtime.format.manifest import InputSpec

FEATURES = InputSpec("x", (1, 4), "float32")


def rows(count):
    return np.random.default_rng(3).normal(size=(count, 4)).astype(np.float32)


def test_an_ordinary_set_is_passed_in_silence(prepared, npz):
    assert prepared(npz(x=rows(200), y=np.arange(200) % 4), FEATURES).notes == ()


def test_copies_are_counted_across_blocks(prepared, npz):
    x = rows(600)  # several blocks of a reader
    x[590:] = x[0]
    assert prepared(npz(x=x), FEATURES).notes == ("10 of 600 samples are duplicates of others",)


def test_a_sample_is_a_copy_only_with_all_its_inputs(prepared, npz):
    x, z = rows(20), rows(20)
    x[7] = x[3]
    inputs = (FEATURES, InputSpec("z", (1, 4), "float32"))
    assert prepared(npz(x=x, z=z), inputs).notes == ()
    z[7] = z[3]
    assert prepared(npz(x=x, z=z), inputs).notes[0].startswith("1 of 20 samples")


@pytest.mark.parametrize(
    ("layout", "shape", "place"), [("NHWC", (1, 6, 8, 3), np.s_[..., 1]), ("NCHW", (1, 3, 6, 8), np.s_[:, 1])]
)
def test_a_still_channel_is_named(prepared, npz, layout, shape, place):
    x = np.random.default_rng(0).integers(0, 256, (300, *shape[1:]), dtype=np.uint8)
    spec = InputSpec("image", shape, "float32", layout)
    assert prepared(npz(x=x), spec).notes == ()
    x[place] = 7
    assert prepared(npz(x=x), spec).notes == ("input 'image': 1 of 3 channels are constant: 1",)
    for sample, value in ((0, 6), (0, 8), (299, 6), (299, 8)):  # of the first block, or of the last
        moved = x.copy()
        moved[place][sample] = value
        assert prepared(npz(x=moved), spec).notes == ()


def test_of_many_still_features_a_few_are_named(prepared, npz):
    x = np.tile(rows(20), 3)
    x[:, :9] = 1
    note = "input 'x': 9 of 12 features are constant: 0, 1, 2 and 6 more"
    assert prepared(npz(x=x), InputSpec("x", (1, 12), "float32")).notes == (note,)


def test_integer_channels_may_be_constant(prepared, npz):
    x = np.arange(80).reshape(20, 4)
    x[:, 0] = 101  # every text begins with the same token
    assert prepared(npz(x=x), InputSpec("x", (1, 4), "int64")).notes == ()


def test_missing_and_rare_classes_are_named(prepared, npz):
    y = np.repeat([0, 1, 3], [190, 10, 200])
    names = np.array(["ant", "bee", "cat", "dog", "elk"])
    assert prepared(npz(x=rows(400), y=y, classes=names), FEATURES).notes == (
        "2 of 5 classes have no sample: cat, elk",
        "classes are unbalanced: 200 samples of dog, 10 of bee",
    )


def test_few_samples_do_not_tell_of_classes(prepared, npz):
    y = np.repeat([0, 9], [20, 1])  # 21 samples, 10 classes
    assert prepared(npz(x=rows(21), y=y), FEATURES).notes == ()


def test_targets_are_no_classes(prepared, npz):
    assert prepared(npz(x=rows(200), y=np.ones((200, 2), np.float32)), FEATURES).notes == ()


def test_sixteen_bytes_are_kept_of_a_sample():
    checks, block = DatasetChecks((InputSpec("x", (1, 256), "float32"),)), np.zeros((100, 256), np.float32)
    tracemalloc.start()
    for part in range(200):
        checks.add([block + part], None)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20_000 * 16 * 1.5
    assert next(checks.notes(())).startswith("19800 of 20000")
