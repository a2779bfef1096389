"""Notes of a pruning report."""

from pathlib import Path

from edgekit.pruning.comparison import round_notes
from edgekit_converters.records import SourceRequest
from edgekit_converters.train import TrainingResult


def test_notes_of_several_trainings_name_the_round():
    def trained(*notes):
        return TrainingResult(SourceRequest("keras", Path("net.keras")), "accuracy", 0.1, 0.2, (), 0, notes)

    assert list(round_notes([trained("one thing")])) == ["one thing"]
    assert list(round_notes([trained(), trained("one", "another")])) == ["round 2: one", "round 2: another"]
