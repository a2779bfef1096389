"""Laws every shipped device profile keeps. A new file is tested by being there."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from edgekit.plan.profiles import load_profile, profile_names
from edgekit_converters.formats import engines_for_scheme
from edgekit_converters.recipe.schemes import SCHEMES

MAX_LINES = 40


@pytest.fixture(params=profile_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_loads_under_its_own_name(name: str) -> None:
    assert load_profile(name).name == name


def test_it_is_short(name: str) -> None:
    text = resources.files("edgekit_devices").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES


def test_sources_speak_of_its_own_fields_and_name_a_document(name: str) -> None:
    profile = load_profile(name)
    for fact, source in profile.source.items():
        assert getattr(profile, fact, None) is not None, f"{fact} is not a fact of this profile"
        assert re.search(r"https://\S+\.\S+|data sheet|ran on", source), source


def test_numbers_have_a_source(name: str) -> None:
    profile = load_profile(name)
    for fact in ("cores", "memory_mib", "accelerator"):
        assert getattr(profile, fact) is None or fact in profile.source, f"where does {fact} come from?"


def test_who_claims_to_have_run_it_says_on_what(name: str) -> None:
    profile = load_profile(name)
    assert profile.verified == "no" or "ran on" in profile.source["verified"]


def test_every_target_has_a_scheme_that_needs_no_calibration_data(name: str) -> None:
    profile = load_profile(name)
    for target in profile.targets:
        engine = target.partition(":")[0]
        uncalibrated = [scheme for scheme in profile.schemes if not SCHEMES[scheme].calibrated]
        assert any(engine in engines_for_scheme(scheme) for scheme in uncalibrated)


def test_pinned_precision_and_float_schemes_agree(name: str) -> None:
    profile = load_profile(name)
    assert profile.precision == "f32" or "float32" not in profile.schemes
