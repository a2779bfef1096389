"""The output path of a pruned or distilled model is checked before the model is opened."""

import json
import zipfile
from pathlib import Path

import pytest

from edgekit.plan.option_declaration import build
from edgekit.plan.options import PruneOptions
from edgekit.training import model_file
from edgekit_converters.load import kind_of
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import ConversionError, PlanError


def requested(folder, model, output, *also, keras="3.8.0"):
    path = folder / model
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": keras}))
    if not model.endswith(".keras"):
        path.write_bytes(b"something else")
    options = build(PruneOptions, {"model": path, "output": folder / output})
    return model_file.requested_path(options, SourceRequest(kind_of(path), path), *(str(folder / one) for one in also))


@pytest.mark.parametrize(
    ("model", "output", "keras"),
    [
        ("net.keras", "small.keras", "3.8.0"),
        ("net.keras", "small.H5", "2.15.0"),  # which Keras 3 tries first, and tf_keras then
        ("net.keras", "small.keras", "2.15.0"),
        ("net.h5", "small.keras", ""),
        ("net.h5", "small.h5", ""),
        ("net.pth", "small.pt2", ""),
        ("net.py", "small.keras", ""),
        ("net.py", "small.h5", ""),
        ("net.py", "small.pt2", ""),
        ("net.tflite", "small.tflite", ""),  # refused for what it is, by the stage that saves
    ],
)
def test_a_fitting_suffix_is_accepted(tmp_path, model, output, keras):
    assert requested(tmp_path, model, output, keras=keras) == tmp_path / output


@pytest.mark.parametrize(
    ("model", "output", "keras", "kinds"),
    [
        ("net.keras", "small.h5", "3.8.0", r"\.keras"),
        ("net.keras", "small.pt2", "2.15.0", r"\.keras or \.h5"),
        ("net.h5", "small.pt2", "", r"\.keras or \.h5"),
        ("net.pth", "small.keras", "", r"\.pt2"),
        ("net.py", "small.edgekit", "", r"\.keras or \.h5 or \.pt2"),
        ("net.h5", "small", "", r"\.keras or \.h5"),
    ],
)
def test_another_suffix_is_refused(tmp_path, model, output, keras, kinds):
    with pytest.raises(PlanError, match=rf"-o .*{output}: the model is saved as {kinds}; give"):
        requested(tmp_path, model, output, keras=keras)


@pytest.mark.parametrize("metadata", ["[]", "{}", "no JSON"])
def test_a_malformed_keras_file_is_left_to_the_load_stage(tmp_path, metadata):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", metadata)
    options = build(PruneOptions, {"model": path, "output": tmp_path / "small.h5"})
    assert model_file.requested_path(options, SourceRequest("keras", path)) == tmp_path / "small.h5"


def test_an_input_file_as_output_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"-o .*teacher\.keras: this command already reads"):
        requested(tmp_path, "net.keras", "teacher.keras", "teacher.keras")


def test_without_an_output_the_name_gets_the_suffix_of_the_saved_model():
    assert model_file.output_path(None, "net-pruned", Path("cache/model.h5")) == Path("net-pruned.h5")
    with pytest.raises(PlanError, match=r"saved as \.h5;"):
        model_file.output_path(Path("small.keras"), "net-pruned", Path("cache/model.h5"))


def test_an_error_leaves_no_partial_file(tmp_path):
    (tmp_path / "made").write_bytes(b"model")
    model_file.copy_to(tmp_path / "made", tmp_path / "out.keras")
    assert (tmp_path / "out.keras").read_bytes() == b"model"
    with pytest.raises(ConversionError, match="cannot be written"):
        model_file.copy_to(tmp_path / "made", tmp_path / "nowhere" / "out.keras")
    with pytest.raises(ConversionError, match="cannot be written"):
        model_file.copy_to(tmp_path / "lost", tmp_path / "out.keras")
    assert (tmp_path / "out.keras").read_bytes() == b"model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out.keras"]
