"""The aarch64 and armv7l wheels open bundles made on x86-64 and compute the same, on emulated Arm processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime

pytestmark = [pytest.mark.needs_arm, pytest.mark.needs_keras, pytest.mark.needs_openvino]

MakeMachine = Callable[..., Any]
INT8, FLOAT32 = "litert-int8-static", "litert-float32"
OPENVINO = {"openvino-int8-static", "openvino-float32"}
# qemu's default is every feature it knows ("max"); its SME is of the time before anybody used it: see the last test.
PROCESSORS = ["cortex-a53", "cortex-a72", "cortex-a76", "max,sme=off"]
CLASSIFY = """
import sys, numpy, edgekit_runtime
path, require, images, out = sys.argv[1:]
with edgekit_runtime.load(path, require=require or None) as model:
    numpy.save(out, numpy.concatenate([model(image, raw=True) for image in numpy.load(images)]))
    print(model.placement.variant)
"""


@pytest.fixture(scope="session")
def images(demo: Path) -> np.ndarray:
    """Some handwritten digits: (40, 8, 8, 1) uint8."""
    with np.load(demo / "test.npz") as data:
        found: np.ndarray = data["x"][:40]
    return found


def verdicts(machine: Any, bundle: Path, cpu: str) -> dict[str, Any]:
    """What `check` says of each variant."""
    done = machine.run("-m", "edgekit_runtime", "verify", bundle, "--json", cpu=cpu)
    assert done.returncode in (0, 5), done.stderr
    return {verdict["variant"]: verdict for verdict in json.loads(done.stdout)["variants"]}


def classify(machine: Any, bundle: Path, images: np.ndarray, tmp_path: Path, **how: str) -> tuple[str, np.ndarray]:
    """The variant that took the images there, and its outputs (40, 10)."""
    np.save(tmp_path / "images.npy", images)
    where = tmp_path / "images.npy", tmp_path / "outputs.npy"
    done = machine.run("-c", CLASSIFY, bundle, how.get("require", ""), *where, cpu=how["cpu"])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), np.load(where[1])


def classify_here(bundle: Path, images: np.ndarray, require: str) -> np.ndarray:
    """What the variant gives on this machine."""
    with edgekit_runtime.load(bundle, require=require) as model:
        return np.concatenate([model(image, raw=True) for image in images])


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_every_variant_is_proven_and_int8_is_equal(make_machine: MakeMachine, digits: Path, cpu: str) -> None:
    found = verdicts(make_machine("raspberry-pi-4"), digits, cpu)
    assert {name: verdict["state"] for name, verdict in found.items()} == dict.fromkeys(
        {INT8, FLOAT32} | OPENVINO, "proven"
    )
    assert [check["max_abs"] for check in found[INT8]["checked"]] == [0]


def test_32_bit_arm_runs_litert_and_says_why_not_openvino(make_machine: MakeMachine, digits: Path) -> None:
    found = verdicts(make_machine("raspberry-pi-3", "armhf"), digits, "cortex-a7")
    assert {name: found[name]["state"] for name in (INT8, FLOAT32)} == {INT8: "proven", FLOAT32: "proven"}
    assert [check["max_abs"] for check in found[INT8]["checked"]] == [0]
    assert {found[name]["state"] for name in OPENVINO} == {"cannot run"}


def test_int8_gives_for_new_images_what_it_gives_here(
    make_machine: MakeMachine, digits: Path, images: np.ndarray, tmp_path: Path
) -> None:
    machine = make_machine("raspberry-pi-4")
    _, there = classify(machine, digits, images, tmp_path, cpu="cortex-a72", require=INT8)
    np.testing.assert_array_equal(there, classify_here(digits, images, INT8))


def test_32_bit_arm_rounds_elsewhere_but_within_what_the_bundle_allows(
    make_machine: MakeMachine, digits: Path, images: np.ndarray, tmp_path: Path
) -> None:
    # tflite-runtime 2.14 has its own int8 kernels there: now and then a value before the softmax is one step off.
    machine = make_machine("raspberry-pi-3", "armhf")
    _, there = classify(machine, digits, images, tmp_path, cpu="cortex-a7", require=INT8)
    here = classify_here(digits, images, INT8)
    with edgekit_runtime.open_bundle(digits) as bundle:
        (allowed,) = next(v.golden.max_abs for v in bundle.manifest.variants if v.name == INT8)
    np.testing.assert_allclose(there, here, rtol=0, atol=allowed)
    np.testing.assert_array_equal(there.argmax(axis=1), here.argmax(axis=1))


def test_wrong_arithmetic_never_reaches_the_application(
    make_machine: MakeMachine, digits: Path, images: np.ndarray, tmp_path: Path
) -> None:
    # In qemu 7.2 the int8 kernels that use SME compute nonsense; in a qemu whose SME is right, int8 is proven.
    machine = make_machine("raspberry-pi-4")
    found = verdicts(machine, digits, "max")
    variant, outputs = classify(machine, digits, images, tmp_path, cpu="max")
    if found[INT8]["state"] == "wrong":
        assert "the outputs differ from the golden outputs on this machine" in found[INT8]["reason"]
        assert "output 'digit' differs by" in found[INT8]["reason"]
        assert variant != INT8
    else:
        assert variant == INT8
    np.testing.assert_allclose(outputs, classify_here(digits, images, variant), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("board", "arch", "cpu", "processor", "features", "accelerators"),
    [
        ("raspberry-pi-3", "armhf", "cortex-a7", "Cortex-A53", ["neon"], []),
        ("raspberry-pi-4", "arm64", "cortex-a72", "Cortex-A72", ["neon"], ["Coral Edge TPU", "GPU"]),
        ("raspberry-pi-5", "arm64", "cortex-a76", "Cortex-A76", ["neon", "fp16", "dotprod"], ["GPU"]),
        ("jetson-orin-nano", "arm64", "cortex-a76", "Cortex-A78AE", ["neon", "fp16", "dotprod"], ["GPU"]),
        ("imx8m-plus", "arm64", "cortex-a53", "Cortex-A53", ["neon"], ["Verisilicon NPU"]),
        ("coral-dev-board", "arm64", "cortex-a53", "Cortex-A53", ["neon"], ["Coral Edge TPU"]),
    ],
)
def test_a_board_is_diagnosed_and_the_bundle_placed(  # noqa: PLR0917  # a board has so many properties
    make_machine: MakeMachine,
    digits: Path,
    board: str,
    arch: str,
    cpu: str,
    processor: str,
    features: list[str],
    accelerators: list[str],
) -> None:
    machine = make_machine(board, arch)
    done = machine.run("-m", "edgekit_runtime", "doctor", "--json", cpu=cpu)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["board"]["processor"], told["board"]["features"]) == (processor, features)
    assert told["board"]["arch"] == {"arm64": "aarch64", "armhf": "armv7l"}[arch]
    assert [accelerator["what"] for accelerator in told["accelerators"]] == accelerators
    engines = {engine["engine"]: engine for engine in told["engines"]}
    if arch == "armhf":
        assert engines["litert"]["library"] == "tflite-runtime 2.14.0"
        assert engines["openvino"]["install"] == "there is no wheel for armv7l"
    else:
        assert engines["litert"]["library"].startswith("ai-edge-litert ")
        assert engines["openvino"]["library"].startswith("openvino ")
    done = machine.run("-m", "edgekit_runtime", "inspect", digits, "--json", cpu=cpu)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["placement"]["variant"] == INT8


@pytest.mark.parametrize(
    ("board", "arch", "cpu"), [("raspberry-pi-4", "arm64", "cortex-a72"), ("raspberry-pi-3", "armhf", "cortex-a7")]
)
def test_every_part_is_measured_there(make_machine: MakeMachine, digits: Path, board: str, arch: str, cpu: str) -> None:
    machine = make_machine(board, arch)
    how = ["--seconds", "0.1", "--require", INT8, "--json"]
    done = machine.run("-m", "edgekit_runtime", "measure", digits, *how, cpu=cpu)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["cold_ms"] > told["first_ms"] > 0
    assert [scenario["name"] for scenario in told["scenarios"]] == ["single-stream", "multi-stream", "offline"]
    assert told["before"]["temperatures_c"].keys() == {"cpu-thermal"}
    assert told["after"]["clocks"]["policy0"]["governor"] == "ondemand"
