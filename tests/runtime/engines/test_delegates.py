"""A small delegate library that works, refuses, crashes, hangs, or computes wrong or slowly, by its options."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import __main__ as command
from edgekit_runtime import engines
from edgekit_runtime.engines import delegates
from edgekit_runtime.errors import DelegateUnavailable, EngineUnavailable, PlanError, ProfileError
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant
from edgekit_runtime.host import state_cache
from edgekit_runtime.host.subprocesses import MEMORY_NAME
from edgekit_runtime.placement import probe
from edgekit_runtime.placement.place import Placement

WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(4).normal(size=(2, 1, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The delegate, compiled."""
    path = tmp_path_factory.mktemp("delegate") / "libtest_delegate.so"
    source = Path(__file__).with_name("delegate.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def plain() -> Variant:
    """The product with WEIGHTS, for LiteRT on the CPU."""
    binding = TensorBinding(0, "x", "float32")
    golden = Golden(("golden/y.npy",), (1e-5,))
    return Variant("plain", "litert", "cpu", "float32", ("model.tflite",), (binding,), (binding,), golden)


@pytest.fixture
def bundle(plain: Variant, make_tflite: Callable[..., Path], npy: Callable[..., bytes], tmp_path: Path) -> Path:
    """A bundle with only that variant."""
    ends = [(end, (1, n), "float32", None, None) for end, n in (("x", 4), ("y", 3))]
    weights = ("w", (3, 4), "float32", None, np.ascontiguousarray(WEIGHTS.T))
    artifact = make_tflite("FULLY_CONNECTED", ends[0], weights, ends[1]).read_bytes()
    files = {"golden/x.npy": npy(X), "golden/y.npy": npy(X @ WEIGHTS), "model.tflite": artifact}
    sides = (InputSpec("x", (1, 4), "float32"),), (OutputSpec("y", (1, 3), "float32"),)
    write_bundle(Manifest("product", "1", *sides, (plain,), (), ("golden/x.npy",)), files, tmp_path / "b.edgekit")
    return tmp_path / "b.edgekit"


@pytest.fixture
def placed(bundle: Path, library: Path) -> Callable[..., Placement]:
    """Load with the delegate in a mode, run once, and return the placement."""

    def load(mode: str, **how: object) -> Placement:
        options = {"mode": mode, **how.pop("options", {})}
        with edgekit_runtime.load(bundle, delegate=str(library), delegate_options=options, **how) as model:
            np.testing.assert_allclose(model(X[0]), X[0] @ WEIGHTS, rtol=1e-5)
            return model.placement

    return load


@pytest.mark.needs_litert
@pytest.mark.needs_cc
class TestADelegateThat:
    def test_works_is_selected_and_in_the_placement(self, placed: Callable[..., Placement], library: Path) -> None:
        placement = placed("works", require=str(library))
        assert (placement.variant, placement.delegate, placement.delegated) == ("plain", str(library), (1, 1))
        assert placement.libraries[str(library)] == str(library)
        assert placement.delegate_options == {"mode": "works"}
        assert placement.delegate_asked
        assert placement.probe.verdict == "ok"

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [
            ("refuse", r"refused in its probe: .*no accelerator was found, options were \[mode=refuse\]"),
            ("crash-create", r"crashed in its probe: its process was ended by SIGABRT"),
            ("exit-create", r"crashed in its probe: its process ended with exit code 0"),
            ("crash-prepare", r"crashed in its probe: its process was ended by SIGSEGV"),
            ("crash-run", r"crashed in its probe: its process was ended by SIGABRT"),
            ("crash-destroy", r"crashed in its probe: its process was ended by SIGABRT"),
            ("error-prepare", r"refused in its probe: the delegate .* refused model\.tflite"),
            ("fail-run", r"refused in its probe: LiteRT failed while running the model"),
            ("nothing", r"took 0 of the 1 operators of model\.tflite"),
            ("zeros", r"wrong answer in its probe: output 'y' differs by .*, allowed is 1e-05"),
            ("slow", r"slow in its probe: a run takes 2\d.* ms with the delegate"),
        ],
    )
    def test_fails_is_skipped_with_its_reason(self, placed: Callable[..., Placement], mode: str, reason: str) -> None:
        placement = placed(mode)
        assert (placement.delegate, placement.probe) == (None, None)
        (refusal,) = placement.refused
        assert refusal.variant == "plain"
        assert re.search(reason, refusal.reason), refusal.reason

    def test_can_be_opened_once_in_a_process_is_selected(self, placed: Callable[..., Placement], library: Path) -> None:
        assert placed("once").delegate == str(library)

    @pytest.mark.parametrize(
        ("name", "message"),
        [(probe.TIMEOUT_NAME, "soon"), (probe.TIMEOUT_NAME, "0"), (probe.TIMEOUT_NAME, "nan"), (MEMORY_NAME, "all")],
    )
    def test_an_invalid_limit_is_named(
        self, placed: Callable[..., Placement], monkeypatch: pytest.MonkeyPatch, name: str, message: str
    ) -> None:
        monkeypatch.setenv(name, message)
        with pytest.raises(PlanError, match=f"{name} is '{message}', wanted"):
            placed("works")
        monkeypatch.delenv(name)
        assert placed("works").delegate is not None  # and nothing false is remembered

    def test_hangs_takes_the_timeout_only_once(
        self, placed: Callable[..., Placement], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(probe.TIMEOUT_NAME, "2")
        for mode in ("hang-create", "hang-run"):
            assert "hung in its probe: no answer within 2 s" in placed(mode).refused[0].reason
        monkeypatch.setenv(probe.TIMEOUT_NAME, "0.001")  # whatever is tried now hangs, but nothing is
        assert "found earlier on this machine" in placed("hang-run").refused[0].reason
        monkeypatch.setenv(probe.TIMEOUT_NAME, "2.5")  # it may have been slow alone
        assert "hung in its probe: no answer within 2.5 s" in placed("hang-run").refused[0].reason

    def test_exceeds_the_memory_limit_is_stopped(
        self, placed: Callable[..., Placement], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(probe.MEMORY_NAME, "2048")
        assert "crashed in its probe: its process was ended by SIGSEGV" in placed("eat-memory").refused[0].reason

    def test_is_slow_can_be_required(self, placed: Callable[..., Placement], library: Path) -> None:
        assert placed("slow", require=str(library)).probe.verdict == "slow"

    def test_is_required_and_cannot_run_fails_closed(self, placed: Callable[..., Placement], library: Path) -> None:
        with pytest.raises(DelegateUnavailable, match=r"plain: crashed in its probe"):
            placed("crash-create", require=str(library))

    def test_works_is_probed_again_only_after_a_change(self, placed: Callable[..., Placement], library: Path) -> None:
        content = library.read_bytes()
        try:
            assert not placed("works").probe.remembered
            assert placed("works").probe.remembered
            assert not placed("works", options={"other": "1"}).probe.remembered
            replaced = library.with_suffix(".new")  # as an update does: a library in use is never written into
            replaced.write_bytes(content + b"\0")
            replaced.replace(library)
            assert not placed("works").probe.remembered
        finally:
            library.with_suffix(".new").write_bytes(content)
            library.with_suffix(".new").replace(library)

    def test_an_invalid_verdict_in_the_cache_is_ignored(self, placed: Callable[..., Placement]) -> None:
        placed("works")
        (entry,) = (Path(state_cache.folder()) / probe.TOPIC).iterdir()
        entry.write_text(entry.read_text().replace('"verdict": "ok"', '"verdict": "oj"'))
        assert not placed("works").probe.remembered
        assert placed("works").probe.remembered

    def test_refused_is_probed_again(self, placed: Callable[..., Placement]) -> None:
        for _ in range(2):  # its hardware may have been plugged in since
            assert "found earlier" not in placed("refuse").refused[0].reason

    def test_is_named_by_the_bundle_gets_its_settings(
        self, bundle: Path, plain: Variant, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy(library, tmp_path / "libvx_delegate.so")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        with edgekit_runtime.open_bundle(bundle) as opened:
            files = {record.path: opened.read(record.path) for record in opened.manifest.files}
            vx = replace(plain, name="vx", device="npu", delegate="vx", settings={"mode": "works"})
            write_bundle(replace(opened.manifest, variants=(vx, plain)), files, tmp_path / "vx.edgekit")
        for require in ("vx", "npu", None):
            with edgekit_runtime.load(tmp_path / "vx.edgekit", require=require) as model:
                placement = model.placement
                np.testing.assert_allclose(model(X[0]), X[0] @ WEIGHTS, rtol=1e-5)
            assert (placement.variant, placement.runs_on, placement.delegated) == ("vx", "vx", (1, 1))
            assert (placement.delegate_asked, placement.delegate_options) == (False, {"mode": "works"})
        with edgekit_runtime.load(
            tmp_path / "vx.edgekit", delegate="vx", delegate_options="mode=refuse", require="plain"
        ) as model:
            assert (model.placement.variant, model.placement.delegate) == ("plain", None)

    @pytest.mark.parametrize(
        ("mode", "how"), [("crash-later", "SIGABRT"), ("hang-later", "hung: no answer within 2 s")]
    )
    def test_fails_while_it_runs_is_replaced_by_the_cpu(
        self, bundle: Path, library: Path, tmp_path: Path, mode: str, how: str
    ) -> None:
        trouble = tmp_path / "trouble"
        options = {"mode": mode, "flag": trouble}
        with edgekit_runtime.load(bundle, delegate=str(library), delegate_options=options, isolate=2) as model:
            for now in (str(library), None):
                np.testing.assert_allclose(model(X[0]), X[0] @ WEIGHTS, rtol=1e-5)
                assert model.placement.delegate == now
                trouble.touch()
            (event,) = model.events
            assert how in event.reason
            assert how in model.placement.refused[0].reason

    def test_crashes_is_reported_by_verify(
        self, bundle: Path, library: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--delegate", str(library), "--delegate-options", "mode=crash-run"]
        assert command.main(["verify", str(bundle), *arguments]) == 0
        first, second, _ = capsys.readouterr().out.splitlines()
        assert first.startswith(f"plain ({library}): cannot run: crashed in its probe")
        assert second == "plain: proven"

    def test_is_named_on_the_command_line_is_in_the_placement(
        self, bundle: Path, library: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--delegate", str(library), "--delegate-options", "mode=works,other=1", "--isolate", "--json"]
        assert command.main(["inspect", str(bundle), *arguments]) == 0
        placement = json.loads(capsys.readouterr().out)["placement"]
        assert (placement["delegate"], placement["delegate_asked"]) == (str(library), True)
        assert placement["delegate_options"] == {"mode": "works", "other": "1"}

    def test_prints_does_not_write_to_the_applications_stdout(self, bundle: Path, library: Path) -> None:
        code = (
            "import sys, edgekit_runtime as r\n"
            "with r.load(sys.argv[1], delegate=sys.argv[2], delegate_options='mode=crash-run') as model:\n"
            "    print(model.placement.variant)"
        )
        done = subprocess.run([sys.executable, "-c", code, bundle, library], check=True, capture_output=True, text=True)
        assert done.stdout == "plain\n"


@pytest.mark.parametrize(
    ("options", "bare", "read"),
    [
        ({"device": "usb", "n": 1}, "", {"device": "usb", "n": "1"}),
        ("device=usb, verbosity=3", "", {"device": "usb", "verbosity": "3"}),
        ("usb", "device", {"device": "usb"}),
        (":1", "device", {"device": ":1"}),
        ("", "", {}),
    ],
)
def test_options_are_read(options: object, bare: str, read: dict[str, str]) -> None:
    assert delegates.read_options(options, bare) == read


def test_a_bare_option_needs_a_delegate_that_knows_it() -> None:
    with pytest.raises(ValueError, match="name=value"):
        delegates.read_options("usb")


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(("openvino", "gpu"), marks=pytest.mark.needs_openvino),
        pytest.param(("openvino", "npu"), marks=pytest.mark.needs_openvino),
        pytest.param(("litert", "gpu"), marks=pytest.mark.needs_litert),
    ],
)
def test_the_library_of_an_accelerator_is_found(plain: Variant, unit: tuple[str, str]) -> None:
    variant = replace(plain, engine=unit[0], device=unit[1])
    (found,) = delegates.libraries_of(variant, engines.library(unit[0]).path)
    assert Path(found).stat().st_size > 1 << 20


def test_a_plugin_is_probed_again_once_its_content_changes(
    bundle_path: Path, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "libs" / "libopenvino_intel_gpu_plugin.so"
    plugin.parent.mkdir()
    plugin.write_bytes(b"one")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(delegates, "find_signs", lambda signs: ["/dev/dri/renderD128"])
    hashed: list[str] = []
    sha256 = probe._sha256
    monkeypatch.setattr(probe, "_sha256", lambda path: hashed.append(path) or sha256(path))
    gpu = replace(variant, engine="openvino", device="gpu")
    library = engines.Library("openvino", "1", "1", str(tmp_path))
    with edgekit_runtime.open_bundle(bundle_path) as opened:
        first, again = (probe._key(opened, gpu, library, None) for _ in range(2))
        assert (again, hashed) == (first, [str(plugin)])
        before = plugin.stat()
        plugin.write_bytes(b"two")
        os.utime(plugin, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = probe._key(opened, gpu, library, None)
    assert {name for name in first if first[name] != changed[name]} == {"library"}


def test_options_without_a_delegate_are_refused(bundle_path: Path) -> None:
    with pytest.raises(ValueError, match="need a delegate"):
        edgekit_runtime.load(bundle_path, delegate_options="device=usb")


def test_an_unknown_delegate_is_refused_with_the_known_ones(bundle_path: Path) -> None:
    with pytest.raises(DelegateUnavailable, match=r"'tpu'.*edgetpu, ethosu, vx, neutron, qnn.*path of its library"):
        edgekit_runtime.load(bundle_path, delegate="tpu")


@pytest.mark.parametrize("name", delegates.DELEGATES)
def test_a_delegate_that_is_not_installed_is_named_with_its_file(name: str) -> None:
    first = delegates.DELEGATES[name].files.split()[0]
    with pytest.raises(DelegateUnavailable, match=rf"{re.escape(first)}, is not installed; its hardware was not found"):
        delegates.library_path(name)


def test_a_missing_library_is_named_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(DelegateUnavailable, match=r"there is no delegate library .*/libnone\.so"):
        delegates.library_path(str(tmp_path / "libnone.so"))


def test_the_loaders_cache_is_read(tmp_path: Path) -> None:
    for name in ("libc.so.6", "libm.so.6"):
        assert Path(delegates._cached(name)[0]).is_file()
        assert delegates._find(name) is not None


def test_the_neural_compute_stick_is_explained(bundle_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"MYRIAD.*2022\.3"):
        edgekit_runtime.load(bundle_path, require="openvino:MYRIAD")
    with pytest.raises(ProfileError, match=r"MYRIAD.*2022\.3"):
        edgekit_runtime.load(bundle_path, device="MYRIAD")


@pytest.mark.needs_litert
@pytest.mark.needs_data
@pytest.mark.parametrize("delegated", [True, False])
def test_a_model_compiled_for_coral_falls_back_to_its_cpu_variant(
    shared_data: Path, tmp_path: Path, npy: Callable[..., bytes], delegated: bool
) -> None:
    models = shared_data / "coral" / "models"
    name = "mobilenet_v1_0.25_128_quant"
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    from ai_edge_litert.interpreter import Interpreter

    clone = Interpreter(model_path=str(models / f"{name}.tflite"))
    clone.allocate_tensors()
    clone.set_tensor(clone.get_input_details()[0]["index"], image)
    clone.invoke()
    want = clone.get_tensor(clone.get_output_details()[0]["index"])
    binding, golden = TensorBinding(0, "x", "uint8"), Golden(("y.npy",), (1.0,))
    cpu = Variant("twin", "litert", "cpu", "int8-static", ("cpu.tflite",), (binding,), (binding,), golden)
    edgetpu = replace(cpu, name="tpu", device="npu", delegate="edgetpu", files=("edgetpu.tflite",))
    if not delegated:  # a bundle that forgot to name the delegate
        edgetpu = replace(edgetpu, device="cpu", delegate=None)
    sides = (InputSpec("x", image.shape, "uint8"),), (OutputSpec("y", want.shape, "uint8"),)
    files = {
        "cpu.tflite": (models / f"{name}.tflite").read_bytes(),
        "edgetpu.tflite": (models / f"{name}_edgetpu.tflite").read_bytes(),
        "x.npy": npy(image[None]),
        "y.npy": npy(want[None]),
    }
    write_bundle(Manifest("coral", "1", *sides, (edgetpu, cpu), (), ("x.npy",)), files, tmp_path / "c.edgekit")
    with edgekit_runtime.load(tmp_path / "c.edgekit") as model:
        assert model.placement.variant == "twin"
        (refusal,) = model.placement.refused
        np.testing.assert_array_equal(model(image), want)
    assert ("libedgetpu.so.1, is not installed" if delegated else "edgetpu-custom-op") in refusal.reason
    with pytest.raises(DelegateUnavailable if delegated else EngineUnavailable):
        edgekit_runtime.load(tmp_path / "c.edgekit", require="edgetpu")
