"""Names of schemes, and what users call them."""

import pytest

from edgekit_converters.recipe.schemes import ALIASES, COARSER, SCHEMES, scheme
from edgekit_runtime.errors import PlanError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", "int8-static"),
        ("W8A8", "int8-static"),
        ("fp16", "float16"),
        ("w8a16", "int16x8-static"),
        ("w4a16", "int4-weights"),
    ]
    + [(name, name) for name in SCHEMES],
)
def test_names_and_aliases(name, expected):
    assert scheme(name).name == expected


def test_every_alias_means_a_scheme():
    assert set(ALIASES.values()) <= set(SCHEMES)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match=r"unknown quantization scheme 'int3'; known: float32, .*int8 = int8-static"):
        scheme("int3")


def test_float_floors_are_the_contract():
    assert (SCHEMES["float32"].floor_db, SCHEMES["float16"].floor_db) == (60.0, 40.0)


def test_every_scheme_is_as_coarse_as_somebody_says():
    assert set(COARSER) == set(SCHEMES)
