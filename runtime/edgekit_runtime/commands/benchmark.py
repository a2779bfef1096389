"""Measure how fast a bundle is on this machine, and what makes the measurement unreliable.

A percentile is reported only with enough samples, as in MLPerf's early stopping: of n calls, let t be the largest
number with P[Binomial(n, 1 - p) <= t] <= 1 - c, where c is 0.99. The t-th slowest call is then reported as the
percentile p: if the true percentile were higher, so few slower calls would be seen in only one of a hundred runs. If t
is below 1, the percentile is not reported: p50 needs 11 calls, p90 needs 64, p99 needs 662. The source is LoadGen's
loadgen/early_stopping.cc and results.cc in mlcommons/inference.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.host.power import PowerMeter
from edgekit_runtime.host.thermal import ThermalState, problems, read_thermal_state
from edgekit_runtime.inference.stream import cores
from edgekit_runtime.model import Model, load_model
from edgekit_runtime.placement.load_options import DEFAULTS, LoadOptions
from edgekit_runtime.record import dataclass, field, replace
from edgekit_runtime.store.open_bundle import open_bundle

if TYPE_CHECKING:
    from edgekit_runtime.placement.load_options import Event
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.policy import Trust

    Sample = dict[str, Array]

CONFIDENCE = 0.99
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
WARM_UP = 3  # calls before the steady state
MIN_CALLS = 11  # of a scenario, however long they take: enough for p50
# The child reports its first result, then its peak memory: VmHWM, since getrusage starts at the parent's memory.
CHILD = """
import json, sys
path, options = sys.argv[1], json.loads(sys.argv[2])
from edgekit_runtime import load
from edgekit_runtime.commands.benchmark import golden_samples
model = load(path, **options)
model(golden_samples(path, options["trust"])[0])
print("answered", flush=True)
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""


@dataclass(frozen=True)
class Scenario:
    """The speed of one way to call the model, after the warm-up."""

    name: str
    callers: int  # threads that call; offline, the number of engines
    calls: int
    per_second: float
    mean_ms: float | None = None  # of a call; None if calls overlap
    percentiles_ms: dict[str, float] = field(default_factory=dict)  # those with enough calls


@dataclass(frozen=True)
class Measurement:
    """The result of a benchmark."""

    variant: str
    runs_on: str
    cold_ms: float | None  # from the start of a process to its first result; None if it failed
    load_ms: float  # of the first load in a process, the library's import included
    first_ms: float
    scenarios: tuple[Scenario, ...]
    peak_memory_bytes: int | None  # of that process; None for an isolated model, whose engine is in a child of it
    energy_mj: dict[str, float]  # of a call, by power rail; empty if no rail can be read
    events: tuple[Event, ...]  # variants that an isolated model lost meanwhile
    distrust: tuple[str, ...]  # what makes the measurement unreliable
    before: ThermalState
    after: ThermalState


def measure(path: str, options: LoadOptions = DEFAULTS, seconds: float = 3.0) -> Measurement:
    """Measure a bundle, each scenario for about the given number of seconds.

    Raises:
        EdgekitError: as ``load`` does.
    """
    before = read_thermal_state()
    samples = golden_samples(path, options.trust)
    started = perf_counter()
    with load_model(path, options) as model:
        loaded = perf_counter()
        model(samples[0])
        first_ms = (perf_counter() - loaded) * 1e3
        for sample in islice(cycle(samples), WARM_UP):
            model(sample)
        with PowerMeter() as meter:
            single = _callers("single-stream", model, samples, 1, seconds)
        scenarios = (
            single,
            _callers("multi-stream", model, samples, cores(), seconds),
            _offline(model, samples, single.per_second, seconds),
        )
        placement, events = model.placement, model.events
    cold_ms, peak_memory_bytes = _cold_start(path, options)  # last, with the golden check cached, as in normal use
    after = read_thermal_state()
    return Measurement(
        variant=placement.variant,
        runs_on=f"{placement.engine}:{placement.device}",
        cold_ms=cold_ms,
        load_ms=(loaded - started) * 1e3,
        first_ms=first_ms,
        scenarios=scenarios,
        peak_memory_bytes=None if options.isolate else peak_memory_bytes,
        energy_mj={rail: joules * 1e3 / single.calls for rail, joules in meter.joules.items()},
        events=events,
        distrust=tuple(problems(before, after)),
        before=before,
        after=after,
    )


