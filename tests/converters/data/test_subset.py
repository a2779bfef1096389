"""A subset has its own digest and holds every class; a larger subset contains the smaller ones."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_converters.data import SubsetRequest, iterate_samples, labels, subset
from edgekit_converters.data.samples import spread_order
from edgekit_runtime.format.manifest import InputSpec

X = InputSpec("x", (1, 4), "float32")


@pytest.mark.parametrize("total", [1, 16, 500, 1000])
def test_every_beginning_is_spread_evenly(total):
    order = spread_order(total)
    assert sorted(order) == list(range(total))
    for count in (total // 8, total // 4, total // 2):
        tenths = np.bincount(np.array(order[:count], int) * 10 // total, minlength=10)
        assert tenths.max() - tenths.min() <= 4  # where random ones would differ by tens
        if count >= 100:  # and classes that take turns have their share, too
            turns = np.bincount(np.array(order[:count]) % 10, minlength=10)
            assert turns.max() - turns.min() <= 4


def test_a_subset_equals_the_same_samples_prepared_alone(prepared, npz, tmp_path):
    rows, y = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32), np.arange(600) % 7
    chosen = np.sort(spread_order(600)[:400])  # more than one block
    whole = prepared(npz(x=rows, y=y), X)
    part = subset(SubsetRequest(whole, 400, "enough"), tmp_path)
    assert (part.count, part.notes[-1]) == (400, "400 of 600 samples taken: enough")
    assert np.array_equal(np.load(part.inputs[0]), rows[chosen])
    assert np.array_equal(labels(part), y[chosen])
    assert part.sha256 == prepared(npz(x=rows[chosen], y=y[chosen]), X).sha256


def test_without_labels_there_is_nothing_to_take_of_them(prepared, npz, tmp_path):
    part = subset(SubsetRequest(prepared(npz(x=np.arange(80.0).reshape(20, 4)), X), 5, "enough"), tmp_path)
    assert part.labels is None
    assert part.count == 5


def test_samples_are_iterated_in_spread_order(prepared, npz):
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    samples = [sample for (sample,) in iterate_samples(prepared(npz(x=rows), X), (X,))]
    assert {sample.shape for sample in samples} == {(1, 4)}
    assert np.array_equal(np.concatenate(samples), rows[spread_order(20)])
