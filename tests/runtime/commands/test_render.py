"""The description of a bundle in lines of text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit_runtime.commands.render import manifest_lines
from edgekit_runtime.format.manifest import FileRecord, Manifest, Preprocessing, Requirements


@pytest.fixture
def described_manifest(manifest: Manifest) -> Manifest:
    """The classifier's manifest with the size of its file."""
    return replace(manifest, files=(FileRecord("variants/null-float32/weights.npy", 320, "0" * 64),))


def test_inputs_and_outputs_are_described(described_manifest: Manifest) -> None:
    lines = list(manifest_lines(described_manifest))
    formula = "resized to 2x2, as (x * 0.00392157 - [0.5, 0.4, 0.3]) / 0.25"
    assert lines == [
        "quarters 1.0",
        f"  input    image  float32 [1, 2, 2, 3]  NHWC  {formula}",
        "  output   scores  float32 [1, 4]  labels in labels.txt",
        "  variant  null-float32  null:cpu  float32  320 bytes",
    ]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Preprocessing(), "as it is"),
        (Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0,)), "as it is"),
        (Preprocessing(resize=(224, 160)), "resized to 224x160, as it is"),
        (Preprocessing(scale=0.5), "as x * 0.5"),
        (Preprocessing(mean=(127.5,)), "as x - 127.5"),
        (Preprocessing(std=(1.0, 2.0, 3.0)), "as x / [1, 2, 3]"),
        (Preprocessing(mean=(1.0,) * 100), "as x - [1, 1, 1, 1, ...]"),
    ],
)
def test_preprocessing_is_described_without_steps_that_change_nothing(
    described_manifest: Manifest, steps: Preprocessing, message: str
) -> None:
    spec = replace(described_manifest.inputs[0], preprocessing=steps)
    assert list(manifest_lines(replace(described_manifest, inputs=(spec,))))[1].endswith(f"  NHWC  {message}")


def test_the_requirements_of_a_variant_are_described(described_manifest: Manifest) -> None:
    needs = Requirements(("aarch64", "armv7l"), "2.14", 64 << 20)
    variant = replace(described_manifest.variants[0], requirements=needs)
    lines = list(manifest_lines(replace(described_manifest, variants=(variant,))))
    assert lines[4] == "           needs aarch64 or armv7l, null 2.14 or newer, 64 MiB of memory"


def test_the_origin_of_the_bundle_is_described(described_manifest: Manifest) -> None:
    calibration = {"sha256": "53b40e98fac1ff9d" * 4, "samples": 256}
    versions = {"edgekit": "0.1.0", "keras": "3.15.1"}
    lines = list(manifest_lines(replace(described_manifest, calibration=calibration, versions=versions)))
    assert lines[-2:] == [
        "  data     calibrated on 256 samples, sha256 53b40e98fac1",
        "  made by  edgekit 0.1.0, keras 3.15.1",
    ]


def test_free_text_cannot_send_control_characters_to_the_terminal(described_manifest: Manifest) -> None:
    printed = "\n".join(
        manifest_lines(replace(described_manifest, calibration={"sha256": "\x1b[2Jabc", "samples": None}))
    )
    assert printed.endswith("calibrated on None samples, sha256 [2Jabc")
