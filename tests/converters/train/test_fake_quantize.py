"""Imitated integers: the values that quantizers make of weights and activations, while weights stay as they are."""

import dataclasses

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.load import open_source
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import InputShape, QuantizeRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.fake_quantize import (
    ARITHMETICS,
    RANGE_DECAY,
    Grid,
    Role,
    fake_quantize_activations,
    fake_quantize_weights,
    fixed_range,
    fuses,
    grid_of,
    scale_and_zero_point,
    updated_range,
)
from edgekit_converters.train.losses import LossTarget, Objective
from edgekit_converters.train.student import open_student

FRAMEWORKS = [
    pytest.param(one, marks=getattr(pytest.mark, f"needs_{one.removeprefix('tf_')}"))
    for one in ("keras", "tf_keras", "torch")
]
KERAS = """
import numpy as np
import {package} as keras

def build():
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(image)))
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
    y = layers.Conv2D(8, 1, activation="sigmoid")(layers.ReLU(6)(y))
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.Concatenate()([layers.MaxPooling2D()(x), layers.Conv2D(4, 3, strides=2, padding="same")(x)])
    x = layers.ReLU()(layers.BatchNormalization()(layers.AveragePooling2D(2)(x)))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="{gated}")(x)
    x = layers.Dense(6, activation="relu")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(5)(x))
    draw = np.random.default_rng(1)
    for norm in model.layers:
        if "batch_norm" in norm.name:
            channels = len(norm.get_weights()[0])
            moved = draw.normal(0, 0.3, (2, channels))
            norm.set_weights([np.geomspace(0.05, 4, channels), *moved, draw.uniform(0.3, 3, channels)])
    return model
"""
TORCH = """
import torch
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.begin = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.point, self.less = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.alone, self.wide = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3, padding=1)
        self.beside = nn.Conv2d(12, 8, 1)
        self.dense, self.last = nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, image):
        x = self.begin(image)
        y = torch.sigmoid(self.point(functional.relu6(self.norm(self.deep(x)))))
        x = torch.relu(y + x)
        x = torch.cat([functional.max_pool2d(x, 2), self.less(x)], 1)
        x = functional.relu(self.alone(functional.avg_pool2d(x, 2)))
        y = self.wide(x)
        y += self.beside(x)
        x = functional.silu(y).mean((2, 3))
        return self.last(functional.relu(self.dense(x)))

def build():
    torch.manual_seed(3)
    net = Net()
    for norm in (net.begin[1], net.norm, net.alone):
        norm.weight.data = torch.logspace(-1.3, 0.6, norm.num_features)
        nn.init.normal_(norm.bias, 0, 0.3), nn.init.normal_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.running_var, 0.3, 3)
    return net
"""
SUBCLASSED = """
import keras

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, rows):
        return self.dense(rows)

def build():
    keras.utils.set_random_seed(1)
    return Net()
"""
GATED = {"keras": "silu", "tf_keras": "swish"}
CODE = {package: KERAS.format(package=package, gated=GATED[package]) for package in GATED} | {"torch": TORCH}
X = np.random.default_rng(5).normal(0, 1, (40, 8, 8, 3)).astype(np.float32)
LEAST_DB = {"int8-static": 36, "int16x8-static": 70, "int8-weights": 100, "int4-weights": 100}
LABELS = X.mean(axis=(1, 2)).argmax(axis=1)


@pytest.fixture
def source_of(tmp_path, loaded):
    """A net with what quantizers fuse, and with what they do not."""

    def make(framework):
        path = tmp_path / f"{framework}_net.py"
        path.write_text(CODE[framework])
        shapes = (InputShape((1, 3, 8, 8)),) if framework == "torch" else ()
        return loaded(path, function="build", input_shapes=shapes)

    return make


def snr_db(signal, other):
    return 10 * np.log10(np.sum(signal**2) / np.sum((signal - other) ** 2))


def run_artifact(artifact, samples):
    opened = OpenArtifact(artifact)
    computed = [opened.run([samples[place : place + 1]])[0] for place in range(len(samples))]
    opened.close()
    return np.concatenate(computed)


def imitated(source, scheme, inputs):
    """What a student gives that imitates a scheme, its ranges from the very inputs."""
    student = open_student(source, Settings(quantize_aware=scheme))
    given = student.run([inputs])[0]
    student.close()
    return given


