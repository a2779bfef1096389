"""The command `edgekit sensitivity`: a layer spoiled on purpose is named, and the model is better without it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.conversion.sensitivity import (
    LayerResult,
    MeasuredArtifact,
    SensitivityReport,
    error_shares,
    merge_engines,
    with_float_layers,
)
from edgekit.report.sensitivity_html import page
from edgekit_converters.recipe.recipe import Recipe, Rule
from edgekit_converters.recipe.toml import read
from edgekit_converters.sensitivity import LayerSensitivity
from edgekit_runtime.errors import PlanError

ENGINES = ("litert", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net whose layer "wide" has great weights for a channel that is always zero, and samples.

    8 bits a weight cannot hold the others beside them.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Flatten(name="flatten")(layers.Conv2D(8, 3, activation="relu", name="conv")(image))
    x = layers.Dense(16, activation="relu", name="wide")(x)
    model = keras.Model(image, layers.Dense(10, name="head", bias_initializer="random_normal")(x))
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 0], bias[0] = 0, -1
    model.get_layer("conv").set_weights([kernel, bias])
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[::8] = 40 * np.abs(kernel).max()
    model.get_layer("wide").set_weights([kernel, bias])
    folder = tmp_path_factory.mktemp("sensitivity")
    model.save(folder / "net.keras")
    samples = np.random.default_rng(1).standard_normal((64, 8, 8, 3)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples, y=model.predict(samples, verbose=0).argmax(1))
    return folder


@pytest.fixture
def run_sensitivity(folder, tmp_path, monkeypatch):
    """Run the command on the net; gives its JSON."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder / "cache"))

    def run(*arguments):
        data = str(folder / "samples.npz")
        done = CliRunner().invoke(
            cli, ["sensitivity", str(folder / "net.keras"), "--calibrate", data, *arguments, "--json"]
        )
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
@pytest.mark.needs_rich
def test_the_worst_layer_is_named_and_a_recipe_keeps_it_in_float(run_sensitivity, tmp_path):
    recipe, html = tmp_path / "r.toml", tmp_path / "layers.html"
    found = run_sensitivity("--write-recipe", str(recipe), "--float-layers", "1", "--report", str(html))
    assert [row["layer"] for row in found["rows"]][:1] == ["wide"]
    weighted = [row for row in found["rows"] if row["macs"]]
    assert {row["layer"] for row in weighted} == {"conv", "wide", "head"}
    assert all(set(row["figures"]) == set(ENGINES) for row in weighted)
    for engine in ENGINES:
        figures = {row["layer"]: row["figures"][engine] for row in found["rows"] if engine in row["figures"]}
        assert figures["wide"]["alone_db"] < min(figures[name]["alone_db"] for name in ("conv", "head")) - 6
        assert figures["wide"]["share"] > 0.7
        assert sum(one["share"] for one in figures.values()) == pytest.approx(1)
    passing = next(row for row in found["rows"] if row["layer"] == "flatten")
    assert set(passing["figures"]) == {"litert"}  # what IR rounds before it is charged to the layer behind it
    assert read(recipe) == Recipe("int8-static", rules=(Rule("float32", layers=("wide",)),))
    assert "<svg" in html.read_text() and "wide" in html.read_text()


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
def test_measured_artifacts_agree_with_the_estimate(run_sensitivity, folder):
    found = run_sensitivity("--exact", "--evaluate", str(folder / "samples.npz"))
    assert found["exact"] and found["metric"] == "accuracy" and found["source"] == 1.0
    for engine in ENGINES:
        figures = {row["layer"]: row["figures"][engine] for row in found["rows"] if row["macs"]}
        for name, one in figures.items():
            assert one["alone"]["snr_db"] == pytest.approx(one["alone_db"], abs=6), name
            assert 0 < one["alone"]["value"] <= 1 and 0 < one["kept"]["value"] <= 1
        whole = found["whole"][engine]
        assert figures["wide"]["kept"]["snr_db"] > whole["snr_db"] + 6
        assert max(figures[name]["kept"]["snr_db"] for name in ("conv", "head")) < whole["snr_db"] + 6


