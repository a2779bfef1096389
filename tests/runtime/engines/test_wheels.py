"""Whether a machine can load an engine's library, and what to install if it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime.engines import litert
from edgekit_runtime.engines.wheels import incompatibility, install_advice
from edgekit_runtime.errors import IncompatibleDevice
from edgekit_runtime.format.manifest import Golden, Variant


@pytest.mark.parametrize(
    ("platform", "arch", "have", "message"),
    [
        ("manylinux_2_35", "aarch64", ("aarch64", "2.36"), None),
        ("manylinux_2_35", "aarch64", ("aarch64", "2.35"), None),
        ("manylinux_2_35", "aarch64", ("aarch64", "2.31"), "glibc 2.35 or newer, but this system has 2.31"),
        ("manylinux2014", "x86_64", ("x86_64", "2.17"), None),
        ("manylinux2014", "x86_64", ("x86_64", "2.12"), "glibc 2.17 or newer, but this system has 2.12"),
        ("manylinux_2_28", "x86_64", ("aarch64", "2.36"), "x86_64, this machine is aarch64"),
        ("manylinux_2_28", "x86_64", ("x86_64", None), "glibc 2.28, but this system has another C library"),
    ],
)
def test_incompatibility_names_what_a_wheel_needs(
    platform: str, arch: str, have: tuple[str, str | None], message: str | None
) -> None:
    assert incompatibility(platform, arch, *have) == message


@pytest.mark.parametrize(
    ("engine", "arch", "glibc", "python", "message"),
    [
        ("litert", "aarch64", "2.36", (3, 13), "pip install 'edgekit-runtime[litert]'"),
        ("litert", "armv7l", "2.36", (3, 11), "pip install 'edgekit-runtime[tflite]'"),
        ("litert", "armv7l", "2.41", (3, 13), "its last wheel for armv7l is for Python 3.11"),
        ("litert", "armv6l", "2.36", (3, 11), "there is no wheel for armv6l"),
        ("openvino", "armv7l", "2.36", (3, 11), "there is no wheel for armv7l"),
        ("openvino", "aarch64", "2.31", (3, 9), "newer, but this system has 2.31: use a newer system"),
        ("openvino", "x86_64", None, (3, 12), "this system has another C library"),
    ],
)
def test_install_advice_names_what_can_be_installed(
    engine: str, arch: str, glibc: str | None, python: tuple[int, ...], message: str
) -> None:
    assert message in install_advice(engine, arch, glibc, python)


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("cp311-cp311-manylinux_2_99_x86_64", "needs glibc 2.99 or newer"),
        ("cp311-cp311-manylinux_2_17_armv7l", "needs armv7l, this machine is "),
    ],
)
def test_a_wheel_of_another_machine_is_refused_before_it_is_imported(
    make: Callable[..., Path], variant: Variant, tmp_path: Path, tag: str, message: str
) -> None:
    site = tmp_path / "site"
    package, wheel = site / "openvino" / "__init__.py", site / "openvino-1.0.dist-info" / "WHEEL"
    for path, text in ((package, "raise SystemExit('imported')"), (wheel, f"Wheel-Version: 1.0\nTag: {tag}\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    bundle = make(replace(variant, engine="openvino"))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "edgekit_runtime", "inspect", str(bundle)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == IncompatibleDevice.exit_code
    assert "imported" not in done.stdout + done.stderr
    assert f"the installed openvino {message}" in done.stderr


@pytest.mark.needs_litert
def test_an_operator_newer_than_the_library_is_named(make_tflite: Callable[..., Path]) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    float32 = np.zeros((4, 4), np.float32)
    path = make_tflite(
        "FULLY_CONNECTED",
        ("x", (1, 4), "float32", None, None),
        ("w", (4, 4), "float32", None, float32),
        ("y", (1, 4), "float32", None, None),
    )
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    model.operatorCodes[0].version = 99
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    variant = Variant("v", "litert", "cpu", "float32", (path.name,), (), (), Golden((), ()))
    with pytest.raises(IncompatibleDevice, match="uses version 99 of FULLY_CONNECTED"):
        litert.open_model(path, variant, None)
