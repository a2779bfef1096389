"""Recipes as TOML: what is read is what was written, and every mistake is refused with what would be right."""

import pytest

from edgekit_converters.recipe.recipe import CORRECTIONS, STATISTICS, Recipe, Rule
from edgekit_converters.recipe.toml import parse, read, write
from edgekit_runtime.errors import PlanError

WHOLE = """
scheme = "int8"
statistics = "percentile"
percentile = 99.9
corrections = ["equalize", "bias"]

[[rule]]
scheme = "fp32"
layers = ["head.*"]
operators = ["softmax", "sigmoid"]

[[rule]]
scheme = "int16x8-static"
depth = "first"
"""


def test_all_of_it():
    assert parse(WHOLE) == Recipe(
        "int8-static",
        "percentile",
        99.9,
        ("equalize", "bias"),
        rules=(
            Rule("float32", layers=("head.*",), operators=("softmax", "sigmoid")),
            Rule("int16x8-static", depth=("first",)),
        ),
    )


def test_a_scheme_is_enough():
    assert parse('scheme = "int8-static"') == Recipe("int8-static")
    assert write(Recipe("int8-static")) == 'scheme = "int8-static"\n'


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("float16"),
        *(Recipe("int8-static", statistics=statistics) for statistics in STATISTICS),
        *(Recipe("int8-static", corrections=(correction,)) for correction in CORRECTIONS),
        Recipe("int8-static", "percentile", 97.125),
        Recipe("int8-static", rules=(Rule("float32", layers=('q"uo\\te', "ünï😀/\n\x7f\x01", "a]#b")),)),
        Recipe("int8-static", rules=(Rule("float32", ("a",), ("b",), ("first", "last")), Rule("float16", ("c",)))),
        parse(WHOLE),
    ],
)
def test_writing_and_parsing_gives_the_same_recipe(recipe):
    assert parse(write(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheme = ", "not TOML"),
        ("", 'the scheme is missing; add one, such as scheme = "int8-static"'),
        ("scheme = 8", "the scheme is missing"),
        ('scheme = "int3"', "unknown quantization scheme 'int3'; known: float32"),
        ('scheme = "int8"\nstatistic = "mse"', "unknown key 'statistic'; known: scheme, statistics"),
        ('scheme = "int8"\nrules = []', "unknown key 'rules'; known: .*rule"),
        ('scheme = "int8"\nstatistics = "mean"', "unknown value 'mean'; known: min-max"),
        ('scheme = "int8"\nstatistics = 1', "statistics = 1: must be strings"),
        ('scheme = "int8"\ncorrections = ["biass"]', "unknown value 'biass'; known: equalize"),
        ('scheme = "int8"\ncorrections = ["bias", "bias-fast"]', "choose one"),
        ('scheme = "int8"\npercentile = 99.0', "needs statistics"),
        ('scheme = "int8"\nstatistics = "percentile"\npercentile = 100', "between 50 and 100"),
        ('scheme = "int8"\nstatistics = "percentile"\npercentile = true', "between 50 and 100"),
        ('scheme = "int8"\nblock_size = 32', "needs an int4 scheme"),
        ('scheme = "int8"\nblock_size = 33', "unknown value 33; known: 0, 32, 64, 128"),
        ('scheme = "int8"\nblock_size = true', "must be numbers"),
        ('scheme = "int8"\nrule = "float32"', r"\[\[rule\]\]"),
        ('scheme = "int8"\n[rule]\nscheme = "float32"', r"\[\[rule\]\]"),
        ('scheme = "int8"\n[[rule]]\nscheme = "float32"', "rule 1: selects nothing"),
        ('scheme = "int8"\n[[rule]]\nscheme = "float32"\nlayers = []', "rule 1: selects nothing"),
        ('scheme = "int8"\n[[rule]]\nlayers = ["a"]', "rule 1: the scheme is missing"),
        ('scheme = "int8"\n[[rule]]\nscheme = "float32"\nlayer = "a"', "rule 1: unknown key 'layer'"),
        ('scheme = "int8"\n[[rule]]\nscheme = "float32"\nlayers = [1]', "rule 1: layers"),
        ('scheme = "int8"\n[[rule]]\nscheme = "float32"\ndepth = "middle"', "unknown value 'middle'"),
    ],
)
def test_a_mistake_is_refused(text, message):
    with pytest.raises(PlanError, match=message):
        parse(text)


def test_the_same_layers_in_two_schemes_are_refused():
    rules = (Rule("float32", layers=("a", "b")), Rule("float32", depth=("last",)), Rule("float16", layers=("b", "a")))
    with pytest.raises(PlanError, match=r"rules 1 and 3 .* float32 and float16"):
        parse(write(Recipe("int8-static", rules=rules)))


def test_a_file_is_named_in_messages(tmp_path):
    (tmp_path / "r.toml").write_text("scheme = 'int8'\nx = 1")
    with pytest.raises(PlanError, match=r"r\.toml: unknown key 'x'"):
        read(tmp_path / "r.toml")
    with pytest.raises(PlanError, match="cannot be read"):
        read(tmp_path / "missing.toml")
    (tmp_path / "latin1.toml").write_bytes(b"scheme = '\xe9'")
    with pytest.raises(PlanError, match="cannot be read"):
        read(tmp_path / "latin1.toml")
