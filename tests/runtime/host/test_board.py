"""The properties and the thermal state of boards, read from files of real boards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_runtime.host.board import read_board
from edgekit_runtime.host.thermal import Clock, ThermalState, problems, read_thermal_state

MakeBoard = Callable[[str], Path]
CALM = ThermalState({}, {"policy0": Clock(1800, 1800, 1800, "ondemand")}, (), 0)


BOARDS = {
    "raspberry-pi-3": ("Raspberry Pi 3 Model B Plus Rev 1.3", "brcm,bcm2837", "Cortex-A53", "neon", 4, 923),
    "raspberry-pi-4": ("Raspberry Pi 4 Model B Rev 1.4", "brcm,bcm2711", "Cortex-A72", "neon", 4, 3793),
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712", "Cortex-A76", "neon fp16 dotprod", 4, 8051),
    "jetson-orin-nano": (
        *("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,tegra234", "Cortex-A78AE"),
        *("neon fp16 dotprod", 6, 7619),
    ),
    "imx8m-plus": ("NXP i.MX8MPlus EVK board", "fsl,imx8mp", "Cortex-A53", "neon", 4, 5743),
    "coral-dev-board": ("Freescale i.MX8MQ Phanbell", "fsl,imx8mq", "Cortex-A53", "neon", 4, 994),
}


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_read_from_its_files(make_board: MakeBoard, board: str) -> None:
    found = read_board(str(make_board(board)))
    assert found.memory_bytes is not None
    assert found.available_bytes is not None
    memory_mib = found.memory_bytes >> 20
    message = (found.name, found.soc, found.processor, " ".join(found.features), found.cores, memory_mib)
    assert message == BOARDS[board]
    assert found.available_bytes < found.memory_bytes


def test_every_described_board_is_tested(repository: Path) -> None:
    assert {path.stem for path in (repository / "tests" / "boards").glob("*.toml")} == BOARDS.keys()


def test_features_are_common_to_all_cores(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    cores = ("asimd asimddp i8mm", "0xd46"), ("asimd asimddp", "0xd05")
    blocks = [f"processor: {i}\nFeatures: {words}\nCPU part: {part}\n\n" for i, (words, part) in enumerate(cores)]
    (tmp_path / "proc" / "cpuinfo").write_text("".join(blocks), encoding="utf-8")
    found = read_board(str(tmp_path))
    assert found.features == ("neon", "dotprod")
    assert found.processor == "Cortex-A510, Cortex-A55"


def test_a_machine_without_any_files_can_be_read(tmp_path: Path) -> None:
    found = read_board(str(tmp_path))
    assert (found.name, found.soc, found.processor, found.features) == (None, None, None, ())
    assert found.cores == os.cpu_count()
    assert read_thermal_state(str(tmp_path)) == ThermalState({}, {}, (), 0)


def test_the_thermal_state_is_read(make_board: MakeBoard) -> None:
    hot = read_thermal_state(str(make_board("raspberry-pi-3")))
    assert hot.temperatures_c == {"cpu-thermal": 82.706}
    assert hot.clocks == {"policy0": Clock(1200, 1400, 1400, "ondemand")}
    orin = read_thermal_state(str(make_board("jetson-orin-nano")))
    assert set(orin.clocks) == {"policy0", "policy4"}
    assert set(orin.temperatures_c) == {"cpu-thermal", "gpu-thermal"}


def test_files_with_invalid_content_are_ignored(tmp_path: Path) -> None:
    for path, text in {
        "sys/devices/platform/soc/soc:firmware/get_throttled": "throttled=no\n",
        "sys/class/thermal/thermal_zone0/temp": "nan\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "inf\n",
        "proc/meminfo": "MemTotal: much\n\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert read_thermal_state(str(tmp_path)) == ThermalState({}, {}, (), 0)
    assert read_board(str(tmp_path)).memory_bytes is None


def test_reasons_for_throttling_are_named(make_board: MakeBoard) -> None:
    root = make_board("raspberry-pi-4")
    for path, text in {
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",  # now, and since the start
        "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
        "sys/class/thermal/cooling_device0/cur_state": "2\n",
        "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device1/cur_state": "3\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    found = read_thermal_state(str(root))
    assert found.limits == ("under-voltage", "throttled", "cooled by cpufreq-cpu0")
    assert found.throttle_events == 7


@pytest.mark.parametrize(
    ("after", "printed"),
    [
        (CALM, []),
        (replace(CALM, clocks={"policy0": Clock(1750, 1800, 1800, "")}), []),
        (replace(CALM, clocks={"policy0": Clock(600, 1800, 1800, "")}), ["policy0 slowed from 1800 to 600 MHz"]),
        (replace(CALM, clocks={"policy0": Clock(1800, 1800, 900, "")}), ["policy0 is limited to 900 of 1800 MHz"]),
        (replace(CALM, throttle_events=3), ["throttled 3 times"]),
        (replace(CALM, limits=("under-voltage",)), ["throttled: under-voltage"]),
        (replace(CALM, clocks={}), []),
    ],
)
def test_problems_between_two_states_are_listed(after: ThermalState, printed: list[str]) -> None:
    assert problems(CALM, after) == printed