def test_weights_become_integers_a_channel_and_folding_changes_none_of_them():
    draw = np.random.default_rng(0)
    weights = draw.normal(0, 1, (3, 3, 4, 6)).astype(np.float32)
    factors = draw.uniform(-2, 2, 6).astype(np.float32)  # of a normalization
    arithmetic = ARITHMETICS["int8-static"]
    rounded = fake_quantize_weights(weights, (-1,), arithmetic)
    step = np.abs(weights).max(axis=(0, 1, 2)) / 127
    integers = rounded / step
    assert np.allclose(integers, np.round(integers), atol=1e-3)
    assert np.abs(integers).max() == pytest.approx(127)
    assert np.abs(rounded - weights).max() <= 0.501 * step.max()
    assert np.allclose(fake_quantize_weights(weights * factors, (-1,), arithmetic), rounded * factors, atol=1e-5)
    assert (
        np.unique(
            (
                fake_quantize_weights(weights, (3,), ARITHMETICS["int4-weights"]) * 7 / np.abs(weights).max((0, 1, 2))
            ).round()
        ).size
        <= 15
    )
    assert not fake_quantize_weights(np.zeros((2, 2), np.float32), (0,), arithmetic).any()


def test_activations_have_an_exact_zero_and_end_where_their_range_does():
    values = np.linspace(-3, 5, 4001, dtype=np.float32)
    rounded = fake_quantize_activations(values, -1.0, 2.0, ARITHMETICS["int8-static"])
    assert len(np.unique(rounded)) == 256
    assert (
        0 in rounded and rounded.min() == pytest.approx(-1, abs=0.006) and rounded.max() == pytest.approx(2, abs=0.006)
    )
    assert (
        fake_quantize_activations(values, 1.0, 2.0, ARITHMETICS["int8-static"]).min() == 0
    )  # a range is made to hold zero
    fine = fake_quantize_activations(values, -3.0, 5.0, ARITHMETICS["int16x8-static"])
    assert np.abs(fine - values).max() <= 0.51 * 5 / 32767


def test_ranges_grow_at_once_and_shrink_slowly():
    kept = np.array([-1, 1], np.float32)
    assert updated_range(kept, np.array([-2, 3], np.float32)).tolist() == [-2, 3]
    assert updated_range(kept, np.zeros(2, np.float32)) == pytest.approx([RANGE_DECAY - 1, 1 - RANGE_DECAY])


def test_averages_of_integers_half_way_between_two_go_away_from_the_integer_zero():
    """In a range of 0 to 255 the integer 0 stands for 128: TFLite halves what it stores."""
    values = np.array([0.25, 0.5, 0.75, 1.5, 127.5, 128.5, 200.5], np.float32)
    ties_away = fake_quantize_activations(values, 0, 255, ARITHMETICS["int8-static"], ties_away=True)
    assert ties_away.tolist() == [0, 0, 1, 1, 127, 129, 201]
    assert fake_quantize_activations(values, 0, 255, ARITHMETICS["int8-static"]).tolist() == [0, 0, 1, 2, 128, 128, 200]


def test_sigmoid_and_tanh_have_the_ranges_of_their_operators():
    for role, scheme, step, zero in (
        (Role.SIGMOID, "int8-static", 1 / 256, -128),
        (Role.TANH, "int8-static", 1 / 128, 0),
        (Role.SIGMOID, "int16x8-static", 1 / 32768, 0),
        (Role.TANH, "int16x8-static", 1 / 32768, 0),
    ):
        assert scale_and_zero_point(*fixed_range(role, ARITHMETICS[scheme]), ARITHMETICS[scheme]) == (
            np.float32(step),
            zero,
        )


def test_depthwise_and_transposed_convolutions_stay_at_8_bits():
    assert (
        ARITHMETICS["int4-weights"].depthwise.weight_bits == 8
        and ARITHMETICS["int8-weights"].depthwise.weight_bits == 8
    )


