"""A new artifact format costs one file, with its record, and one line in ``FORMATS``."""

from dataclasses import replace

import pytest

from edgekit.plan.option_declaration import build
from edgekit.plan.options import ConversionOptions
from edgekit.plan.plan import plan_conversion
from edgekit_converters.formats import FORMATS, tflite
from edgekit_runtime.errors import ProfileError

THIRD = replace(
    tflite.FORMAT,
    engine="third",
    label="Third",
    schemes=("float32", "int8-static"),
    mixable_schemes=("float32", "int8-static"),
    lowerings={"keras": "edgekit_converters.lower.keras_to_tflite:lower"},
)
PROFILE = """
name = "board"
title = "A board with a third engine"
arch = "aarch64"
targets = ["third:npu", "third:cpu"]
schemes = ["int8-static", "float16", "float32"]
precision = "f32"
verified = "no"
[source]
arch = "its data sheet"
"""


@pytest.fixture
def options(tmp_path):
    (tmp_path / "board.toml").write_text(PROFILE.replace('"int8-static", "float16", ', '"int8-static", '))
    (tmp_path / "net.keras").write_bytes(b"not opened here")
    (tmp_path / "d.npz").write_bytes(b"not opened here")
    values = {
        "model": tmp_path / "net.keras",
        "output": tmp_path / "net.edgekit",
        "device": tmp_path / "board.toml",
        "quantize": ("int8", "float32"),
        "calibrate": tmp_path / "d.npz",
    }
    return build(ConversionOptions, values)


def test_a_plan_accepts_a_format_that_is_registered_by_one_line(options, monkeypatch):
    monkeypatch.setitem(FORMATS, "third", f"{__name__}:THIRD")
    plan = plan_conversion(options)
    assert [(one.engine, one.device, one.scheme) for one in plan.targets.variants] == [
        ("third", "npu", "int8-static"),
        ("third", "npu", "float32"),
        ("third", "cpu", "int8-static"),
        ("third", "cpu", "float32"),
    ]
    assert plan.targets.engines == ("third",)


def test_without_the_line_the_profile_is_refused(options):
    with pytest.raises(ProfileError, match="third"):
        plan_conversion(options)


def test_a_scheme_that_the_format_does_not_hold_is_refused(options, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "third", f"{__name__}:THIRD")
    (tmp_path / "board.toml").write_text(PROFILE)
    with pytest.raises(ProfileError, match="float16"):
        plan_conversion(options)
