"""`doctor` on boards described by their files, and on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime import __main__ as command
from edgekit_runtime.commands.doctor import Diagnosis, diagnose, lines
from edgekit_runtime.engines import ENGINES, EngineEntry, null

MakeBoard = Callable[[str], Path]
CORAL, GPU, VX = "Coral Edge TPU", "GPU", "Verisilicon NPU"


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def accelerators(found: Diagnosis) -> dict[str, tuple[str, ...]]:
    return {accelerator.what: accelerator.signs for accelerator in found.accelerators}


@pytest.mark.parametrize(
    ("board", "found"),
    [
        ("raspberry-pi-3", []),
        ("raspberry-pi-4", [CORAL, GPU]),
        ("raspberry-pi-5", [GPU]),
        ("jetson-orin-nano", [GPU]),
        ("imx8m-plus", [VX]),
        ("coral-dev-board", [CORAL]),
    ],
)
def test_the_accelerators_of_a_board_are_found(make_board: MakeBoard, board: str, found: list[str]) -> None:
    assert list(accelerators(diagnose(str(make_board(board))))) == found


def test_an_accelerator_has_its_signs_and_the_reason_why_it_cannot_run(make_board: MakeBoard) -> None:
    found = diagnose(str(make_board("raspberry-pi-4")))
    (coral,) = (accelerator for accelerator in found.accelerators if accelerator.what == CORAL)
    assert (coral.signs, coral.delegate) == (("usb:1a6e:089a",), "edgetpu")
    assert coral.library or "libedgetpu.so.1, is not installed" in coral.reason


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("dev/apex_0", "", CORAL),
        ("dev/ethosu0", "", "Arm Ethos-U"),
        ("dev/accel/accel0", "", "NPU"),
        ("dev/dri/renderD129", "", GPU),
        ("sys/bus/usb/devices/1-1/idVendor", "18d1 9302", CORAL),
        ("sys/bus/usb/devices/1-1/idVendor", "03e7 2485", "Intel Neural Compute Stick 2"),
    ],
)
def test_every_sign_has_a_known_form(tmp_path: Path, path: str, text: str, what: str) -> None:
    vendor, _, product = text.partition(" ")
    write(tmp_path, path, f"{vendor}\n")
    if product:
        write(tmp_path, path.replace("idVendor", "idProduct"), f"{product}\n")
    assert list(accelerators(diagnose(str(tmp_path)))) == [what]


def test_heat_and_a_powersave_governor_give_warnings(make_board: MakeBoard) -> None:
    root = make_board("raspberry-pi-3")
    write(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n")
    assert diagnose(str(root)).warnings[:2] == (
        "cpu-thermal is at 83 degrees Celsius: the processor may slow down",
        "policy0 uses the powersave governor: it will be slow",
    )


def test_low_memory_gives_a_warning(make_board: MakeBoard) -> None:
    root = make_board("raspberry-pi-5")
    write(root, "proc/meminfo", "MemTotal: 450000 kB\nMemAvailable: 20480 kB\n")
    assert "only 20 MiB of memory are free" in diagnose(str(root)).warnings


def test_the_lines_describe_the_machine(make_board: MakeBoard) -> None:
    printed = "\n".join(lines(diagnose(str(make_board("jetson-orin-nano")))))
    for words in (
        "NVIDIA Jetson Orin Nano Developer Kit",
        "Cortex-A78AE, 6 cores",
        "neon, fp16, dotprod",
        "gpu-thermal 46.3 C",
        "policy4 1510 of 1510 MHz, schedutil",
        "engine       litert: ",
        "accelerator  GPU (/dev/dri/renderD*)",
    ):
        assert words in printed


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"board", "python", "numpy", "engines", "accelerators", "condition", "disk_free_bytes"} <= record.keys()
    assert [engine["engine"] for engine in record["engines"]] == [name for name in ENGINES if name != "null"]
    assert all(engine["library"] or (engine["reason"] and engine["install"]) for engine in record["engines"])


def test_doctor_finds_an_engine_that_is_one_module_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(null.__file__).read_text(encoding="utf-8")
    (tmp_path / "own_engine.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENGINES, "own", EngineEntry("own_engine"))
    engine = next(engine for engine in diagnose().engines if engine.engine == "own")
    assert (engine.library, engine.reason) == (f"numpy {np.__version__}", "")


def test_without_an_engine_doctor_names_what_to_install() -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(('ai_edge_litert', 'tflite_runtime', 'openvino')))"
    code = f"{hide}; from edgekit_runtime.__main__ import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "engine       litert: LiteRT is not installed" in done.stdout
    assert "pip install 'edgekit-runtime[litert]'" in done.stdout
