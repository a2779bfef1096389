"""`measure`: percentiles only with enough samples, every scenario, and energy if there is a power rail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime import __main__ as command
from edgekit_runtime.commands.benchmark import golden_samples, lines, measure, overlatencies, percentiles
from edgekit_runtime.host.power import PowerMeter


def chance(most: int, samples: int, percentile: float) -> float:
    """P[Binomial(samples, 1 - percentile) <= most], term by term."""
    terms = (math.comb(samples, k) * (1 - percentile) ** k * percentile ** (samples - k) for k in range(most + 1))
    return sum(terms)


@pytest.mark.parametrize(("percentile", "least"), [(0.5, 11), (0.9, 64), (0.99, 662)])
def test_a_percentile_needs_as_many_samples_as_in_mlperf(percentile: float, least: int) -> None:
    assert overlatencies(least - 1, percentile) < 1
    assert overlatencies(least, percentile) == 1


@pytest.mark.parametrize("samples", [1, 10, 64, 300, 1000])
@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.99])
def test_overlatencies_is_the_binomial_bound(samples: int, percentile: float) -> None:
    most = overlatencies(samples, percentile)
    assert most < 0 or chance(most, samples, percentile) <= 0.01
    assert chance(most + 1, samples, percentile) > 0.01


def test_the_reported_value_is_at_least_the_percentile_in_99_of_100_runs() -> None:
    rng = np.random.default_rng(3)
    runs = [percentiles(list(rng.exponential(size=200))) for _ in range(400)]
    assert all(run.keys() == {"p50", "p90"} for run in runs)
    for name, p in (("p50", 0.5), ("p90", 0.9)):
        below = sum(run[name] < -math.log(1 - p) for run in runs)
        assert below <= 12  # 4 are expected


def test_too_few_samples_give_no_percentiles() -> None:
    assert percentiles([1.0] * 10) == {}
    assert percentiles([float(i) for i in range(11)]) == {"p50": 10.0}
    assert percentiles([]) == {}


def test_a_measurement_has_every_figure(bundle_path: Path) -> None:
    found = measure(str(bundle_path), seconds=0.05)
    assert (found.variant, found.runs_on) == ("null-float32", "null:cpu")
    assert found.cold_ms is not None
    assert found.cold_ms > found.first_ms > 0
    assert found.load_ms > 0
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes > 5 << 20
    assert [scenario.name for scenario in found.scenarios] == ["single-stream", "multi-stream", "offline"]
    single, multi, offline = found.scenarios
    assert all(scenario.calls >= 11 and scenario.per_second > 0 for scenario in found.scenarios)
    assert {"p50"} <= single.percentiles_ms.keys()
    assert single.mean_ms is not None
    assert multi.mean_ms is not None
    assert (offline.mean_ms, offline.percentiles_ms) == (None, {})
    printed = "\n".join(lines(found))
    assert "multi-stream" in printed
    assert "energy" in printed


def test_offline_reports_the_number_of_engines(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit_runtime.model.cores", lambda: 3)
    assert measure(str(bundle_path), seconds=0.05).scenarios[2].callers == 3


def test_golden_samples_are_the_inputs_by_name(bundle_path: Path) -> None:
    samples = golden_samples(str(bundle_path))
    assert len(samples) == 3
    assert {name: array.shape for name, array in samples[0].items()} == {"image": (1, 2, 2, 3)}


def test_measure_as_json(bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["measure", str(bundle_path), "--seconds", "0.1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {
        "cold_ms",
        "load_ms",
        "first_ms",
        "scenarios",
        "peak_memory_bytes",
        "energy_mj",
        "distrust",
    } <= record.keys()


def test_measure_refuses_as_load_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["measure", str(tmp_path / "nowhere.edgekit")]) == 6
    assert capsys.readouterr().err.startswith("error: ")


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("after_uj", "joules"),
    [("3500000", 2.5), ("500000", 9.5)],  # it may have begun anew
)
def test_rapl_is_read(tmp_path: Path, after_uj: str, joules: float) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    part = {f"{zone}:0/energy_uj": "7", f"{zone}:0/name": "core"}  # within the package
    write(tmp_path, {f"{zone}/name": "package-0\n", f"{zone}/energy_uj": "1000000\n", **part})
    write(tmp_path, {f"{zone}/max_energy_range_uj": "10000000\n"})
    with PowerMeter(str(tmp_path)) as meter:
        write(tmp_path, {f"{zone}/energy_uj": after_uj})
    assert meter.joules == {"rapl package-0": pytest.approx(joules)}


@pytest.mark.parametrize(
    ("files", "rail"),
    [
        ({"name": "ina226\n", "power1_input": "2000000\n"}, "ina226"),
        (
            {"name": "ina3221\n", "curr1_input": "400\n", "in1_input": "5000\n", "in1_label": "VDD_IN\n"},
            "ina3221 VDD_IN",
        ),
    ],
)
def test_ina_sensors_are_read(tmp_path: Path, files: dict[str, str], rail: str) -> None:
    write(tmp_path, {f"sys/class/hwmon/hwmon0/{name}": text for name, text in files.items()})
    write(tmp_path, {"sys/class/hwmon/hwmon1/name": "cpu_thermal\n"})
    with PowerMeter(str(tmp_path)) as meter:
        pass
    assert set(meter.joules) == {rail}
    assert meter.joules[rail] > 0


def test_without_a_rail_no_energy_is_reported(tmp_path: Path) -> None:
    with PowerMeter(str(tmp_path)) as meter:
        pass
    assert meter.joules == {}