def test_only_what_operators_fuse_is_not_rounded_between():
    assert fuses(Role.NORM, Role.LAYER) and fuses(Role.RELU, Role.NORM) and fuses(Role.RELU, Role.OTHER)
    assert fuses(Role.HARD_SIGMOID, Role.LAYER) and fuses(Role.CONCATENATES, Role.RELU)
    for consumer, producer in (
        (Role.NORM, Role.RELU),
        (Role.OTHER, Role.LAYER),
        (Role.RELU, Role.INPUT),
        (Role.CONCATENATES, Role.SIGMOID),  # whose integers are given
        (Role.CONCATENATES, Role.MOVES),
    ):
        assert not fuses(consumer, producer)
    assert not fuses(Role.NORM, Role.LAYER, alone=False)  # others take what the layer gives


def test_what_moves_or_averages_values_stays_in_their_integers():
    arithmetic = ARITHMETICS["int8-static"]
    assert grid_of(Role.MOVES, "there", [Grid("here")], arithmetic) == Grid("here", observes=False)
    assert grid_of(Role.POOLS, "there", [Grid("here")], arithmetic) == Grid("here", observes=False, ties_away=True)
    assert grid_of(Role.CONCATENATES, "there", [Grid("here"), Grid("beside")], arithmetic) == Grid("there")
    assert grid_of(Role.FLOAT, "there", [Grid("here")], arithmetic) is None
    assert grid_of(Role.MOVES, "there", [None], arithmetic) is None


@pytest.mark.parametrize("scheme", ["int8-static", "int16x8-static", "int4-weights"])
@pytest.mark.parametrize(
    "framework",
    [pytest.param("keras", marks=pytest.mark.needs_keras), pytest.param("torch", marks=pytest.mark.needs_torch)],
)
def test_each_framework_rounds_by_the_law(framework, scheme):
    arithmetic = ARITHMETICS[scheme]
    weights, values = np.random.default_rng(0).normal(0, 1, (2, 5, 7)).astype(np.float32)
    if framework == "torch":
        import torch

        from edgekit_converters.train.torch import fake_quantize as here

        tensor, channels, plain = torch.tensor, 0, lambda one: one.numpy()
    else:
        import tensorflow as tf

        from edgekit_converters.train.keras import fake_quantize as here

        tensor, channels, plain = tf.constant, (0,), lambda one: one.numpy()
    ours = plain(here.fake_quantize_weights(tensor(weights), channels, arithmetic))
    assert np.allclose(ours, fake_quantize_weights(weights, (0,), arithmetic), atol=1e-6)
    for ties_away in (False, True)[: arithmetic.activation_bits]:
        ours = plain(
            here.fake_quantize(
                tensor(values),
                tensor(np.array([-1.5, 2], np.float32)),
                arithmetic,
                ties_away=ties_away,
            )
        )
        assert np.allclose(
            ours,
            fake_quantize_activations(values, -1.5, 2.0, arithmetic, ties_away=ties_away),
            atol=1e-6,
        )


@pytest.mark.needs_litert
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_imitated_is_what_the_artifact_computes(source_of, lowered, prepared, tmp_path, framework):
    """Of integers in 8 bits one that falls to the other side moves all after it, so that they cannot be quite equal."""
    source = source_of(framework)
    whole = open_source(source.request).run([X])[0]
    artifact, data = lowered(source, "litert"), prepared(source, X)
    for scheme, least_db in LEAST_DB.items():
        (tmp_path / scheme).mkdir()
        request = QuantizeRequest(artifact, Recipe(scheme), source.inputs, data)
        computed = run_artifact(quantize(request, tmp_path / scheme), X)
        near = snr_db(computed, imitated(source, scheme, X))
        assert near > least_db
        assert near > snr_db(computed, whole) + 4


