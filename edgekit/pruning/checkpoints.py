"""What was chosen to be cut, kept beside the checkpoints of training.

Times differ from run to run, and so may what is chosen by them; a training that is gone on with must be that of the
same model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict

from edgekit.conversion.context import ConversionContext
from edgekit.pruning.options import PruningPlan
from edgekit.pruning.search import PruningResult, cut, shortened
from edgekit.training import training as trainings
from edgekit_converters.execution import stage_cache
from edgekit_converters.prune import AnalyzeRequest
from edgekit_converters.records import Cut, Source


class Memory:
    """The choices of one pruning; those of a run that is not to be gone on with are forgotten.

    Raises:
        PlanError: it is to be gone on with, and nothing is there.
    """

    def __init__(self, context: ConversionContext, pruning: PruningPlan) -> None:
        self.context = context
        self.resume = pruning.training is not None and pruning.training.resume
        training = pruning.training
        what = (
            stage_cache.key("prune", (AnalyzeRequest(context.source), context.inputs), {}),
            str(pruning.goal),
            asdict(pruning.limits),
            (pruning.importance, pruning.depth, pruning.rounds, pruning.table.to_json() if pruning.table else None),
            (training.data, asdict(trainings.lasting(training.settings))) if training else None,
            (context.data.calibrate, context.targets.schemes, context.targets.engines),
        )
        self.folder = stage_cache.cache_root() / "pruning" / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        if self.resume and not self.folder.is_dir():
            raise trainings.nothing_there()
        if not self.resume:
            self.forget()

    def recall(self, number: int, source: Source) -> PruningResult | None:
        """Return what was chosen in a round, made again; None where nothing is known of it."""
        path = self.folder / f"{number}.json"
        if not self.resume or not path.is_file():
            return None
        known = json.loads(path.read_text())
        cuts = tuple(Cut(group, tuple(kept)) for group, kept in known["cuts"])
        before = shortened(self.context, source, tuple(known["dropped"]))
        made = cut(self.context, before, cuts)
        return PruningResult(before, tuple(known["dropped"]), cuts, made, known["counted"], known["measured"])

    def keep(self, number: int, reached: PruningResult) -> PruningResult:
        """Remember a choice; where nothing can be written, nothing is remembered."""
        known = {
            "dropped": reached.dropped,
            "cuts": [(one.group, one.kept) for one in reached.cuts],
            "counted": reached.counted,
            "measured": reached.measured,
        }
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f".{number}.new"
            aside.write_text(json.dumps(known))
            aside.replace(self.folder / f"{number}.json")
        return reached

    def forget(self) -> None:
        """Forget all rounds, when what they were for has been written."""
        shutil.rmtree(self.folder, ignore_errors=True)