@pytest.mark.needs_keras
@pytest.mark.needs_rich
def test_the_table(folder, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
    model, data = str(folder / "net.keras"), str(folder / "samples.npz")
    done = CliRunner().invoke(cli, ["sensitivity", model, "--calibrate", data, "-d", "raspberry-pi-5"])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if " dB" in line]
    assert [line.split()[0] for line in lines[:1]] == ["wide"] and "█" in lines[0]
    assert "litert, all in int8-static" in lines[-1] and "openvino" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "1"], "go with --write-recipe"),
        (["--keep", "1", "--keep-db", "20", "--write-recipe", "r.toml"], "give one"),
        (["-q", "int8", "--recipe", "r.toml"], "leave out --quantize"),
        (["--report", "layers.pdf"], ".html or .json"),
        (["--write-recipe", "nowhere/r.toml"], "no such folder"),
        (["-q", "auto"], "for one scheme"),
        (["-q", "float32"], "quantizes nothing"),
    ],
)
def test_contradicting_options_are_refused_at_once(arguments, message, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    data = ["--calibrate", str(demo / "calibration.npz")]
    done = CliRunner().invoke(cli, ["sensitivity", str(demo / "digits.keras"), *data, *arguments])
    assert done.exit_code != 0
    assert message in f"{done.output} {done.exception}"
    assert not (tmp_path / "cache" / "stages").exists()


def figures(layer, alone_db, *also, share=0.0):
    return LayerResult(LayerSensitivity(layer, "Conv2D", also, 10, 100, alone_db - 5, alone_db + 5, alone_db), share)


def report(**engines):
    rows = merge_engines(engines)
    return SensitivityReport(
        "net",
        Recipe("int8-static"),
        False,
        None,
        None,
        {name: MeasuredArtifact(20.0) for name in engines},
        64,
        rows,
        (),
        (),
    )


def test_layers_of_both_formats_are_brought_together():
    rows = merge_engines(
        {
            "litert": [figures("a", 10, "relu"), figures("b", 20)],
            "openvino": [figures("b", 5), figures("a", 30), figures("relu", 40)],
        }
    )
    assert [row.layer for row in rows] == ["b", "a", "relu"]
    assert [row.worst_db for row in rows] == [5, 10, 10]
    assert rows[2].figures["litert"].sensitivity.layer == "a"  # which computes it there
    assert rows[2].figures["openvino"].sensitivity.layer == "relu"


def test_shares_add_up_as_powers():
    assert error_shares([10, 20, 20]) == pytest.approx([10 / 12, 1 / 12, 1 / 12])
    assert error_shares([]) == []


def test_which_layers_a_recipe_keeps():
    rows = report(litert=[figures("a", 10, share=0.8), figures("b", 20, share=0.08), figures("c", 30, share=0.12)])

    def kept(**chosen):
        return with_float_layers(rows, **chosen).rules[-1].layers

    assert kept() == ("a", "c")
    assert kept(count=2) == ("a", "b")
    assert kept(below_db=25) == ("a", "b")
    assert with_float_layers(report(litert=[figures("a", 10)])).rules == (Rule("float32", layers=("a",)),)
    with pytest.raises(PlanError, match="none stays in float"):
        with_float_layers(rows, below_db=5)


@pytest.mark.needs_jinja2
def test_the_page_has_a_bar_and_a_line_for_each_layer_and_escapes_names():
    text = page(report(litert=[figures("a<b>", 0), figures("b", 20)], openvino=[figures("b", 40)]))
    assert "a&lt;b&gt;" in text and "<b>" not in text
    assert [part.split("<")[0] for part in text.split('class="axis"')[1:]] and text.count('class="axis"') == 3
    assert ">1e+02 %<" in text and ">10 %<" in text and ">1 %<" in text
    assert text.count("<tr>") == 3
