"""The lowest version of an engine that opens an artifact, read from its file."""

from importlib import metadata

import pytest

from edgekit_converters.formats import ir_metadata, tflite_metadata


@pytest.mark.parametrize(
    ("sets", "version"),
    [((1, 5), "2022.1"), ((1, 8), "2022.1"), ((1, 9), "2022.3"), ((10, 1), "2023.0"), ((), "2022.1")],
)
def test_ir_needs_the_release_of_its_newest_operator_set(tmp_path, sets, version):
    layers = "".join(f'<layer type="X" version="opset{number}" />' for number in sets)
    (tmp_path / "m.xml").write_text(f'<net version="11">{layers}</net>')
    assert ir_metadata.lowest_version(tmp_path / "m.xml") == version


@pytest.mark.needs_openvino
def test_an_unknown_operator_set_needs_the_installed_release(tmp_path):
    (tmp_path / "m.xml").write_text('<net version="11"><layer version="opset99" /></net>')
    assert ir_metadata.lowest_version(tmp_path / "m.xml") == metadata.version("openvino").split("-")[0]


@pytest.mark.needs_litert
@pytest.mark.needs_data
def test_tflite_states_its_version(shared_data):
    folder = shared_data / "mlperf_tiny" / "image_classification"
    assert tflite_metadata.lowest_version(folder / "pretrainedResnet.tflite") == "1.5.0"


@pytest.mark.parametrize(("element", "version"), [("i4", "2024.0"), ("u4", "2024.0"), ("i8", "2022.1")])
def test_ir_with_four_bits_needs_a_release_that_supports_them(tmp_path, element, version):
    constant = f'<layer type="Const" version="opset1"><data element_type="{element}" /></layer>'
    (tmp_path / "m.xml").write_text(f'<net version="11">{constant}</net>')
    assert ir_metadata.lowest_version(tmp_path / "m.xml") == version


@pytest.mark.needs_openvino
def test_a_newer_operator_set_needs_a_later_release_than_four_bits(tmp_path):
    (tmp_path / "m.xml").write_text('<net><layer version="opset99"><data element_type="i4" /></layer></net>')
    assert ir_metadata.lowest_version(tmp_path / "m.xml") == metadata.version("openvino").split("-")[0]