def golden_samples(path: str, trust: Trust = None) -> list[Sample]:
    """Return the bundle's golden inputs: for each sample a dict by input name."""
    with open_bundle(path, trust) as bundle:
        inputs, paths = bundle.manifest.inputs, bundle.manifest.golden_inputs
        arrays = {spec.name: np.array(bundle.array(path)) for spec, path in zip(inputs, paths)}
    count = min(len(array) for array in arrays.values())
    return [{name: array[i] for name, array in arrays.items()} for i in range(count)]


def overlatencies(samples: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Return the t of the module's docstring; less than 1 if there are not enough samples for the percentile."""
    over = np.arange(samples + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(over[1:]))])
    log_chances = (
        log_factorials[-1] - log_factorials - log_factorials[::-1]
        + over * np.log(1 - percentile) + (samples - over) * np.log(percentile)
    )  # fmt: skip
    return int(np.searchsorted(np.cumsum(np.exp(log_chances)), 1 - confidence, side="right")) - 1


def percentiles(times_ms: list[float]) -> dict[str, float]:
    """Return the percentiles for which there are enough times."""
    slowest = sorted(times_ms, reverse=True)
    ranks = {name: overlatencies(len(slowest), p) for name, p in PERCENTILES.items()}
    return {name: slowest[rank - 1] for name, rank in ranks.items() if rank >= 1}


def _cold_start(path: str, options: LoadOptions) -> tuple[float | None, int | None]:
    """Measure the time and peak memory of a process that starts, loads, and computes one result."""
    arguments = [path, json.dumps(replace(options, on_event=None).__dict__)]
    started = perf_counter()
    try:
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)
    except OSError:
        return None, None
    with child:
        assert child.stdout is not None  # because of PIPE
        answer = child.stdout.readline()
        cold_ms = (perf_counter() - started) * 1e3
        peak_kib = child.stdout.read().strip()
    return cold_ms if answer else None, int(peak_kib) << 10 if peak_kib.isdigit() else None


def _callers(name: str, model: Model, samples: list[Sample], callers: int, seconds: float) -> Scenario:
    """Call in several threads, each of which calls again when it has its result."""
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
        if ended >= until and len(times_ms) >= MIN_CALLS:
            break
    return times_ms


def _offline(model: Model, samples: list[Sample], per_second: float, seconds: float) -> Scenario:
    """Run as many calls as single-stream would do in the time, all submitted through ``stream``."""
    calls = max(MIN_CALLS, int(per_second * seconds))
    started = perf_counter()
    for _ in model.stream(islice(cycle(samples), calls)):
        pass
    return Scenario("offline", model.concurrency, calls, calls / (perf_counter() - started))


def lines(found: Measurement) -> Iterator[str]:
    """Describe a measurement in lines of text."""
    yield f"{found.variant} on {found.runs_on}"
    yield f"  cold           {_ms(found.cold_ms)} from the start of a process to its first result"
    yield f"  load           {_ms(found.load_ms)}"
    yield f"  first call     {_ms(found.first_ms)}"
    for scenario in found.scenarios:
        rate = f"{scenario.per_second:,.1f} per second, {scenario.callers} at once"
        yield f"  {scenario.name:<14} {rate}, {_times(scenario)}"
    memory_bytes = found.peak_memory_bytes
    yield f"  peak memory    {'unknown' if memory_bytes is None else f'{memory_bytes / 2**20:,.1f} MiB'}"
    rails = (
        f"  energy         {mj:.3f} mJ per call ({rail}, with everything it powers)"
        for rail, mj in found.energy_mj.items()
    )
    yield from list(rails) or ["  energy         unavailable: this machine has no power rail that can be read"]
    yield from (f"  distrust       {reason}" for reason in found.distrust)
    if not found.after.clocks and not found.after.temperatures_c:
        yield "  distrust       the machine reports neither clocks nor temperatures"


def _times(scenario: Scenario) -> str:
    mean: list[Any] = [] if scenario.mean_ms is None else [f"mean {_ms(scenario.mean_ms)}"]
    reported = [f"{name} {_ms(ms)}" for name, ms in scenario.percentiles_ms.items()]
    return ", ".join([*mean, *reported, f"{scenario.calls} calls"])


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} ms" if value < 100 else f"{value:.0f} ms"
