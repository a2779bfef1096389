"""How fast a bundle is on this machine, and how far that can be trusted.

Percentiles are told only when there are enough samples for them, after MLPerf's early stopping: of n calls, let t be
the largest number with P[Binomial(n, 1 - p) <= t] <= 1 - c, where c is 0.99. Then the t-th slowest call is told as
the percentile p: were the true percentile above it, so few calls above it would come by chance in one of a hundred
runs. Without a t of at least 1 nothing is told: p50 takes 11 calls, p90 takes 64, p99 takes 662. The source is
LoadGen's loadgen/early_stopping.cc and results.cc in mlcommons/inference.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.bundle.reader import open_bundle
from edgekit_runtime.host.power import Meter
from edgekit_runtime.host.thermal import Condition, changes, read_condition
from edgekit_runtime.inference.stream import cores
from edgekit_runtime.model import Model, load
from edgekit_runtime.record import dataclass, field

if TYPE_CHECKING:
    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.placement.failover import Event
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.policy import Trust

    Sample = dict[str, Array]

CONFIDENCE = 0.99
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
WARM_UP = 3  # calls before the steady state
LEAST = 11  # calls a scenario, however long they take: enough for p50
# The child says that it has its first result, then how much memory that took at most. VmHWM, because the figure of
# getrusage begins with what the parent had.
CHILD = """
import json, sys
asked = json.loads(sys.argv[1])
from edgekit_runtime import load
from edgekit_runtime.commands.benchmark import golden
model = load(**asked)
model(golden(asked["path"], asked["trust"])[0])
print("answered", flush=True)
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""


@dataclass(frozen=True)
class Wish:
    """What is to be loaded, as for ``load``."""

    path: str
    device: str = "auto"
    require: str | None = None
    threads: int | str | None = None
    delegate: str | None = None
    delegate_options: Options | None = None
    isolate: bool | float = False
    trust: Trust = None


@dataclass(frozen=True)
class Scenario:
    """One way of calling, in the steady state."""

    name: str
    callers: int  # threads that call; offline, the engines that share the work
    calls: int
    per_second: float
    mean_ms: float | None = None  # of a call; None where calls overlap on purpose
    percentiles_ms: dict[str, float] = field(default_factory=dict)  # those that the calls justify


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured."""

    variant: str
    runs_on: str
    cold_ms: float | None  # from the start of a process to its first result; None where that failed
    load_ms: float  # of the first load in a process, the library's import included
    first_ms: float
    scenarios: tuple[Scenario, ...]
    peak_memory_bytes: int | None  # of that process; None for an isolated model, most of which is in its child
    energy_mj: dict[str, float]  # a call, by rail; empty where there is none to read
    events: tuple[Event, ...]  # what an isolated model has lost meanwhile
    distrust: tuple[str, ...]  # what was the matter with the machine meanwhile
    before: Condition
    after: Condition


def measure(wish: Wish, seconds: float = 3.0, on_event: Callable[[Event], Any] | None = None) -> Measurement:
    """Measure one bundle, each scenario for about so many seconds; ``on_event`` is called as ``load`` calls it.

    Raises:
        EdgekitError: as ``load`` does.
    """
    before = read_condition()
    samples = golden(wish.path, wish.trust)
    started = perf_counter()
    with load(**wish.__dict__, on_event=on_event) as model:
        loaded = perf_counter()
        model(samples[0])
        first_ms = (perf_counter() - loaded) * 1e3
        for sample in islice(cycle(samples), WARM_UP):
            model(sample)
        with Meter() as meter:
            single = _callers("single-stream", model, samples, 1, seconds)
        scenarios = (
            single,
            _callers("multi-stream", model, samples, cores(), seconds),
            _offline(model, samples, single.per_second, seconds),
        )
        placement, events = model.placement, model.events
    cold_ms, peak_memory_bytes = _cold(wish)  # now that the self-check is remembered, as it is on any later day
    after = read_condition()
    return Measurement(
        variant=placement.variant,
        runs_on=f"{placement.engine}:{placement.device}",
        cold_ms=cold_ms,
        load_ms=(loaded - started) * 1e3,
        first_ms=first_ms,
        scenarios=scenarios,
        peak_memory_bytes=None if wish.isolate else peak_memory_bytes,
        energy_mj={rail: joules * 1e3 / single.calls for rail, joules in meter.joules.items()},
        events=events,
        distrust=tuple(changes(before, after)),
        before=before,
        after=after,
    )


def golden(path: str, trust: Trust = None) -> list[Sample]:
    """The bundle's golden inputs, one dict by input name a sample."""
    with open_bundle(path, trust) as bundle:
        inputs, paths = bundle.manifest.inputs, bundle.manifest.golden_inputs
        arrays = {spec.name: np.array(bundle.array(path)) for spec, path in zip(inputs, paths)}
    count = min(len(array) for array in arrays.values())
    return [{name: array[i] for name, array in arrays.items()} for i in range(count)]


