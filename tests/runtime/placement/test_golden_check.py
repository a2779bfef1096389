"""The golden check runs once on a machine, ignores invalid cache entries, and detects real faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.writer import write_bundle
from edgekit_runtime.commands.verify import PROVEN, verify_bundle
from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant
from edgekit_runtime.host import state_cache
from edgekit_runtime.placement import golden_check
from edgekit_runtime.placement.golden_check import Difference

Make = Callable[..., Path]
WEIGHTS = np.random.default_rng(5).normal(size=(64, 8)).astype(np.float32)
X = np.random.default_rng(6).normal(size=(3, 1, 64)).astype(np.float32)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the variants whose golden outputs were computed, not cached."""
    names: list[str] = []
    original = golden_check.golden_differences

    def counted(*args: object) -> tuple[Difference, ...]:
        names.append(args[2].name)
        return original(*args)

    monkeypatch.setattr(golden_check, "golden_differences", counted)
    return names


def differences(path: Path, **how: object) -> tuple[Difference, ...]:
    with edgekit_runtime.load(path, **how) as model:
        return model.placement.checked


def test_the_golden_check_runs_once_and_is_then_cached(bundle_path: Path, computed: list[str]) -> None:
    first = differences(bundle_path)
    assert differences(bundle_path) == first
    assert [each.output for each in first] == ["scores"]
    assert computed == ["null-float32"]


def test_check_always_runs_and_check_never_skips_it(bundle_path: Path, computed: list[str]) -> None:
    assert differences(bundle_path, check="never") == ()
    assert computed == []
    for _ in range(2):
        assert differences(bundle_path, check="always")
    assert len(computed) == 2
    with pytest.raises(ValueError, match=r"check is 'sometimes', wanted one of auto, always, never"):
        edgekit_runtime.load(bundle_path, check="sometimes")


def test_verify_ignores_the_cached_check(bundle_path: Path, computed: list[str]) -> None:
    with edgekit_runtime.open_bundle(bundle_path) as bundle:
        assert {result.state for _ in range(3) for result in verify_bundle(bundle)} == {PROVEN}
    assert len(computed) == 3


def test_another_processor_library_or_tolerance_runs_the_check_again(
    make: Make, variant: Variant, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    differences(make())
    monkeypatch.setattr(golden_check, "processor", lambda: "another processor")
    differences(make())
    monkeypatch.setattr(np, "__version__", "99.0")
    differences(make())
    differences(make(replace(variant, golden=replace(variant.golden, max_abs=(1e-4,)))))
    assert len(computed) == 4


@pytest.mark.parametrize("place", ["kernels.so", "libs/kernels.so.2"])
def test_another_build_of_the_same_version_runs_the_check_again(
    bundle_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr(np, "__path__", [str(tmp_path)])
    (tmp_path / "libs").mkdir()
    for build in (b"first", b"other"):
        (tmp_path / place).write_bytes(build)
        for _ in range(2):
            differences(bundle_path)
    assert len(computed) == 2


@pytest.mark.parametrize("value", [{}, {"scores": "0"}, {"scores": None}, {"other": 0.0}])
def test_an_invalid_cache_entry_is_ignored(bundle_path: Path, computed: list[str], value: dict[str, object]) -> None:
    differences(bundle_path)
    (entry,) = (Path(state_cache.folder()) / golden_check.TOPIC).iterdir()
    content = json.loads(entry.read_text())
    entry.write_text(json.dumps({**content, "value": value}))
    assert differences(bundle_path)[0].holds
    assert len(computed) == 2


def test_a_cached_difference_above_the_tolerance_fails(bundle_path: Path, computed: list[str]) -> None:
    differences(bundle_path)
    (entry,) = (Path(state_cache.folder()) / golden_check.TOPIC).iterdir()
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "value": {"scores": 9.0}}))
    with pytest.raises(EngineUnavailable, match="differs by 9"):
        edgekit_runtime.load(bundle_path)
    assert differences(bundle_path)[0].holds  # it was forgotten, so it was asked again


def test_wrong_int8_arithmetic_is_detected_with_its_difference(make_identity: Make, npy: Callable[..., bytes]) -> None:
    with edgekit_runtime.open_bundle(make_identity()) as bundle:
        files = {record.path: bundle.read(record.path) for record in bundle.manifest.files}
        manifest = bundle.manifest
    files["eye.npy"] = npy(2 * np.eye(4, dtype=np.int8))  # zero comes in as 3 and must go out as 3, not as 6
    path = make_identity()
    write_bundle(manifest, files, path)
    with pytest.raises(EngineUnavailable, match=r"output 'y' differs by 1\.5, allowed is 0"):
        edgekit_runtime.load(path)


@pytest.fixture
def product(make_ir: Callable[[np.ndarray], Path], npy: Callable[..., bytes], tmp_path: Path) -> Callable[..., Path]:
    """A bundle with an IR of x @ WEIGHTS, with a fixed precision, and golden outputs from float32."""

    def make(precision: str) -> Path:
        ir = make_ir(WEIGHTS)
        files = {"model.xml": ir.read_bytes(), "model.bin": ir.with_suffix(".bin").read_bytes()}
        files |= {"x.npy": npy(X), "y.npy": npy(X @ WEIGHTS)}
        binding, golden = TensorBinding(0, "x", "float32"), Golden(("y.npy",), (1e-3,))
        variant = Variant(
            "ir", "openvino", "cpu", "float32", ("model.xml", "model.bin"), (binding,), (binding,), golden,
            settings={"INFERENCE_PRECISION_HINT": precision},
        )  # fmt: skip
        sides = (InputSpec("x", (1, 64), "float32"),), (OutputSpec("y", (1, 8), "float32"),)
        write_bundle(Manifest("product", "1", *sides, (variant,), (), ("x.npy",)), files, tmp_path / "p.edgekit")
        return tmp_path / "p.edgekit"

    return make


@pytest.mark.needs_openvino
@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_a_precision_that_changes_the_outputs_is_detected(product: Callable[..., Path], precision: str) -> None:
    # Where the processor lacks the precision, OpenVINO takes another without a word, and that is caught as well.
    with pytest.raises(EngineUnavailable, match=r"output 'y' differs by 0\.0|computes in \w+ instead of"):
        edgekit_runtime.load(product(precision))


@pytest.mark.needs_openvino
def test_the_placement_has_the_precision(product: Callable[..., Path]) -> None:
    with edgekit_runtime.load(product("f32"), threads=1, require="openvino:CPU") as model:
        placement = model.placement
    assert (placement.runs_on, placement.precision, placement.threads) == ("CPU", "float32", 1)
    assert Path(placement.libraries["openvino"]).is_dir()
