"""A loss is a loss in the metric's own direction."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_converters.records import Artifact, Comparison, Evaluation, Parity, Source, SourceRequest
from edgekit_converters.verify.acceptance import check_drop, drop, parity_warnings
from edgekit_runtime.errors import VerificationError


def accuracy(value):
    return Evaluation("accuracy", value, 100)


def error(value):
    return Evaluation("reconstruction_error", value, 100)


def test_losing_is_positive_whichever_way_the_metric_points():
    assert drop(accuracy(0.75), accuracy(0.5)) == 0.25
    assert drop(accuracy(0.75), accuracy(1.0)) == -0.25
    assert drop(error(1.0), error(1.5)) == 0.5
    assert drop(error(1.0), error(0.5)) == -0.5


def test_the_limit_itself_is_allowed():
    check_drop(0.25, accuracy(0.75), {"litert int8-static": accuracy(0.5)})
    check_drop(0.5, error(1.0), {"litert int8-static": error(1.5)})


@pytest.mark.parametrize(("source", "worse"), [(accuracy(0.75), accuracy(0.25)), (error(1.0), error(2.0))])
def test_more_is_refused_and_every_such_variant_named(source, worse):
    variants = {"litert float32": source, "litert int8-static": worse, "openvino int8-static": worse}
    with pytest.raises(VerificationError) as refused:
        check_drop(0.3, source, variants)
    message = str(refused.value)
    assert "litert int8-static" in message
    assert "openvino int8-static" in message
    assert "litert float32" not in message
    assert "--max-drop 0.3" in message


def test_nan_is_over_every_limit():
    with pytest.raises(VerificationError, match="litert int8-static"):
        check_drop(0.3, error(1.0), {"litert int8-static": error(float("nan"))})


def test_nothing_is_refused_without_a_limit_or_a_measure():
    check_drop(None, accuracy(1.0), {"litert int8-static": accuracy(0.0)})
    check_drop(0.0, accuracy(1.0), {"litert int8-static": None})


@pytest.mark.parametrize(("scheme", "snr_db", "count"), [("int8-static", 12.3, 1), ("int8-static", 20.0, 0)])
def test_a_quantized_file_that_changes_in_another_engine_is_doubted(scheme, snr_db, count):
    source = Source(SourceRequest("tflite", Path("net.tflite")), "tflite", (), (), (), scheme)
    comparison = Comparison((Parity("scores", 0.5, snr_db, 0.97), Parity("boxes", 0.1, 40.0, 1.0)), ())
    notes = parity_warnings(source, Artifact("openvino", scheme, (), (), ()), comparison)
    assert len(notes) == count
    assert all(note.startswith("openvino int8-static: ") and "12.3 dB (output 'scores')" in note for note in notes)
    assert (
        parity_warnings(replace(source, scheme="float32"), Artifact("openvino", "float32", (), (), ()), comparison)
        == ()
    )
