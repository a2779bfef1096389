"""A few thousand fuzzed inputs; `python tests/attacks/fuzz.py --inputs 1000000` runs a million."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

INPUTS = 2_000


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """The fuzzer script as a module."""
    found = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_seeds_of_the_fuzzer_are_valid(fuzz: ModuleType, tmp_path: Path) -> None:
    fuzz.open_and_hold(tmp_path / "sound.edgekit", fuzz.ARCHIVE)
    assert fuzz.signature.statement_digests(fuzz.STATEMENT).keys() == fuzz.FILES.keys()
    assert len(fuzz.signature.read_envelope(fuzz.ENVELOPE).signatures) == 2


def test_fuzzed_input_is_opened_or_refused_with_a_bundle_error(fuzz: ModuleType, tmp_path: Path) -> None:
    ended, wrong = fuzz.feed(0, INPUTS, 0, tmp_path)
    assert not wrong, "\n".join(wrong[:3])
    assert sum(ended.values()) == INPUTS
    # inputs that are all refused, or by one rule alone, would not reach far
    assert {"opened", "MalformedBundle", "DigestMismatch", "SignatureInvalid", "UnsupportedVersion"} <= ended.keys()


def test_other_exceptions_are_reported(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_random: Random, _path: Path) -> None:
        raise KeyError("unguarded")

    monkeypatch.setattr(fuzz, "READERS", (broken,))
    _, wrong = fuzz.feed(7, 1, 3, tmp_path)
    assert "--seed 3 --first 7" in wrong[0]
    assert "unguarded" in wrong[0]
