"""The command `edgekit layers`, on the embedded model."""

import json

import pytest
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.conversion.layers import LayersReport, unmatched_layers
from edgekit_converters.recipe.recipe import Layer
from edgekit_converters.trace import LayerMap


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
@pytest.mark.needs_rich
def test_the_layers_of_a_model_in_both_formats(demo):
    model = str(demo / "digits.keras")
    done = CliRunner().invoke(cli, ["layers", model, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    by_type = {layer["operator"]: layer for layer in report["layers"]}
    assert by_type["Dense"]["macs"] > 0
    assert all(set(layer["nodes"]) == {"litert", "openvino"} for layer in report["layers"])
    assert all(layer["nodes"]["litert"] and layer["nodes"]["openvino"] for layer in report["layers"] if layer["macs"])
    assert report["macs"] == sum(layer["macs"] for layer in report["layers"])

    table = CliRunner().invoke(cli, ["layers", model, "--device", "raspberry-pi-5"]).output
    assert all(layer["name"] in table for layer in report["layers"])
    assert "nodes in litert" in table and "openvino" not in table
    assert f"{report['parameters']:,}" in table


def test_layers_without_a_node_are_noted():
    layers = (
        Layer("a", "Dense", (1, 2), 4, 4),
        Layer("b", "Dense", (1, 2), 4, 4, ("x",)),
        Layer("c", "Drop", (1,), 0, 0),
    )
    assert unmatched_layers(LayerMap("litert", layers)) == (
        "litert: no node was found for a, so recipe rules do not apply to them",
    )
    assert unmatched_layers(LayerMap("litert", layers[1:])) == ()
    report = LayersReport("m", "keras", layers, {"litert": ((), ("x",), ())}, ())
    assert report.totals == {"parameters": 8, "macs": 8}
