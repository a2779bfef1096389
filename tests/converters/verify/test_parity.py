"""Parity is a measure: exact, zero and broken outputs have their numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import Artifact, Comparison, Parity
from edgekit_converters.verify.acceptance import check_parity
from edgekit_converters.verify.parity import EXACT_DB, parity_of
from edgekit_runtime.errors import VerificationError

X = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)


def test_equal_to_the_bit():
    parity = parity_of("y", X, X.copy())
    assert (parity.max_abs_error, parity.snr_db) == (0.0, EXACT_DB)
    assert parity.cosine == pytest.approx(1.0)


def test_known_noise():
    parity = parity_of("y", np.full((1, 4), 10.0), np.full((1, 4), 9.0))
    assert parity.snr_db == pytest.approx(20.0)
    assert (parity.max_abs_error, parity.cosine) == (1.0, pytest.approx(1.0))


def test_an_opposite_answer():
    assert parity_of("y", X, -X).cosine == pytest.approx(-1.0)
    assert parity_of("y", X, -X).snr_db == pytest.approx(10 * math.log10(1 / 4))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_an_infinite_error(broken):
    computed = X.copy()
    computed[2, 3] = broken
    assert parity_of("y", X, computed) == Parity("y", math.inf, -EXACT_DB, 0.0, largest=math.inf)


def test_a_source_that_gives_zeros():
    zeros = np.zeros((2, 3))
    assert parity_of("y", zeros, zeros) == Parity("y", 0.0, EXACT_DB, 1.0)
    assert parity_of("y", zeros, zeros + 1e-6).snr_db == -EXACT_DB
    assert parity_of("y", X, np.zeros_like(X)).cosine == 0.0


def test_integers_do_not_overflow():
    assert parity_of("y", np.array([[127]], np.int8), np.array([[-128]], np.int8)).max_abs_error == 255.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_floor_itself_passes_and_less_does_not(scheme):
    artifact = Artifact("litert", scheme, (), (), ())
    floor_db = SCHEMES[scheme].floor_db
    check_parity(artifact, Comparison((Parity("y", 0.1, floor_db, 1.0),), ()), stage="quantize")
    with pytest.raises(VerificationError, match="stage 'quantize'"):
        check_parity(artifact, Comparison((Parity("y", 0.1, floor_db - 0.1, 1.0),), ()), stage="quantize")


def test_errors_within_two_quantization_steps_pass():
    dark = parity_of("y", np.full((1, 4), 0.001), np.zeros((1, 4)))
    artifact = Artifact("litert", "int8-static", (), (), ())
    check_parity(artifact, Comparison((replace(dark, step=1 / 256),), ()), stage="quantize")
    with pytest.raises(VerificationError, match=r"0\.0 dB"):
        check_parity(artifact, Comparison((replace(dark, step=0.0004),), ()), stage="quantize")


def test_the_worst_output_decides():
    comparison = Comparison((Parity("good", 0.0, 120.0, 1.0), Parity("bad", 9.0, 3.0, 0.5)), ())
    with pytest.raises(VerificationError, match=r"litert float32: broken at stage 'lower': output 'bad' has 3.0 dB"):
        check_parity(Artifact("litert", "float32", (), (), ()), comparison, stage="lower")
