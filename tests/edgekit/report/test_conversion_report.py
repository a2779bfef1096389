"""The report: its schema in docs/ matches the records, and reports of every kind are valid."""

import dataclasses
import json
import math

import pytest

from edgekit.conversion.trial import Trial
from edgekit.report.conversion_report import (
    BundleReport,
    Report,
    SourceReport,
    TrialReport,
    VariantReport,
    coverage_notes,
    finding_lines,
    report_writer,
    trial_reports,
    variant_rows,
)
from edgekit.report.pruning_report import GroupReport, ModelReport, PruningReport, RoundReport
from edgekit_converters.examine.coverage import Coverage, CoverageStep, RangeGrowth
from edgekit_converters.examine.detectors import DETECTORS
from edgekit_converters.execution.runner import StageCost
from edgekit_converters.formats import FORMATS
from edgekit_converters.frameworks import FRAMEWORKS
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import Finding, Latency, Parity
from edgekit_converters.train import Epoch
from edgekit_converters.verify.metrics import METRICS
from edgekit_runtime.errors import ConversionError

RECORDS = {
    (): Report,
    ("source",): SourceReport,
    ("variants", "items"): VariantReport,
    ("variants", "items", "parity"): Parity,
    ("variants", "items", "latency_ms"): Latency,
    ("bundle",): BundleReport,
    ("stages", "items"): StageCost,
    ("findings", "items"): Finding,
    ("coverage",): Coverage,
    ("coverage", "doublings", "items"): CoverageStep,
    ("coverage", "worst", "items"): RangeGrowth,
    ("trials", "items"): TrialReport,
    ("pruning",): PruningReport,
    ("pruning", "groups", "items"): GroupReport,
    ("pruning", "rounds", "items"): RoundReport,
    ("pruning", "rounds", "items", "history", "items"): Epoch,
    ("pruning", "models", "items"): ModelReport,
}


@pytest.fixture
def schema(repository):
    return json.loads((repository / "docs" / "report.schema.json").read_text())


def coverage(settled=200):
    doublings = (CoverageStep(100, 0.2, 0.5), CoverageStep(200, 0.02, 0.25))
    return Coverage(200, 34, doublings, (RangeGrowth("relu;bias", 0.31), RangeGrowth("add", 0.3)), settled)


def pruning():
    models = [
        ModelReport(
            model, engine, "int8-static", part * 1000, part * 9000, part * 4000, part * 0.4, Latency(part, part, 9)
        )
        for model, part in (("dense", 2), ("pruned", 1))
        for engine in ("litert", "openvino")
    ]
    return PruningReport(
        goal="--prune-to latency=0.5",
        importance="taylor",
        counted=0.48,
        measured=0.5,
        measured_in="litert int8-static",
        metric="accuracy",
        dense=0.8,
        pruned=0.4,
        groups=(GroupReport("conv", "channels", 16, 8),),
        whole=(("head", "its outputs are the model's"),),
        rounds=(RoundReport("accuracy", 0.2, 0.4, 1, (Epoch(1, 0.5, 0.4, 1e-3, 3.0),)),),
        models=tuple(models),
        notes=("1 < 2",),
    )


def report(metric="accuracy", value=0.97):
    measured = (metric, value, value if metric == "accuracy" else None, 400) if metric else (None, None, None, None)
    variant = VariantReport(
        name="litert-int8-static",
        engine="litert",
        device="cpu",
        scheme="int8-static",
        size_bytes=25520,
        accuracy=measured[2],
        value=measured[1],
        drop=0.0025 if metric else None,
        parity=Parity("digit", 0.01, 48.2, 0.99999),
        latency_ms=Latency(0.011, 0.012, 1000),
    )
    return Report(
        edgekit="0.1.0",
        source=SourceReport("digits", "keras", *measured),
        variants=(variant,),
        bundle=BundleReport("digits.edgekit", 81000, "0" * 64),
        versions={"edgekit": "0.1.0", "tensorflow": "2.21.0"},
        stages=(StageCost("load", "", 2.5, 700.0, False), StageCost("lower", "litert", 0.0, None, True)),
        wall_seconds=4.2,
        notes=("only 40 samples",),
        findings=tuple(Finding("litert", "rare-values", f"relu_{place}", "is wide", "nothing") for place in range(5)),
        coverage=coverage(),
        trials=trial_reports(
            [
                Trial("litert", Recipe("int8-static", "mse"), "measured", "", 400, 0.97, 0.0025, 0.011, 25520, 3.1),
                Trial("litert", Recipe("float32"), "skipped", "the time was over"),
            ]
        ),
        choices=("litert: took int8-static mse.",),
        pruning=pruning(),
    )


