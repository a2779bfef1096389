"""Placement selects the first variant that runs and passes its golden check, with a reason for every other."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime.errors import (
    DelegateUnavailable,
    DigestMismatch,
    EngineUnavailable,
    IncompatibleDevice,
    MalformedBundle,
    ProfileError,
)
from edgekit_runtime.format.manifest import Golden, Requirements, TensorBinding, Variant
from edgekit_runtime.host import machine
from edgekit_runtime.placement import place

Make = Callable[..., Path]
OTHER_WEIGHTS = "variants/other/weights.npy"


@pytest.fixture
def other(variant: Variant) -> Variant:
    """The same artifact with another name."""
    return replace(variant, name="other", scheme="float16")


@pytest.fixture
def wrong(variant: Variant) -> Variant:
    """An artifact whose outputs differ from its golden outputs."""
    return replace(variant, name="wrong", files=(OTHER_WEIGHTS,))


def placed(path: Path, **how: object) -> place.Placement:
    with edgekit_runtime.load(path, **how) as model:
        return model.placement


def refusals(placement: place.Placement) -> dict[str, str]:
    return {refusal.variant: refusal.reason for refusal in placement.refused}


def test_the_first_variant_that_works_is_selected(make: Make, variant: Variant, other: Variant) -> None:
    placement = placed(make(variant, other))
    assert (placement.variant, placement.engine, placement.device) == ("null-float32", "null", "cpu")
    assert placement.versions == {"numpy": np.__version__}
    assert placement.refused == ()
    assert [difference.holds for difference in placement.checked] == [True]


def test_every_variant_before_it_has_its_reason(
    make: Make, variant: Variant, wrong: Variant, npy: Callable[..., bytes], weights: np.ndarray
) -> None:
    elsewhere = replace(variant, name="elsewhere", requirements=Requirements(arch=("riscv64",)))
    huge = replace(variant, name="huge", requirements=Requirements(memory_bytes=1 << 49))
    newer = replace(variant, name="newer", requirements=Requirements(engine_version="99.1"))
    future = replace(variant, name="future", engine="future")
    delegated = replace(variant, name="delegated", delegate="edgetpu")
    bound = replace(variant, name="bound", inputs=(TensorBinding(1, "x", "float32"),))
    variants = (elsewhere, huge, newer, future, delegated, bound, wrong, variant)
    placement = placed(make(*variants, also={OTHER_WEIGHTS: npy(weights * 1.5)}))
    assert placement.variant == "null-float32"
    printed = refusals(placement)
    assert list(printed) == [v.name for v in variants[:-1]]
    for name, message in {
        "elsewhere": "is made for riscv64, this machine is ",
        "huge": "MiB of memory",
        "newer": "needs null 99.1 or newer, but numpy ",
        "future": "there is no engine 'future'",
        "delegated": "delegates",
        "bound": "input 'image'",
        "wrong": "the outputs differ from the golden outputs on this machine: output 'scores' differs by",
    }.items():
        assert message in printed[name]


def test_a_library_that_is_too_old_is_an_incompatible_device(make: Make, variant: Variant) -> None:
    newer = replace(variant, requirements=Requirements(engine_version="99.1"))
    with pytest.raises(
        IncompatibleDevice, match=rf"needs null 99\.1 or newer, but numpy {np.__version__} is installed"
    ):
        edgekit_runtime.load(make(newer))


def test_an_invalid_artifact_is_skipped(make: Make, variant: Variant, wrong: Variant) -> None:
    placement = placed(make(wrong, variant, also={OTHER_WEIGHTS: b"nonsense"}))
    assert "weights.npy" in refusals(placement)["wrong"]


def test_a_profile_of_this_machine_comes_first(make: Make, variant: Variant, other: Variant) -> None:
    here = {"name": "here", "arch": machine.architecture(), "variants": ["other"]}
    elsewhere = {"name": "elsewhere", "arch": "riscv64", "variants": ["null-float32"]}
    path = make(variant, other, devices=(elsewhere, here))
    assert placed(path).variant == "other"
    assert placed(path, device="here").variant == "other"
    assert placed(path, device="elsewhere").variant == "null-float32"


def test_without_a_profile_of_this_machine_the_manifests_order_is_used(
    make: Make, variant: Variant, other: Variant
) -> None:
    elsewhere = {"name": "elsewhere", "arch": "riscv64", "variants": ["other"]}
    bare = {"name": "bare", "arch": machine.architecture()}
    assert placed(make(variant, other, devices=(elsewhere, bare))).variant == "null-float32"


def test_an_unknown_device_is_refused_with_the_known_ones(make: Make) -> None:
    path = make(devices=({"name": "board", "arch": "aarch64"},))
    with pytest.raises(ProfileError, match=r"no device 'bord', only auto, board"):
        edgekit_runtime.load(path, device="bord")


@pytest.mark.parametrize(
    ("require", "taken"),
    [
        ("null", "null-float32"),
        ("null:cpu", "null-float32"),
        ("cpu", "null-float32"),
        ("float16", "other"),
        ("other", "other"),
    ],
)
def test_a_required_variant_is_selected(make: Make, variant: Variant, other: Variant, require: str, taken: str) -> None:
    placement = placed(make(variant, other), require=require)
    assert (placement.variant, placement.refused) == (taken, ())


def test_a_requirement_fails_closed(make: Make, variant: Variant, other: Variant) -> None:
    gpu = replace(variant, name="fast", device="gpu")
    path = make(gpu, variant, other)
    assert placed(path).variant == "null-float32"
    with pytest.raises(
        EngineUnavailable, match=r"(?s)that matches 'gpu' can run.*fast: the null engine runs on the CPU"
    ):
        edgekit_runtime.load(path, require="gpu")
    with pytest.raises(EngineUnavailable, match=r"'npu'; it has fast, float32, gpu, null, null:gpu"):
        edgekit_runtime.load(path, require="npu")


def test_a_missing_required_delegate_is_a_delegate_error(make: Make, variant: Variant) -> None:
    path = make(replace(variant, name="tpu", delegate="edgetpu"), variant)
    assert placed(path).variant == "null-float32"
    with pytest.raises(DelegateUnavailable, match="tpu: "):
        edgekit_runtime.load(path, require="edgetpu")


def test_a_machine_without_a_variant_is_an_incompatible_device(make: Make, variant: Variant) -> None:
    path = make(replace(variant, requirements=Requirements(arch=("riscv64", "s390x"))))
    with pytest.raises(IncompatibleDevice, match="null-float32: is made for riscv64 or s390x"):
        edgekit_runtime.load(path)


def test_an_error_lists_the_reason_of_every_variant(make: Make, variant: Variant, wrong: Variant) -> None:
    path = make(replace(variant, engine="future"), wrong, also={OTHER_WEIGHTS: b"nonsense"})
    with pytest.raises(EngineUnavailable) as refusal:
        edgekit_runtime.load(path)
    lines = str(refusal.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["null-float32", "wrong"]


def test_a_damaged_artifact_ends_the_loading(make: Make, variant: Variant, other: Variant) -> None:
    path = make(variant, other, folder=True)
    content = bytearray((path / variant.files[0]).read_bytes())
    content[200] ^= 1
    (path / variant.files[0]).write_bytes(content)
    with pytest.raises(DigestMismatch):
        edgekit_runtime.load(path)


@pytest.mark.parametrize("samples", [0, 2])
def test_golden_arrays_must_have_the_same_number_of_samples(
    make: Make, variant: Variant, npy: Callable[..., bytes], samples: int
) -> None:
    golden = replace(variant, golden=Golden(("few.npy",), (1.0,)))
    with pytest.raises(MalformedBundle, match="same number of samples"):
        edgekit_runtime.load(make(golden, also={"few.npy": npy(np.zeros((samples, 1, 4), np.float32))}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_golden_nan_never_passes(
    make: Make, variant: Variant, npy: Callable[..., bytes], files: dict[str, bytes], value: float
) -> None:
    broken = np.zeros((3, 1, 4), np.float32)
    broken[1, 0, 2] = value
    golden = replace(variant, golden=Golden(("odd.npy",), (1e9,)))
    with pytest.raises(EngineUnavailable, match="differ from the golden outputs"):
        edgekit_runtime.load(make(golden, also={"odd.npy": npy(broken)}))


def test_a_model_that_gives_nan_never_passes(
    make: Make, variant: Variant, npy: Callable[..., bytes], weights: np.ndarray
) -> None:
    bad = weights.copy()
    bad[0, 0, 0, 0] = np.nan
    golden = replace(variant, files=("nan.npy",), golden=Golden(variant.golden.outputs, (1e9,)))
    with pytest.raises(EngineUnavailable, match="differ from the golden outputs"):
        edgekit_runtime.load(make(golden, also={"nan.npy": npy(bad)}))


@pytest.mark.parametrize(
    ("kernel", "pointer_bytes", "name"),
    [
        ("x86_64", 8, "x86_64"),
        ("AMD64", 8, "x86_64"),
        ("arm64", 8, "aarch64"),
        ("aarch64", 8, "aarch64"),
        ("aarch64", 4, "armv7l"),  # a 32-bit Raspberry Pi OS under its 64-bit kernel
        ("armv8l", 4, "armv7l"),
        ("armv7l", 4, "armv7l"),
        ("x86_64", 4, "i686"),
    ],
)
def test_the_architecture_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, kernel: str, pointer_bytes: int, name: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: kernel)
    monkeypatch.setattr(struct, "calcsize", lambda _: pointer_bytes)
    assert machine.architecture() == name
