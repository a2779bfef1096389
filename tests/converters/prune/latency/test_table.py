"""A latency table: what it says between the widths that were timed, and that it comes from the engines themselves."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.formats import FORMATS, format_of
from edgekit_converters.prune import Channels, Group, LayerCost, PruningGraph
from edgekit_converters.prune.latency.profile import TimeLayersRequest, time_layers
from edgekit_converters.prune.latency.table import LatencyTable, LayerTimes, LayerTiming, read_table
from edgekit_converters.records import Artifact
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import TensorBinding

INNER = Channels(0, (("first", 1),))
GRAPH = PruningGraph(
    groups=(Group("first", "channels", 64, ("first",), ("each", "last")),),
    layer_costs=(
        LayerCost("first", "conv", Channels(3), INNER, 256, (3, 3), (2, 2), channel_parameters=1),
        LayerCost("norm", "elementwise", INNER, INNER, 256, channel_parameters=2),
        LayerCost("each", "depthwise", INNER, INNER, 256, (3, 3), (1, 1)),
        LayerCost("apart", "conv", INNER, INNER, 256, (3, 3), (1, 1), divisions=4),
        LayerCost("along", "conv", INNER, INNER, 40, (5,), (1,)),
        LayerCost("look", "attention", INNER, INNER, 40, (40,)),
        LayerCost("last", "dense", INNER, Channels(10), 1, channel_parameters=1),
    ),
    unprunable=(),
    parameters=1000,
)
ROW = LayerTimes("conv", 16, (3, 3), (1, 1), 1, (8, 16), (10, 20, 40), ((1.0, 2.0, 3.0), (2.0, 4.0, 6.0)))


def table(*rows: LayerTimes) -> LatencyTable:
    return LatencyTable("x86_64", "litert", "int8-static", 1000, 5.0, rows)


def test_times_are_interpolated_in_both_widths() -> None:
    assert [ROW.at(8, 10), ROW.at(16, 40), ROW.at(12, 20), ROW.at(8, 30), ROW.at(12, 30)] == [1, 6, 3, 2.5, 3.75]
    assert ROW.at(8, 5) == 0.5  # as between 10 and 20
    assert ROW.at(1, 1) >= 0


def test_a_layer_takes_its_own_row() -> None:
    layer_cost = LayerCost("conv", "conv", Channels(16), Channels(0, (("conv", 1),)), 16, (3, 3), (1, 1))
    graph = PruningGraph((Group("conv", "channels", 40, ("conv",), ()),), (layer_cost,), (), 1000)
    wider = replace(ROW, ins=(32,), outs=(80,), ms=((50.0,),))
    clock = table(wider, ROW).layer_latency(graph, graph.widths)
    assert [clock(layer_cost, {"conv": width}) for width in (40, 20, 10)] == [6, 4, 2]
    assert table(wider, ROW).overhead_ms(graph) == 0  # it takes more alone than the model takes
    assert replace(table(ROW), whole_ms=9.0).overhead_ms(graph) == 3
    assert replace(table(ROW), whole_ms=9.0, parameters=7).overhead_ms(graph) == 0  # that was of another model
    with pytest.raises(DataError, match=r"no conv layer such as conv: 16 to 40 channels at 16 positions"):
        table(replace(ROW, stride=(2, 2))).layer_latency(graph, graph.widths)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table(ROW).to_json())
    assert read_table(path) == table(ROW)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    good = json.loads(table(ROW).to_json())
    texts = {
        "no JSON": "{",
        "another thing": '{"rows": [{"a": 1}]}',
        "a list": "[]",
        "a later format": json.dumps(good | {"format": 2}),
        "times are missing": json.dumps(good | {"rows": [good["rows"][0] | {"ms": [[1.0]]}]}),
        "no number": json.dumps(good | {"rows": [good["rows"][0] | {"ms": [["a", "b", "c"]] * 2}]}),
        "descending": json.dumps(good | {"rows": [good["rows"][0] | {"ins": [16, 8]}]}),
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        with pytest.raises(DataError, match=f"--latency-table .*{name}"):
            read_table(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "absent.json")


def _written(measured: LatencyTable, folder: Path) -> Path:
    (folder / "table.json").write_text(measured.to_json())
    return folder / "table.json"


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("litert", marks=pytest.mark.needs_litert),
        pytest.param("openvino", marks=pytest.mark.needs_openvino),
    ],
)
@pytest.mark.parametrize("scheme", ["int8-static", "float32"])
def test_every_kind_of_layer_is_timed(
    engine: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit_converters.prune.latency.profile.WIDTH_FRACTIONS", (0.25, 1.0))
    described = format_of(engine)
    layer = LayerTiming("conv", 32, 32, 1024, (3, 3), (1, 1))
    (tmp_path / "whole").mkdir()
    build = pkgutil.resolve_name(described.layer_builder)
    files = build(layer, tmp_path / f"whole/model{described.suffix}", int8=False)
    bound = (TensorBinding(0, "", "float32", None, None),)
    whole = Artifact(engine, "float32", files, bound, bound)
    (tmp_path / "stage").mkdir()
    measured = time_layers(TimeLayersRequest(GRAPH, whole, scheme), tmp_path / "stage")
    rows = measured.rows
    clock = measured.layer_latency(GRAPH, GRAPH.widths)
    assert [row.operator for row in rows] == ["conv", "depthwise", "conv", "conv", "attention", "dense"]
    assert rows[0].ins == (3,)
    assert rows[0].outs == (16, 64)
    apart = rows[2]
    assert (apart.divisions, apart.ins, apart.outs) == (4, (16, 64), (16, 64))
    assert clock(GRAPH.layer_costs[3], {"first": 64}) == pytest.approx(apart.ms[1][1])
    assert clock(GRAPH.layer_costs[1], {"first": 64}) == 0  # normalization is computed with what is before it
    assert read_table(_written(measured, tmp_path)) == measured
    assert not list((tmp_path / "stage").iterdir())


@pytest.mark.needs_litert
@pytest.mark.needs_openvino
@pytest.mark.parametrize("engine", FORMATS)
def test_int8_layers_are_really_int8(engine: str, tmp_path: Path) -> None:
    layer = LayerTiming("conv", 32, 32, 1024, (3, 3), (1, 1))
    write_layer = pkgutil.resolve_name(format_of(engine).layer_builder)
    sizes = [
        sum(
            path.stat().st_size
            for path in write_layer(layer, tmp_path / f"{int8}{format_of(engine).suffix}", int8=int8)
        )
        for int8 in (True, False)
    ]
    assert sizes[1] > 2 * sizes[0]
    if engine == "litert":
        from ai_edge_litert.interpreter import Interpreter

        details = Interpreter(str(tmp_path / f"True{format_of(engine).suffix}")).get_input_details()[0]
        assert details["dtype"] == np.int8
        assert list(details["shape"]) == [1, 32, 32, 32]
    else:
        import openvino as ov

        compiled = ov.Core().compile_model(tmp_path / "True.xml", "CPU")
        kinds = {
            node.get_rt_info()["runtimePrecision"]
            for node in compiled.get_runtime_model().get_ops()
            if node.get_rt_info()["layerType"] == "Convolution"
        }
        assert kinds in ({"u8"}, {"i8"})
