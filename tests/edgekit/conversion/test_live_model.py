"""Live models are saved for the pipeline, and stay as they were."""

import pytest

from edgekit.api import _input_shapes
from edgekit.conversion import live_model
from edgekit_runtime.errors import PlanError, SourceError


@pytest.mark.parametrize(
    ("shapes", "texts"),
    [
        ("1,8,8,1", ("1,8,8,1",)),
        ((1, 8), ("1,8",)),
        ({"b": (1, 4), "a": "1,8:int64"}, ("b=1,4", "a=1,8:int64")),
        ([(1, 4), (1, 8)], ("1,4", "1,8")),
    ],
)
def test_shapes_are_taken_as_python_users_write_them(shapes, texts):
    assert _input_shapes(shapes) == texts


def test_an_invalid_shape_is_refused():
    with pytest.raises(PlanError, match="input_shape is 4"):
        _input_shapes(4)


def test_an_object_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(SourceError, match="dict is neither"):
        live_model.save({}, (), tmp_path)


@pytest.mark.needs_torch
def test_a_modules_inputs_are_found_by_name_and_its_modes_stay(tmp_path):
    import torch

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(8)
            self.last = torch.nn.Linear(4, 8)

        def forward(self, a, b):
            return self.norm(a) + self.last(b)

    model = Two().train()
    model.norm.eval()  # frozen on purpose
    path = live_model.save(model, ("b=1,4", "a=1,8"), tmp_path)
    program = torch.export.load(path)
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in ("a", "b")]
    assert shapes == [(1, 8), (1, 4)]
    assert (model.training, model.norm.training, model.last.training) == (True, False, True)
    with pytest.raises(SourceError, match="no input 'c'; it has a, b"):
        live_model.save(model, ("c=1,4",), tmp_path)


@pytest.mark.needs_torch
def test_a_module_that_cannot_be_exported_is_one_message(tmp_path):
    import torch

    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = Branches().train()
    with pytest.raises(SourceError, match=r"FILE\.py:function"):
        live_model.save(model, ("1,4",), tmp_path)
    assert model.training


@pytest.mark.needs_keras
def test_a_keras_model_with_custom_layers_needs_none_of_their_code(tmp_path):
    import keras

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    inputs = keras.Input((4,))
    path = live_model.save(keras.Model(inputs, Doubled()(inputs)), (), tmp_path)
    assert (path / "saved_model.pb").is_file()
    plain = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(SourceError, match="never built"):
        live_model.save(plain, (), tmp_path)
    assert live_model.save(plain, ("1,4",), tmp_path).name == "model.keras"
