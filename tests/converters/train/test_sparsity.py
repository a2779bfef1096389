"""Sparsity: the law of the masks in every framework, what becomes of it in training, and tfmot's own masks."""

import dataclasses

import numpy as np
import pytest

from edgekit_converters.prune.magnitude_sparsity import SparsifyRequest, sparsify
from edgekit_converters.train import Settings, TrainRequest, sparsity
from edgekit_converters.train.loop import train
from edgekit_converters.train.sparsity import Sparsity, SparsityTraining, schedule
from edgekit_converters.train.student import Kernel, open_student
from edgekit_runtime.errors import ConversionError, PlanError

from .conftest import CODE, images, scaled
from .test_students import batch, ready

FRAMEWORKS = [
    pytest.param("keras", marks=pytest.mark.needs_keras),
    pytest.param("tf_keras", marks=pytest.mark.needs_keras),
    pytest.param("torch", marks=pytest.mark.needs_torch),
]


def test_what_may_be_asked():
    assert sparsity.read("0.8") == Sparsity(0.8)
    assert sparsity.read("2:4") == Sparsity(0.5, 4)
    assert sparsity.read("1:4") == Sparsity(0.75, 4)


@pytest.mark.parametrize(
    "text", ["0", "1", "1.0", "-0.5", "nan", "half", "", "4:4", "0:4", "5:4", "2:", ":4", "1:0", "2:4:8", "3:100"]
)
def test_what_may_not_is_refused(text):
    with pytest.raises(PlanError, match=r"--sparsity .*such as 0.8; or N:M"):
        sparsity.read(text)


def test_a_mask_leaves_out_exactly_the_smallest_also_among_equals():
    weights = np.array([[3.0, -1.0, 0.5], [-4.0, 0.5, 0.5]], np.float32)
    mask = Sparsity(0.5).mask(Kernel("one", weights, 0))
    assert mask.tolist() == [[True, True, False], [True, False, False]]
    assert Sparsity(0.99).mask(Kernel("one", weights, 0)).sum() == 1  # no layer is emptied
    equal = Sparsity(0.25).mask(Kernel("one", np.ones((4, 4), np.float32), 0))
    assert equal.sum() == 12


def test_of_a_pattern_each_block_of_inputs_keeps_its_largest():
    weights = np.random.default_rng(0).normal(size=(3, 8, 5)).astype(np.float32)
    mask = Sparsity(0.75, 4).mask(Kernel("one", weights, 1))
    blocks = np.moveaxis(np.abs(weights) * mask, 1, -1).reshape(-1, 4)
    assert np.array_equal(blocks.max(axis=1), np.moveaxis(np.abs(weights), 1, -1).reshape(-1, 4).max(axis=1))
    assert ((blocks != 0).sum(axis=1) == 1).all()


