"""Options are declared once: the command line, plan files and Python accept the same names and values."""

import math

import pytest
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.plan.option_declaration import build, declarations, names, parts
from edgekit.plan.option_reference import reference
from edgekit.plan.options import ConversionOptions
from edgekit.plan.plan_file import read_plan
from edgekit_runtime.errors import PlanError

OPTIONS = [one for part in parts(ConversionOptions).values() for one in declarations(part)]
ALIASES = {
    "attention_transfer": "hints",
    "auto_fix": "remedies",
    "depth_pruning": "depth",
    "distillation_weight": "teacher_share",
    "exclude_layer": "keep",
    "min_channel_ratio": "floor",
    "warmup_epochs": "warm_up",
}
VALUES = {
    "attention_transfer": True,
    "auto_fix": False,
    "depth_pruning": True,
    "distillation_weight": 0.5,
    "exclude_layer": ("stem*", "head"),
    "min_channel_ratio": 0.2,
    "warmup_epochs": 2.0,
}


def value_of(options, name):
    part = next(field for field, part in parts(ConversionOptions).items() if name in part.__dataclass_fields__)
    return getattr(getattr(options, part), name)


def test_names_of_options_and_tables_are_unique():
    spellings = [name for one in OPTIONS for name in (one.name, *one.metadata.aliases)]
    assert len(spellings) == len(set(spellings))
    assert not set(parts(ConversionOptions)) & set(spellings)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_convert_has_every_option_and_describes_it(option):
    shown = CliRunner().invoke(cli, ["convert", "--help"], terminal_width=300).output
    flag = f"--no-{option.flag[2:]}" if option.metadata.negative else option.flag
    assert option.metadata.help
    assert option.name == "model" or flag in shown
    assert all(f"--{alias.replace('_', '-')} " not in shown for alias in option.metadata.aliases)


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.kind in (int, float)], ids=lambda one: one.name)
def test_every_number_has_bounds_and_none_is_infinite(option):
    for value in (math.nan, math.inf, -math.inf, True, "1"):
        with pytest.raises(PlanError, match=f"{option.flag} .*: expected "):
            option.check(value, f"{option.flag} {value}")


def test_the_aliases_are_those_of_the_last_release():
    assert {one.name: one.metadata.aliases[0] for one in OPTIONS if one.metadata.aliases} == ALIASES


@pytest.mark.parametrize(("name", "alias"), ALIASES.items())
def test_an_older_name_is_accepted_everywhere(name, alias, tmp_path):
    value = VALUES[name]
    assert value_of(build(ConversionOptions, {alias: value}), name) == value
    text = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    (tmp_path / "plan.toml").write_text(f"{alias} = {list(text) if isinstance(text, tuple) else text}")
    assert read_plan(tmp_path / "plan.toml") == {name: value}


@pytest.mark.needs_rich
@pytest.mark.parametrize(
    ("verb", "older", "newer"),
    [
        ("prune", ["--floor", "2", "--prune", "0.5"], ["--min-channel-ratio", "2", "--prune", "0.5"]),
        ("prune", ["--keep", "a"], ["--exclude-layer", "a"]),
        ("prune", ["--depth", "--prune", "0.5"], ["--depth-pruning", "--prune", "0.5"]),
        ("prune", ["--no-depth", "--warm-up", "1"], ["--no-depth-pruning", "--warmup-epochs", "1"]),
        ("prune", ["--teacher-share", "0.5"], ["--distillation-weight", "0.5"]),
        ("prune", ["--hints"], ["--attention-transfer"]),
        ("convert", ["--no-remedies", "--samples", "auto"], ["--no-auto-fix", "--samples", "auto"]),
    ],
)
def test_an_older_spelling_on_the_command_line_does_the_same(verb, older, newer, tmp_path):
    (tmp_path / "net.keras").write_bytes(b"")
    results = [CliRunner().invoke(cli, [verb, str(tmp_path / "net.keras"), *typed]) for typed in (older, newer)]
    assert [type(one.exception) for one in results] == [PlanError, PlanError]
    first, second = (str(one.exception) for one in results)
    assert first == second or first.replace("--floor", "--min-channel-ratio") == second


def test_the_reference_in_the_documentation_is_that_of_the_declarations(repository):
    assert (repository / "docs" / "options.md").read_text(encoding="utf-8") == reference()


def test_an_option_by_two_of_its_names_is_refused():
    with pytest.raises(PlanError, match="--exclude-layer is given twice, by two of its names"):
        build(ConversionOptions, {"keep": "a", "exclude_layer": "b"})


def test_an_unknown_name_is_refused_with_near_ones(tmp_path):
    with pytest.raises(PlanError, match=r"unknown option 'evalute'; did you mean evaluate"):
        build(ConversionOptions, {"evalute": "x.npz"})
    (tmp_path / "plan.toml").write_text("[training]\nepoch = 3")
    with pytest.raises(PlanError, match=r"plan\.toml: \[training\]: unknown key 'epoch'; did you mean epochs"):
        read_plan(tmp_path / "plan.toml")


TABLES = {
    "model_input": 'weights = "w.pth"',
    "preprocessing": "resize = [8, 9]",
    "data": "samples = 64",
    "targets": 'quantize = ["int8", "float16"]',
    "budget": "max_drop = 0",
    "pruning": 'sparsity = "2:4"',
    "training": "epochs = 3",
    "postprocessing": "top = 3",
    "outputs": 'version = "2"',
    "execution": "cache = false",
}


@pytest.mark.parametrize("table", parts(ConversionOptions))
def test_every_part_is_a_table_of_the_plan_file(table, tmp_path):
    (tmp_path / "table.toml").write_text(f"[{table}]\n{TABLES[table]}")
    (tmp_path / "flat.toml").write_text(TABLES[table])
    values = read_plan(tmp_path / "table.toml")
    assert values == read_plan(tmp_path / "flat.toml")
    assert len(values) == 1
    assert names(ConversionOptions)[next(iter(values))] in declarations(parts(ConversionOptions)[table])


TYPED = {str: "x", int: "3", float: "0.5", str | float: "0.5", tuple[str, ...]: "x"}


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.name != "model"], ids=lambda one: one.name)
def test_what_the_command_line_reads_has_the_declared_type(option):
    flag = f"--no-{option.flag[2:]}" if option.metadata.negative else option.flag
    word = option.metadata.choices[0] if option.metadata.choices else TYPED.get(option.kind, "2,3")
    typed = [flag] if option.kind is bool else [flag, "auto" if option.name == "samples" else word]
    context = cli.get_command(None, "convert").make_context("convert", typed)
    value = context.params[option.name]
    assert value not in (None, ())
    assert option.check(value, option.flag) == value
