"""Energy, where the machine has a rail to read: RAPL's counters, or INA sensors under hwmon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from threading import Event, Thread
from time import perf_counter
from types import TracebackType

from edgekit_runtime.host.board import read_text
from edgekit_runtime.host.thermal import found, number

SAMPLE_S = 0.05  # how often sensors, which tell power and not energy, are read


class Meter:
    """What every rail gave between entering and leaving: ``with Meter() as meter: ...; meter.joules``.

    A rail feeds more than this process, and idles too: it is the rail's energy, not the program's alone.
    ``joules`` is empty where there is no rail, or none that may be read.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self.joules: dict[str, float] = {}

    def __enter__(self) -> Meter:
        self._counted_uj = dict(_counters(self._root))
        self._left, self._sampler = Event(), Thread(target=self._sample, daemon=True)
        if dict(_sensors(self._root)):
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._sampler.is_alive():
            self._sampler.join()
        for rail, (now_uj, range_uj) in _counters(self._root):
            before_uj = self._counted_uj.get(rail, (now_uj, range_uj))[0]
            spent_uj = now_uj - before_uj if now_uj >= before_uj else now_uj + range_uj - before_uj
            self.joules[rail] = spent_uj / 1e6

    def _sample(self) -> None:
        """Add up power times time, until the meter is left."""
        last = perf_counter()
        while True:
            ended = self._left.wait(SAMPLE_S)
            now = perf_counter()
            for rail, watts in _sensors(self._root):
                self.joules[rail] = self.joules.get(rail, 0.0) + watts * (now - last)
            last = now
            if ended:
                return


def _counters(root: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """RAPL's packages: microjoules so far, and where the counter begins anew. Often only root may read them."""
    for zone in found(root, "sys/class/powercap/*-rapl:[0-9]*"):
        now_uj = number(os.path.join(zone, "energy_uj"))
        if os.path.basename(zone).count(":") == 1 and now_uj is not None:
            name = read_text(zone, "name").strip() or os.path.basename(zone)
            yield f"rapl {name}", (now_uj, number(os.path.join(zone, "max_energy_range_uj")) or 0.0)


def _sensors(root: str) -> Iterator[tuple[str, float]]:
    """INA sensors: watts, as power in microwatts, or as millivolts times milliamperes a channel."""
    for chip in found(root, "sys/class/hwmon/hwmon*"):
        name = read_text(chip, "name").strip()
        if not name.startswith("ina"):
            continue
        power_uw = number(os.path.join(chip, "power1_input"))
        if power_uw is not None:
            yield name, power_uw / 1e6
            continue
        for path in found(chip, "curr*_input"):
            channel = os.path.basename(path)[len("curr") : -len("_input")]
            current_ma, voltage_mv = number(path), number(os.path.join(chip, f"in{channel}_input"))
            if current_ma is not None and voltage_mv is not None:
                label = read_text(chip, f"in{channel}_label").strip() or channel
                yield f"{name} {label}", current_ma * voltage_mv / 1e6
