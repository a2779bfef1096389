"""Checkpoints of pruning rounds, beside those of training.

Latencies differ from run to run, and so may the selection of channels. A resumed training must train the same model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict

from edgekit.conversion.context import ConversionContext
from edgekit.pruning.options import PruningPlan
from edgekit.pruning.search import PruningResult, cut_channels, drop_branches
from edgekit.training import training as trainings
from edgekit_converters.execution import stage_cache
from edgekit_converters.prune import AnalyzeRequest
from edgekit_converters.records import ChannelCut, Source


class RoundCheckpoints:
    """The selections of all rounds of one pruning; without ``--resume`` older ones are removed.

    Raises:
        PlanError: there is nothing to resume.
    """

    def __init__(self, context: ConversionContext, pruning: PruningPlan) -> None:
        self.context = context
        self.resume = pruning.training is not None and pruning.training.resume
        training = pruning.training
        identity = (
            stage_cache.key("prune", (AnalyzeRequest(context.source), context.inputs), {}),
            str(pruning.goal),
            asdict(pruning.limits),
            (pruning.importance, pruning.depth, pruning.rounds, pruning.table.to_json() if pruning.table else None),
            (training.data, asdict(trainings.without_resumable(training.settings))) if training else None,
            (context.data.calibrate, context.targets.schemes, context.targets.engines),
        )
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self.folder = stage_cache.cache_root() / "pruning" / digest[:32]
        if self.resume and not self.folder.is_dir():
            raise trainings.nothing_to_resume()
        if not self.resume:
            self.remove()

    def load(self, number: int, source: Source) -> PruningResult | None:
        """Return the result of a round, pruned again with the saved selection; None if there is none."""
        path = self.folder / f"{number}.json"
        if not self.resume or not path.is_file():
            return None
        saved = json.loads(path.read_text())
        cuts = tuple(ChannelCut(group, tuple(kept)) for group, kept in saved["cuts"])
        before = drop_branches(self.context, source, tuple(saved["dropped"]))
        pruned = cut_channels(self.context, before, cuts)
        return PruningResult(before, tuple(saved["dropped"]), cuts, pruned, saved["counted"], saved["measured"])

    def save(self, number: int, result: PruningResult) -> None:
        """Save the selection of a round; if it cannot be written, there is no checkpoint."""
        selection = {
            "dropped": result.dropped,
            "cuts": [(cut.group, cut.kept) for cut in result.cuts],
            "counted": result.counted,
            "measured": result.measured,
        }
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = self.folder / f".{number}.new"
            unfinished.write_text(json.dumps(selection))
            unfinished.replace(self.folder / f"{number}.json")

    def remove(self) -> None:
        """Remove the checkpoints of all rounds."""
        shutil.rmtree(self.folder, ignore_errors=True)