@pytest.mark.parametrize("path", RECORDS)
def test_the_schema_has_the_keys_of_the_records(schema, path):
    part = schema
    for step in path:
        part = part["items"] if step == "items" else part["properties"][step]
    names = {field.name for field in dataclasses.fields(RECORDS[path])}
    assert set(part["properties"]) == set(part["required"]) == names


def test_the_enums_of_the_schema_match_the_tables(schema, stages):
    variant = schema["properties"]["variants"]["items"]["properties"]
    assert set(variant["scheme"]["enum"]) == set(SCHEMES)
    assert schema["$defs"]["engine"]["enum"] == list(FORMATS)
    assert schema["$defs"]["framework"]["enum"] == list(FRAMEWORKS)
    metric = schema["properties"]["source"]["properties"]["metric"]["pattern"]
    assert metric == rf"^({'|'.join(METRICS)}|.*\.py:.*)$"
    assert list(schema["properties"]["findings"]["items"]["properties"]["kind"]["enum"]) == list(DETECTORS)
    assert set(schema["properties"]["stages"]["items"]["properties"]["stage"]["enum"]) == set(stages)


@pytest.mark.needs_jsonschema
@pytest.mark.parametrize(
    ("metric", "value"), [("accuracy", 0.97), ("reconstruction_error", 154.2), ("m.py:f", 0.5), (None, None)]
)
def test_reports_fit_the_schema(schema, metric, value):
    import jsonschema

    written = json.loads(report(metric, value).to_json())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"more": 1}, schema)


def test_the_page_explains_every_key(repository, schema):
    page = (repository / "docs" / "report.md").read_text()
    assert [key for key in schema["properties"] if key not in page] == []
    variant = schema["properties"]["variants"]["items"]["properties"]
    assert [key for key in variant if key not in page] == []


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        report("accuracy", math.nan).to_json()


def test_the_report_is_written_completely_or_not_at_all(tmp_path):
    with report_writer(tmp_path / "r.json") as write:
        write(report().to_json())
        assert not (tmp_path / "r.json").exists()
    assert json.loads((tmp_path / "r.json").read_text())["report_version"] == 1
    with pytest.raises(RuntimeError, match="meanwhile"), report_writer(tmp_path / "s.json"):
        raise RuntimeError("meanwhile")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_path_that_is_not_writable_is_refused_at_once(tmp_path):
    with pytest.raises(ConversionError, match="cannot be written"), report_writer(tmp_path / "missing" / "r.json"):
        raise AssertionError("not reached")


def test_the_table_uses_the_metric_of_the_model():
    source, variant = variant_rows(report())
    assert source["value"] == "97.00 %"
    assert (variant["size"], variant["drop"], variant["p50"]) == ("24.9 KiB", "+0.25", "0.011 ms")
    assert variant_rows(report("reconstruction_error", 154.2))[0]["value"] == "154.2"
    assert len(variant_rows(report(None, None))) == 1  # nothing was evaluated: no line for the source


@pytest.mark.needs_rich
def test_the_terminal_shows_what_was_pruned_or_only_trained(capsys):
    from rich.console import Console

    from edgekit.cli.terminal import print_pruning

    print_pruning(Console(width=160), pruning())
    printed = capsys.readouterr().out
    assert "--prune-to latency=0.5: 48 % left as counted, measured 50 % in litert int8-static; 1 of 1 groups" in printed
    assert "accuracy of the unconverted model: original 80.00 %, pruned 40.00 %" in printed
    models = [
        dataclasses.replace(one, model={"pruned": "trained"}.get(one.model, one.model)) for one in pruning().models
    ]
    trained = {"goal": "--quantize-aware int8-static", "groups": (), "models": tuple(models)}
    print_pruning(Console(width=160), dataclasses.replace(pruning(), **trained))
    printed = capsys.readouterr().out
    assert "--quantize-aware int8-static: trained, nothing was pruned" in printed
    assert "accuracy of the unconverted model: original 80.00 %, trained 40.00 %" in printed
    assert "original litert int8-static" in printed
    assert "dense" not in printed


def test_the_first_findings_of_a_kind_are_shown():
    lines = finding_lines(report())
    assert lines[0] == "litert: relu_0: is wide\n  remedy: nothing"
    assert lines[3:] == ["litert: rare-values 2 more times; --report lists all"]


def test_coverage_is_reported_in_a_sentence():
    facts = "the last half of 200 samples widened them by 2 % on average"
    assert coverage_notes(coverage()) == (f"calibration: ranges have settled after 200 samples: {facts}",)
    (note,) = coverage_notes(coverage(settled=None))
    assert note.startswith(f"calibration: ranges still grow: {facts}")
    assert note.endswith("in 25 % of 34 tensors, most in relu (31 %); give more samples")
    assert coverage_notes(None) == ()
