"""What is told of a pruning beside what was measured."""

from pathlib import Path

from edgekit.pruning.comparison import told_of_rounds
from edgekit_converters.records import SourceRequest
from edgekit_converters.train import Trained


def test_of_several_trainings_it_is_told_which_one_is_meant():
    def trained(*notes):
        return Trained(SourceRequest("keras", Path("net.keras")), "accuracy", 0.1, 0.2, (), 0, notes)

    assert list(told_of_rounds([trained("one thing")])) == ["one thing"]
    assert list(told_of_rounds([trained(), trained("one", "another")])) == ["round 2: one", "round 2: another"]
