"""Names of schemes, and what users call them."""

import pytest

from edgekit_converters.recipe.schemes import ALIASES, BLOCK_SIZES, COARSER, MIXED, SCHEMES, refuse_mixture, scheme
from edgekit_runtime.errors import PlanError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("int8", "int8-static"),
        ("W8A8", "int8-static"),
        ("fp16", "float16"),
        ("w8a16", "int16x8-static"),
        ("w4a16", "int4-weights"),
    ]
    + [(name, name) for name in SCHEMES],
)
def test_names_and_aliases(said, meant):
    assert scheme(said).name == meant


def test_every_alias_means_a_scheme():
    assert set(ALIASES.values()) <= set(SCHEMES)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match=r"unknown quantization scheme 'int3'; known: float32, .*int8 = int8-static"):
        scheme("int3")


def test_float_floors_are_the_contract():
    assert (SCHEMES["float32"].floor_db, SCHEMES["float16"].floor_db) == (60.0, 40.0)


@pytest.mark.parametrize(
    ("engine", "names", "said"),
    [
        (
            "openvino",
            ("int8-static", "int16x8-static"),
            "openvino cannot do int16x8-static; it can do float32, float16,",
        ),
        ("openvino", ("int8-static", "float16"), "openvino cannot mix float16 with int8-static .* it can mix float32,"),
        ("openvino", ("float16", "float32"), "openvino cannot mix float16 with float32"),
        ("litert", ("float32", "int8-static"), 'must be its coarsest: say scheme = "int8-static"'),
        ("litert", ("int8-weights", "float32", "int4-weights"), 'say scheme = "int4-weights"'),
    ],
)
def test_what_an_artifact_cannot_be_is_refused_with_what_it_can(engine, names, said):
    with pytest.raises(PlanError, match=said):
        refuse_mixture(engine, names)


def test_what_an_artifact_can_be():
    refuse_mixture("openvino", ("float16",))
    for engine, names in MIXED.items():
        refuse_mixture(engine, sorted(names, key=COARSER.index, reverse=True), BLOCK_SIZES[engine][-1])
        assert all(engine in SCHEMES[name].engines for name in names)


def test_every_scheme_is_as_coarse_as_somebody_says():
    assert set(COARSER) == set(SCHEMES)


def test_blocks_are_refused_where_there_are_only_channels():
    with pytest.raises(PlanError, match="litert cannot do block_size 32; it can do 0 "):
        refuse_mixture("litert", ("int4-weights",), 32)
