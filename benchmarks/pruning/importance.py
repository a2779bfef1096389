"""Compare the importance measures: accuracy of ResNet-20 right after pruning, at equal MACs, before fine-tuning.

Channels are ranked over the whole module by importance per MAC saved, as in `edgekit prune --prune-to macs=R`. From
level to level the module is pruned further and its channels are scored again, by every measure alike. Gradients are
those of 256 of the 500 calibration images.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.commands import MODELS
from benchmarks.harness.figures import show
from benchmarks.harness.real_data import folder, need
from benchmarks.models.resnet20 import MEAN, STD
from edgekit_converters import data as dataset
from edgekit_converters.load import load
from edgekit_converters.prune import (
    IMPORTANCES,
    AnalyzeRequest,
    CutChannelsRequest,
    PruningGraph,
    ScoreRequest,
    analyze,
    cut_channels,
    score,
)
from edgekit_converters.prune.channel_selection import Baseline, Goal, Limits, read_scores, select_channels
from edgekit_converters.prune.cost_terms import terms_of, total
from edgekit_converters.records import EvaluateRequest, InputShape, Source, SourceRequest
from edgekit_converters.verify.metrics import evaluate
from edgekit_runtime.format.manifest import InputSpec, Preprocessing

LEVELS = (0.9, 0.8, 0.7, 0.6)  # of the MACs
SEEDS = 3  # of "random"


@dataclass(frozen=True)
class PruningBenchmark:
    """The dense module and its data."""

    source: Source
    inputs: tuple[InputSpec, ...]
    calibration: dataset.DataSet
    test: dataset.DataSet
    work: Path

    @functools.cached_property
    def dense(self) -> PruningGraph:
        """Return the pruning graph of the dense module."""
        return analyze(AnalyzeRequest(self.source), self.work)

    def accuracy(self, source: Source) -> float:
        """Return the fraction of correctly classified test images."""
        return evaluate(EvaluateRequest(source, self.inputs, source.outputs, self.test), self.work).value

    def cut(self, source: Source, level: float, importance: str, seed: int) -> Source:
        """Prune a module, dense or already pruned, to this fraction of the dense MACs."""
        data = self.calibration if importance in ("taylor", "gradient") else None
        folder = Path(tempfile.mkdtemp(dir=self.work))
        graph = analyze(AnalyzeRequest(source), folder)
        scores = read_scores(score(ScoreRequest(source, self.inputs, importance, data, seed), folder), importance)
        goal, terms = Goal("macs", level), terms_of("macs", graph)
        whole = Baseline(self.dense.widths, total(terms_of("macs", self.dense), self.dense.widths))
        cuts = select_channels(graph, scores, terms, goal, Limits(multiple=1), whole)
        return load(cut_channels(CutChannelsRequest(source, cuts), folder), folder)


def main() -> None:
    """Print a row for each importance measure, and whether they rank as expected."""
    data = folder(__doc__)
    weights = data / "pytorch_resnet20/resnet20-12fca82f.th"
    need(weights, data / "cifar10/test.npz", data / "cifar10/calibration.npz")
    request = SourceRequest(
        "python",
        MODELS / "resnet20.py",
        function="resnet20",
        weights=weights,
        input_shapes=(InputShape((1, 3, 32, 32)),),
    )
    with tempfile.TemporaryDirectory() as name:
        bench = _open(load(request, Path(name)), data, Path(name))
        show("dense", f"{100 * bench.accuracy(bench.source):.2f} %")
        print(f"  {'accuracy in %, of the MACs are left':<36}" + "".join(f"{level:>8.0%}" for level in LEVELS))
        rows = {importance: _row(bench, importance) for importance in IMPORTANCES}
        for low, high in (("random", "l2"), ("l2", "taylor")):
            better = [f"{level:.0%}" for level, a, b in zip(LEVELS, rows[low], rows[high], strict=True) if b > a]
            show(f"{high} beats {low} at", " ".join(better) or "none", "all", holds=len(better) == len(LEVELS))


def _row(bench: PruningBenchmark, importance: str) -> list[float]:
    runs = [_walk(bench, importance, seed) for seed in range(SEEDS if importance == "random" else 1)]
    found = [100 * sum(each) / len(each) for each in zip(*runs, strict=True)]
    print(f"  {importance:<36}" + "".join(f"{one:>8.2f}" for one in found), flush=True)
    return found


def _walk(bench: PruningBenchmark, importance: str, seed: int) -> list[float]:
    """Return the accuracy at each level."""
    source, found = bench.source, []
    for level in LEVELS:
        source = bench.cut(source, level, importance, seed)
        found.append(bench.accuracy(source))
    return found


def _open(source: Source, data: Path, work: Path) -> PruningBenchmark:
    normal = Preprocessing(scale=1 / 255, mean=MEAN, std=STD)
    inputs = tuple(replace(spec, preprocessing=normal) for spec in source.inputs)
    sets = []
    for name in ("calibration", "test"):
        (work / name).mkdir()
        request = dataset.DataRequest(str(data / f"cifar10/{name}.npz"), inputs, purpose=name)
        sets.append(dataset.prepare(request, work / name))
    return PruningBenchmark(source, inputs, sets[0], sets[1], work)


if __name__ == "__main__":
    main()