@pytest.mark.needs_litert
@pytest.mark.needs_keras
@pytest.mark.needs_data
def test_a_real_network_is_imitated_as_near_as_the_engines_kernels_agree(
    loaded, lowered, prepared, tmp_path, shared_data
):
    """Two sets of LiteRT's own kernels are 25 dB apart on it; its last average pool alone costs 24 dB."""
    source = loaded(shared_data / "mlperf_tiny/image_classification/pretrainedResnet.h5")
    with np.load(shared_data / "cifar10/calibration.npz") as kept:
        images = kept["x"][:48].astype(np.float32)
    artifact, data = lowered(source, "litert"), prepared(source, images)
    made = quantize(QuantizeRequest(artifact, Recipe("int8-static"), source.inputs, data), tmp_path)
    assert snr_db(run_artifact(made, images), imitated(source, "int8-static", images)) > 30


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_steps_go_by_the_gradients_of_rounded_weights_and_change_the_others(source_of, framework):
    student = ready(source_of(framework), quantize_aware="int4-weights")
    before, batch = weights_of(student), Batch([X], LABELS, [], [])
    kernels = [name for name, array in before.items() if array.ndim > 1]
    student.step(batch, 0.0)
    assert all(np.array_equal(before[name], weights_of(student)[name]) for name in kernels)  # made whole again
    losses = [student.step(batch, 0.05) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    largest = max((weights_of(student)[name] for name in kernels), key=np.size)
    assert len(np.unique(largest)) == largest.size  # of 4 bits there would be 15 for each output
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_state_takes_the_ranges_along(source_of, framework):
    source, batch = source_of(framework), Batch([X], LABELS, [], [])
    first, second = (ready(source, quantize_aware="int8-static") for _ in range(2))
    for _ in range(2):
        first.step(dataclasses.replace(batch, inputs=[X * 2]), 0.01)
    state = {name: array.copy() for name, array in first.state().items()}
    second.restore(state)
    assert np.array_equal(second.run([X])[0], first.run([X])[0])
    for student in (first, second):
        student.start_epoch(2)
    assert first.step(batch, 0.01) == second.step(batch, 0.01)
    ours, theirs = first.state(), second.state()
    assert any(name.startswith("ranges/") for name in ours) and set(ours) == set(theirs)
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    first.close(), second.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_saved_is_the_ordinary_model_of_rounded_weights_and_nothing_else(source_of, tmp_path, framework):
    source = source_of(framework)
    student = ready(source, quantize_aware="int4-weights")
    for _ in range(3):
        student.step(Batch([X], LABELS, [], []), 0.02)
    weights, rounded = weights_of(student), student.run([X])[0]
    request = student.save(tmp_path)
    assert all(np.array_equal(array, weights[name]) for name, array in weights_of(student).items())
    student.close()
    plain = ready(dataclasses.replace(source, request=request))
    found = weights_of(plain)
    assert set(found) == set(weights) == set(plain.state()) - {name for name in plain.state() if "optimizer" in name}
    changed = {name for name, array in found.items() if not np.array_equal(array, weights[name])}
    assert changed == {name for name, array in found.items() if array.ndim > 1}
    assert np.allclose(plain.run([X])[0], rounded, atol=1e-5)
    assert np.allclose(open_source(request).run([X])[0], rounded, atol=1e-5)
    plain.close()


@pytest.mark.needs_torch
@pytest.mark.needs_keras
def test_layers_are_left_with_their_own_activations_and_modules_without_hooks(source_of):
    student = ready(source_of("torch"), quantize_aware="int8-static")
    student.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in student._module.modules())
    student = ready(source_of("keras"), quantize_aware="int8-static")
    names = {layer.activation.__name__ for layer in student._model.layers if hasattr(layer, "activation")}
    assert names == {"linear", "relu", "sigmoid", "silu"}
    student.close()


@pytest.mark.needs_keras
def test_of_a_subclassed_model_weights_are_rounded_and_that_is_said(tmp_path, loaded):
    path = tmp_path / "subclassed.py"
    path.write_text(SUBCLASSED)
    source = loaded(path, function="build", input_shapes=(InputShape((1, 4)),))
    student = open_student(source, Settings(quantize_aware="int8-static"))
    assert "of a subclassed model weights are rounded, activations are not" in student.notes
    inputs = np.eye(4, dtype=np.float32)
    kernel = np.array(student._model.dense.kernel)
    bias = np.array(student._model.dense.bias)
    law = fake_quantize_weights(kernel, (-1,), ARITHMETICS["int8-static"])
    assert np.allclose(student.run([inputs])[0], law + bias, atol=1e-6)
    assert np.array_equal(np.array(student._model.dense.kernel), kernel)
    student.close()


def ready(source, **settings):
    student = open_student(source, Settings(**settings))
    student.run([X])
    student.set_objective(Objective((LossTarget(classes=True, label_weight=1.0),)))
    student.start_epoch(1)
    return student


def weights_of(student):
    return {name: array.copy() for name, array in student.state().items() if name.startswith("weights/")}
