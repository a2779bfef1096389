"""Measure energy from the machine's power rails: RAPL's counters, or INA sensors under hwmon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from threading import Event, Thread
from time import perf_counter
from types import TracebackType

from edgekit_runtime.host.board import read_text
from edgekit_runtime.host.thermal import find_paths, read_number

SAMPLE_S = 0.05  # the interval at which sensors, which report power, are read


class PowerMeter:
    """Measures the energy of every rail: ``with PowerMeter() as meter: ...; meter.joules``.

    A rail supplies more than this process, and also while idle: it is the rail's energy, not only the program's.
    ``joules`` is empty if there is no rail, or none that may be read.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self.joules: dict[str, float] = {}

    def __enter__(self) -> PowerMeter:
        self._counted_uj = dict(_counters(self._root))
        self._stop, self._sampler = Event(), Thread(target=self._sample, daemon=True)
        if dict(_sensors(self._root)):
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._sampler.is_alive():
            self._sampler.join()
        for rail, (now_uj, range_uj) in _counters(self._root):
            before_uj = self._counted_uj.get(rail, (now_uj, range_uj))[0]
            spent_uj = now_uj - before_uj if now_uj >= before_uj else now_uj + range_uj - before_uj
            self.joules[rail] = spent_uj / 1e6

    def _sample(self) -> None:
        """Add up power times time until the context ends."""
        last = perf_counter()
        while True:
            ended = self._stop.wait(SAMPLE_S)
            now = perf_counter()
            for rail, watts in _sensors(self._root):
                self.joules[rail] = self.joules.get(rail, 0.0) + watts * (now - last)
            last = now
            if ended:
                return


def _counters(root: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield RAPL's packages: microjoules so far, and where the counter wraps. Often only root may read them."""
    for zone in find_paths(root, "sys/class/powercap/*-rapl:[0-9]*"):
        now_uj = read_number(os.path.join(zone, "energy_uj"))
        if os.path.basename(zone).count(":") == 1 and now_uj is not None:
            name = read_text(zone, "name").strip() or os.path.basename(zone)
            yield f"rapl {name}", (now_uj, read_number(os.path.join(zone, "max_energy_range_uj")) or 0.0)


def _sensors(root: str) -> Iterator[tuple[str, float]]:
    """Yield INA sensors and their watts, from microwatts, or from the millivolts and milliamperes of each channel."""
    for chip in find_paths(root, "sys/class/hwmon/hwmon*"):
        name = read_text(chip, "name").strip()
        if not name.startswith("ina"):
            continue
        power_uw = read_number(os.path.join(chip, "power1_input"))
        if power_uw is not None:
            yield name, power_uw / 1e6
            continue
        for path in find_paths(chip, "curr*_input"):
            channel = os.path.basename(path)[len("curr") : -len("_input")]
            current_ma, voltage_mv = read_number(path), read_number(os.path.join(chip, f"in{channel}_input"))
            if current_ma is not None and voltage_mv is not None:
                label = read_text(chip, f"in{channel}_label").strip() or channel
                yield f"{name} {label}", current_ma * voltage_mv / 1e6