def overlatencies(samples: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """The t of this module's first lines; less than 1 where the samples do not justify the percentile."""
    over = np.arange(samples + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(over[1:]))])
    log_chances = (
        log_factorials[-1] - log_factorials - log_factorials[::-1]
        + over * np.log(1 - percentile) + (samples - over) * np.log(percentile)
    )  # fmt: skip
    return int(np.searchsorted(np.cumsum(np.exp(log_chances)), 1 - confidence, side="right")) - 1


def percentiles(times_ms: list[float]) -> dict[str, float]:
    """Those percentiles of the times that there are enough of them for."""
    slowest = sorted(times_ms, reverse=True)
    ranks = {name: overlatencies(len(slowest), p) for name, p in PERCENTILES.items()}
    return {name: slowest[rank - 1] for name, rank in ranks.items() if rank >= 1}


def _cold(wish: Wish) -> tuple[float | None, int | None]:
    """Time and peak memory of a process that starts, loads, and gives one result."""
    what = json.dumps(wish.__dict__)
    started = perf_counter()
    try:
        child = subprocess.Popen([sys.executable, "-c", CHILD, what], stdout=subprocess.PIPE, text=True)
    except OSError:
        return None, None
    with child:
        assert child.stdout is not None  # it was asked for
        said = child.stdout.readline()
        cold_ms = (perf_counter() - started) * 1e3
        peak_kib = child.stdout.read().strip()
    return cold_ms if said else None, int(peak_kib) << 10 if peak_kib.isdigit() else None


def _callers(name: str, model: Model, samples: list[Sample], callers: int, seconds: float) -> Scenario:
    """So many threads, each of which calls again when it has its answer."""
    with ThreadPoolExecutor(callers) as pool:
        started = perf_counter()
        runs = [pool.submit(_call_again, model, samples, started + seconds) for _ in range(callers)]
        times_ms = [time_ms for run in runs for time_ms in run.result()]
        took_s = perf_counter() - started
    return Scenario(
        name, callers, len(times_ms), len(times_ms) / took_s, sum(times_ms) / len(times_ms), percentiles(times_ms)
    )


def _call_again(model: Model, samples: list[Sample], until: float) -> list[float]:
    times_ms: list[float] = []
    for sample in cycle(samples):
        started = perf_counter()
        model(sample)
        ended = perf_counter()
        times_ms.append((ended - started) * 1e3)
        if ended >= until and len(times_ms) >= LEAST:
            break
    return times_ms


def _offline(model: Model, samples: list[Sample], per_second: float, seconds: float) -> Scenario:
    """All at once: as many as single-stream would do in the time, through ``stream``."""
    calls = max(LEAST, int(per_second * seconds))
    started = perf_counter()
    for _ in model.stream(islice(cycle(samples), calls)):
        pass
    return Scenario("offline", model.concurrency, calls, calls / (perf_counter() - started))


def lines(found: Measurement) -> Iterator[str]:
    """A measurement in plain lines."""
    yield f"{found.variant} on {found.runs_on}"
    yield f"  cold           {_ms(found.cold_ms)} from the start of a process to its first result"
    yield f"  load           {_ms(found.load_ms)}"
    yield f"  first call     {_ms(found.first_ms)}"
    for scenario in found.scenarios:
        rate = f"{scenario.per_second:,.1f} a second, {scenario.callers} at once"
        yield f"  {scenario.name:<14} {rate}, {_times(scenario)}"
    memory_bytes = found.peak_memory_bytes
    yield f"  peak memory    {'unknown' if memory_bytes is None else f'{memory_bytes / 2**20:,.1f} MiB'}"
    rails = (f"  energy         {mj:.3f} mJ a call ({rail}, all that it feeds)" for rail, mj in found.energy_mj.items())
    yield from list(rails) or ["  energy         unavailable: this machine has no rail that may be read"]
    yield from (f"  distrust       {reason}" for reason in found.distrust)
    if not found.after.clocks and not found.after.temperatures_c:
        yield "  distrust       the machine tells neither its clocks nor its temperatures"


def _times(scenario: Scenario) -> str:
    mean: list[Any] = [] if scenario.mean_ms is None else [f"mean {_ms(scenario.mean_ms)}"]
    told = [f"{name} {_ms(ms)}" for name, ms in scenario.percentiles_ms.items()]
    return ", ".join([*mean, *told, f"{scenario.calls} calls"])


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} ms" if value < 100 else f"{value:.0f} ms"