def test_the_share_rises_along_a_cubic_and_stays():
    steps = schedule(1000)
    assert (steps.every, steps.end) == (25, 500)
    assert [steps.share(step, 0.8) for step in (0, 250, 500, 900)] == pytest.approx([0, 0.7, 0.8, 0.8])
    assert [step for step in range(1, 1001) if steps.due(step)] == list(range(25, 501, 25))
    assert schedule(1).end == 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_kernels_are_weights_that_multiply(student_of, framework):
    student = open_student(student_of(framework), Settings())
    shapes = [one.weights.shape for one in student.kernels()]
    assert sorted(map(np.prod, shapes)) == [18, 162, 324]
    assert [one.weights.shape[one.inputs] for one in student.kernels()] == [3, 6, 6]
    assert not any(one.dense_reason for one in student.kernels())
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_at_once_the_smallest_weights_of_each_layer_go_and_nothing_else(student_of, tmp_path, framework):
    source = student_of(framework)
    convolutions = ("0", "4") if framework == "torch" else ("conv2d*",)
    made = sparsify(SparsifyRequest(source, "0.8", convolutions), tmp_path)
    assert [(one.weights, one.zeros) for one in made.sparse_layers] == [(18, 14)]
    before, after = (ready(dataclasses.replace(source, request=one)) for one in (source.request, made.request))
    dense, sparse = before.state(), after.state()
    changed = [name for name, array in dense.items() if not np.array_equal(sparse[name], array)]
    assert [dense[name].size for name in changed] == [18]
    one, other = before.kernels()[-1].weights, after.kernels()[-1].weights
    assert np.array_equal(other[other != 0], one[other != 0])
    assert np.abs(one[other == 0]).max() < np.abs(one[other != 0]).min()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pattern_lies_along_the_inputs(student_of, tmp_path, framework):
    source = student_of(framework)
    made = sparsify(SparsifyRequest(source, "1:2"), tmp_path)
    assert [(one.weights, one.zeros) for one in made.sparse_layers] == [(324, 162), (18, 9)]
    assert made.notes[0].endswith("stays dense: takes 3 inputs, which is no multiple of 2")
    kernels = open_student(dataclasses.replace(source, request=made.request), Settings()).kernels()[1:]
    for one in kernels:
        pairs = np.moveaxis(one.weights, one.inputs, -1).reshape(-1, 2)
        assert ((pairs == 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("asked", "keep", "says"),
    [
        ("0.8", ("*",), "nothing can be made sparse"),
        ("0.001", (), "nothing"),
        ("1:4", (), "no multiple of 4"),
        ("0.5", ("stem",), "--exclude-layer stem: no layer"),
    ],
)
@pytest.mark.needs_torch
def test_where_nothing_can_be_done_it_is_refused(student_of, tmp_path, asked, keep, says):
    with pytest.raises(PlanError, match=says):
        sparsify(SparsifyRequest(student_of("torch"), asked, keep), tmp_path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_ends_with_exactly_the_zeros_asked_for_and_learns(student_of, data_of, tmp_path, framework):
    source = student_of(framework)
    inputs = scaled(source)
    settings = Settings(epochs=4, batch_size=16, learning_rate=0.02, sparsity="0.6")
    trained = train(TrainRequest(source, inputs, source.outputs, data_of(inputs, *images(240)), settings), tmp_path)
    assert [(one.weights, one.zeros) for one in trained.sparse_layers] == [(162, 97), (324, 194), (18, 11)]
    assert trained.best >= 2  # what came was dense, and so is what the first epoch leaves
    kernels = open_student(dataclasses.replace(source, request=trained.request), Settings()).kernels()
    assert [int((one.weights == 0).sum()) for one in kernels] == [97, 194, 11]
    assert trained.value > 0.6


@pytest.mark.needs_torch
def test_a_pattern_is_there_from_the_first_step_and_what_came_is_measured_before_it(student_of, data_of, tmp_path):
    source = student_of("torch")
    inputs = scaled(source)
    data = data_of(inputs, *images(96))
    settings = Settings(epochs=1, batch_size=16, learning_rate=0.02, sparsity="1:3")
    plain = dataclasses.replace(settings, sparsity=None)
    dense, sparse = (
        train(TrainRequest(source, inputs, source.outputs, data, one), tmp_path) for one in (plain, settings)
    )
    assert (sparse.before, sparse.best) == (dense.before, 1)
    assert [(one.weights, one.zeros) for one in sparse.sparse_layers] == [(162, 108), (324, 216), (18, 12)]
    for one in open_student(dataclasses.replace(source, request=sparse.request), Settings()).kernels():
        triples = np.moveaxis(one.weights, one.inputs, -1).reshape(-1, 3)
        assert ((triples == 0).sum(axis=1) == 2).all()


@pytest.mark.needs_torch
def test_what_was_interrupted_goes_on_with_the_same_zeros(student_of, data_of, tmp_path):
    source = student_of("torch")
    inputs = scaled(source)
    data = data_of(inputs, *images(96))
    settings = Settings(epochs=3, batch_size=16, learning_rate=0.02, sparsity="0.5")
    whole = train(TrainRequest(source, inputs, source.outputs, data, settings), tmp_path)
    request = TrainRequest(source, inputs, source.outputs, data, settings, checkpoints=str(tmp_path / "kept"))
    with pytest.MonkeyPatch.context() as patch:
        from edgekit_converters.train.torch.student import TorchStudent

        step, done = TorchStudent.step, []

        def lost(self, *arguments):
            done.append(None)
            return float("nan") if len(done) > 12 else step(self, *arguments)

        patch.setattr(TorchStudent, "step", lost)
        with pytest.raises(ConversionError, match="epoch 3"):
            train(request, tmp_path)
    again = train(request, tmp_path)
    assert [(one.loss, one.value) for one in again.history] == [(one.loss, one.value) for one in whole.history]
    assert again.sparse_layers == whole.sparse_layers


def theirs(start, every, end):
    """The weights of `plain` after 9 steps of 16 samples with tfmot."""
    import tf_keras as keras
    from tensorflow_model_optimization.sparsity import keras as tfmot

    scope = {}
    exec(CODE["tf_keras"], scope)
    model = scope["plain"]()
    model.set_weights(start)
    # tfmot chooses at the beginning of a step, and counts that one already
    rises = tfmot.PolynomialDecay(0.0, 0.8, begin_step=1, end_step=end + 1, power=3, frequency=every)
    model = tfmot.prune_low_magnitude(model, rises)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
    data, step = batch(), tfmot.UpdatePruningStep()
    model.fit(data.inputs[0], data.labels, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[step])
    return tfmot.strip_pruning(model).get_weights()


@pytest.mark.needs_keras
def test_the_masks_are_those_of_tensorflow_model_optimization(student_of):
    source = student_of("tf_keras", "plain")
    student = ready(source, optimizer="sgd")
    thinning = SparsityTraining(Sparsity(0.8), student, sparsity.Schedule(every=2, end=6))
    start = [student.state()[f"weights/{index}"].copy() for index in range(4)]
    for number in range(9):
        rows = slice(16 * (number % 3), 16 * (number % 3) + 16)
        student.step(batch(rows), 0.05)
        thinning.after(number + 1)
    ours = [student.state()[f"weights/{index}"] for index in range(4)]
    assert [int((one == 0).sum()) for one in ours] == [86, 0, 86, 0]
    for one, other in zip(ours, theirs(start, every=2, end=6), strict=True):
        assert np.array_equal(one == 0, other == 0)
        assert np.allclose(one, other, atol=1e-5)
    student.close()


@pytest.mark.needs_torch
@pytest.mark.needs_keras
def test_what_is_looked_up_or_has_few_weights_stays(tmp_path, loaded):
    from torch import nn

    from edgekit_converters.train.keras.sparse_weights import _summed
    from edgekit_converters.train.torch.sparse_weights import kernels

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(8, 6)
            self.attention = nn.MultiheadAttention(6, 2)
            self.deep = nn.Conv1d(6, 6, 3, groups=6)
            self.up = nn.ConvTranspose1d(6, 4, 2)
            self.scores = nn.Linear(6, 8)
            self.scores.weight = self.words.weight

    found = {one.layer: one for one, _ in kernels(Net())}
    assert set(found) == {"attention", "attention.out_proj", "deep", "up"}
    assert found["deep"].dense_reason == "is depthwise"
    assert found["up"].weights.shape[found["up"].inputs] == 6
    assert (_summed("abc,cde->abde"), _summed("abcd,cde->abe"), _summed("ab,bc->ac")) == (0, 1, 0)


def integers(artifact):
    """The int8 constants of an artifact that have more than one axis."""
    if artifact.engine == "openvino":
        import openvino as ov

        model = ov.Core().read_model(artifact.files[0])
        held = [one for one in model.get_ordered_ops() if one.get_type_name() == "Constant"]
        arrays = [one.get_data() for one in held if one.get_element_type() == ov.Type.i8]
    else:
        from edgekit_converters.formats.tflite_metadata import open_interpreter

        interpreter = open_interpreter(artifact.files[0])
        details = [one for one in interpreter.get_tensor_details() if one["dtype"] is np.int8 and len(one["shape"]) > 1]
        scaled = [one for one in details if len(one["quantization_parameters"]["scales"]) > 1]  # by channel: weights
        arrays = [interpreter.get_tensor(one["index"]) for one in scaled]
    return {one.size: one for one in arrays if one.ndim > 1}


@pytest.mark.needs_torch
@pytest.mark.needs_litert
@pytest.mark.needs_openvino
@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_quantization_keeps_every_zero(student_of, data_of, lowered, tmp_path, engine):
    from edgekit_converters.quantize import quantize
    from edgekit_converters.recipe.recipe import Recipe
    from edgekit_converters.records import QuantizeRequest

    source = student_of("torch")
    made = sparsify(SparsifyRequest(source, "0.8"), tmp_path)
    sparse = dataclasses.replace(source, request=made.request)
    inputs = scaled(sparse)
    artifact = lowered(sparse, engine)
    request = QuantizeRequest(artifact, Recipe("int8-static"), inputs, data_of(inputs, images(24)[0]))
    (tmp_path / "int8").mkdir()
    found = integers(quantize(request, tmp_path / "int8"))
    wanted = {one.weights: one.zeros for one in made.sparse_layers}
    assert wanted == {162: 130, 324: 259, 18: 14}
    assert {size: int((one == 0).sum()) for size, one in found.items() if size in wanted} == wanted


@pytest.mark.needs_torch
def test_zeros_stay_where_integers_are_imitated(student_of, data_of, tmp_path):
    source = student_of("torch")
    inputs = scaled(source)
    settings = Settings(epochs=2, batch_size=16, learning_rate=0.02, sparsity="0.6", quantize_aware="int8-static")
    trained = train(TrainRequest(source, inputs, source.outputs, data_of(inputs, *images(96)), settings), tmp_path)
    kernels = open_student(dataclasses.replace(source, request=trained.request), Settings()).kernels()
    assert [int((one.weights == 0).sum()) for one in kernels] == [97, 194, 11]
