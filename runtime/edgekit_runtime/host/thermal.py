"""Read temperatures, clocks and throttling of the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from glob import glob
from math import isfinite

from edgekit_runtime.host.board import read_text
from edgekit_runtime.record import dataclass

# The bits of a Raspberry Pi's firmware word `get_throttled`; 16 higher: it has happened since the boot.
PI_LIMITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
SLOWER = 0.95  # a clock below this fraction of its earlier value counts as slower


@dataclass(frozen=True)
class Clock:
    """The clock of a group of cores."""

    now_mhz: float
    max_mhz: float  # of the hardware
    allowed_mhz: float  # by the current policy
    governor: str


@dataclass(frozen=True)
class ThermalState:
    """The thermal state of a machine at one moment. Values that it does not report are missing."""

    temperatures_c: dict[str, float]  # by zone
    clocks: dict[str, Clock]  # by group of cores
    limits: tuple[str, ...]  # reasons why the processor is throttled now
    throttle_events: int  # counted by the processor since the boot


def read_thermal_state(root: str = "/") -> ThermalState:
    """Read the thermal state from sysfs."""
    return ThermalState(
        temperatures_c=dict(_temperatures(root)),
        clocks=dict(_clocks(root)),
        limits=tuple(_limits(root)),
        throttle_events=sum(
            int(read_number(path) or 0)
            for path in find_paths(root, "sys/devices/system/cpu/cpu*/thermal_throttle/*_count")
        ),
    )


def problems(before: ThermalState, after: ThermalState) -> list[str]:
    """Return what makes a measurement between two moments unreliable: throttling, slower clocks, clock limits."""
    found = [f"throttled: {limit}" for limit in dict.fromkeys([*before.limits, *after.limits])]
    if after.throttle_events > before.throttle_events:
        found.append(f"throttled {after.throttle_events - before.throttle_events} times")
    for name, was in before.clocks.items():
        now = after.clocks.get(name, was)
        if now.now_mhz < SLOWER * was.now_mhz:
            found.append(f"{name} slowed from {was.now_mhz:.0f} to {now.now_mhz:.0f} MHz")
        if now.allowed_mhz < SLOWER * now.max_mhz:
            found.append(f"{name} is limited to {now.allowed_mhz:.0f} of {now.max_mhz:.0f} MHz")
    return found


def find_paths(root: str, pattern: str) -> list[str]:
    """Return the paths under the root that match, sorted."""
    return sorted(glob(os.path.join(root, pattern)))


def read_number(path: str) -> float | None:
    """Read a file with one number; None if it has none."""
    try:
        value = float(read_text("", path).strip())
    except ValueError:
        return None
    return value if isfinite(value) else None


def _temperatures(root: str) -> Iterator[tuple[str, float]]:
    for zone in find_paths(root, "sys/class/thermal/thermal_zone*"):
        milli_c = read_number(os.path.join(zone, "temp"))
        if milli_c is not None:
            yield read_text(zone, "type").strip() or os.path.basename(zone), milli_c / 1000


def _clocks(root: str) -> Iterator[tuple[str, Clock]]:
    for policy in find_paths(root, "sys/devices/system/cpu/cpufreq/policy*"):
        names = ("scaling_cur_freq", "cpuinfo_max_freq", "scaling_max_freq")
        now, most, allowed = (read_number(os.path.join(policy, name)) for name in names)  # kHz
        if now is not None and most is not None:
            governor = read_text(policy, "scaling_governor").strip()
            yield os.path.basename(policy), Clock(now / 1000, most / 1000, (allowed or most) / 1000, governor)


def _limits(root: str) -> Iterator[str]:
    for path in find_paths(root, "sys/devices/platform/*/*:firmware/get_throttled"):
        with suppress(ValueError):  # another firmware may use another notation
            word = int(read_text("", path).strip() or "0", 16)
            yield from (text for bit, text in PI_LIMITS.items() if word >> bit & 1)
    for device in find_paths(root, "sys/class/thermal/cooling_device*"):
        kind = read_text(device, "type").strip()
        if "cpu" in kind.lower() and read_number(os.path.join(device, "cur_state")):
            yield f"cooled by {kind}"
