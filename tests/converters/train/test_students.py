"""Students of every framework: the same law of the loss, the same way back from a state, models that open again."""

import dataclasses

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_converters.train import OPTIMIZERS, Settings, TeacherOutputsRequest, TrainRequest
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.loop import train
from edgekit_converters.train.losses import LossTarget, Objective, softened
from edgekit_converters.train.student import open_student
from edgekit_converters.train.teacher_outputs import teacher_outputs
from edgekit_runtime.errors import SourceError

from .conftest import CLASSES, SIDE, images, scaled

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_torch]
FRAMEWORKS = ["keras", "tf_keras", "torch"]
PIXELS, LABELS = images(48)
X = (PIXELS / 255).astype(np.float32)
LABELLED = Objective((LossTarget(classes=True, label_weight=1.0),))


def batch(rows=slice(None), answers=()):
    return Batch([X[rows]], LABELS[rows], list(answers), [])


def ready(source, objective=LABELLED, **settings):
    student = open_student(source, Settings(**settings))
    looks = student.run([X])[0]
    distribution = bool(np.allclose(looks.sum(axis=1), 1, atol=1e-3) and looks.min() >= 0)
    student.set_objective(
        dataclasses.replace(
            objective, targets=tuple(dataclasses.replace(aim, probabilities=distribution) for aim in objective.targets)
        )
    )
    student.start_epoch(1)
    return student


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_loss_is_that_of_hinton(student_of, framework):
    source = student_of(framework, "plain")
    teacher_probabilities = softened(np.random.default_rng(1).normal(0, 2, (48, CLASSES)), False, 3.0)
    student = ready(source, Objective((LossTarget(True, True, False, 0.25, 0.75),), temperature=3.0))
    scores = np.log(student.run([X])[0].astype(np.float64))
    ours = np.exp(scores / 3)
    ours /= ours.sum(axis=1, keepdims=True)
    wanted = 0.25 * -scores[np.arange(48), LABELS].mean()
    wanted += 0.75 * 9 * (teacher_probabilities * np.log(teacher_probabilities / ours)).sum(axis=1).mean()
    assert student.step(batch(answers=[teacher_probabilities]), 0.0) == pytest.approx(wanted, rel=1e-4)
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_probability_is_learned_by_the_cross_entropy_of_two_classes(student_of, framework):
    student = open_student(student_of(framework, "single"), Settings())
    student.set_objective(Objective((LossTarget(classes=True, probabilities=True, binary=True, label_weight=1.0),)))
    student.start_epoch(1)
    chance, two = student.run([X])[0][:, 0], LABELS % 2
    wanted = -np.log(np.where(two == 1, chance, 1 - chance)).mean()
    assert student.step(Batch([X], two, [], []), 0.0) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_targets_are_learned_by_their_squares(student_of, framework):
    student = ready(student_of(framework, "plain"), Objective((LossTarget(classes=False, label_weight=1.0),)))
    targets = np.random.default_rng(1).random((48, CLASSES))
    wanted = np.mean((student.run([X])[0] - targets) ** 2)
    assert student.step(dataclasses.replace(batch(), labels=targets), 0.0) == pytest.approx(wanted, rel=1e-4)
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_student_that_takes_over_a_state_goes_on_as_the_other_would_have(student_of, framework):
    source = student_of(framework)
    first = ready(source, learning_rate=0.01)
    for _ in range(3):
        first.step(batch(), 0.01)
    state = {name: array.copy() for name, array in first.state().items()}
    first.start_epoch(2)
    on = [first.step(batch(), 0.01) for _ in range(3)]
    second = ready(source, learning_rate=0.01)
    second.restore(state)
    second.start_epoch(2)
    assert [second.step(batch(), 0.01) for _ in range(3)] == on
    assert np.array_equal(second.run([X])[0], first.run([X])[0])
    first.close(), second.close()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_every_optimizer_lowers_the_loss(student_of, framework, optimizer):
    student = ready(student_of(framework, "plain"), optimizer=optimizer, weight_decay=0.01)
    losses = [student.step(batch(), 0.02) for _ in range(15)]
    assert losses[-1] < losses[0] - 0.03
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weight_decay_shrinks_weights_by_the_rate_and_leaves_biases(student_of, framework):
    decayed, plain = (ready(student_of(framework, "plain"), weight_decay=decay) for decay in (0.5, 0.0))
    for student in (decayed, plain):
        student.step(batch(), 0.01)
    with_it, without = decayed.state(), plain.state()
    for name in [name for name in with_it if name.startswith("weights/")]:
        factor = 1 - 0.01 * 0.5 if with_it[name].ndim > 1 else 1.0
        assert np.allclose(with_it[name], factor * without[name], atol=1e-6)
    decayed.close(), plain.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_statistics_are_plain_averages_over_batches(student_of, framework):
    student = ready(student_of(framework))
    before = student.state()
    assert student.estimate_statistics([[X[:24]], [X[24:]]])
    after = student.state()
    changed = [after[name] for name in after if not np.array_equal(before[name], after[name]) and after[name].size == 6]
    kernel = next(array for name, array in after.items() if array.ndim == 4)
    kernel = np.moveaxis(kernel, (2, 3, 1, 0), (0, 1, 2, 3)) if framework == "torch" else kernel  # HWIO
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    made = sum(padded[:, r : r + SIDE, c : c + SIDE] @ kernel[r, c] for r in range(3) for c in range(3))
    assert any(np.allclose(one, made.mean(axis=(0, 1, 2)), atol=1e-4) for one in changed)
    halves = np.mean([made[:24].var(axis=(0, 1, 2)), made[24:].var(axis=(0, 1, 2))], axis=0)
    assert any(np.allclose(one, halves, rtol=2e-3) for one in changed)
    student.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_trained_student_opens_again_and_the_source_stays_as_it_was(student_of, data_of, tmp_path, framework):
    source = student_of(framework)
    untouched = open_source(source.request).run([X])[0]
    inputs = scaled(source)
    settings = Settings(epochs=4, batch_size=16, learning_rate=0.02, augment=("flip", "shift"))
    data = data_of(inputs, *images(240))
    trained = train(TrainRequest(source, inputs, source.outputs, data, settings), tmp_path)
    assert trained.value > max(0.7, trained.before)
    assert np.array_equal(open_source(source.request).run([X])[0], untouched)
    accuracy = (open_source(trained.request).run([X])[0].argmax(axis=1) == LABELS).mean()
    assert accuracy > 0.7


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_hints_bring_the_features_of_student_and_teacher_together(student_of, data_of, tmp_path, framework):
    source = student_of(framework)
    inputs = scaled(source)
    data = data_of(inputs, *images(64))
    lessons = teacher_outputs(TeacherOutputsRequest(source, inputs, inputs, data, attention_transfer=True), tmp_path)
    maps = [np.load(path) for path in lessons.attention_maps]
    assert [one.shape for one in maps] == [(1, 64, 8, 8), (1, 64, 3, 3)]
    assert all(np.allclose((one[0] ** 2).sum(axis=(1, 2)), 1, atol=1e-3) for one in maps)
    student = ready(student_of(framework, "build"), Objective((LossTarget(classes=True),)), attention_transfer=True)
    hinted = Batch([X], None, [], [one[0, :48] for one in maps])
    losses = [student.step(hinted, 0.01) for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]
    student.close()


@pytest.mark.parametrize("framework", ["keras", "tf_keras"])
def test_features_are_seen_in_models_inside_models_that_run_twice(student_of, framework):
    from edgekit_converters.train.keras.attention_maps import with_feature_outputs

    live = open_source(student_of(framework, "nested").request)
    viewed, own = with_feature_outputs(live.handle.model)
    found = [one.numpy() for one in viewed(X, training=False)]
    block, conv = (live.handle.model.layers[place] for place in (1, 2))
    assert own == 1
    assert [one.shape for one in found[1:]] == [(48, SIDE, SIDE, 3), (48, SIDE // 2, SIDE // 2, 5)]
    np.testing.assert_allclose(found[0], live.run([X])[0], atol=1e-5)
    np.testing.assert_allclose(found[1], block(block(X)).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[2], conv(block(block(X))).numpy(), atol=1e-5)


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_mixed_precision_computes_nearly_the_same(student_of, framework):
    exact, mixed = (ready(student_of(framework, "plain"), mixed_precision=on) for on in (False, True))
    losses = [student.step(batch(), 0.0) for student in (exact, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    exact.close(), mixed.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_may_not_be_trained_is_refused(student_of, framework):
    with pytest.raises(SourceError, match="may be trained"):
        open_student(student_of(framework, "frozen"), Settings())


@pytest.mark.parametrize(
    ("function", "says"),
    [("helped", r"gives \(48, 3\), \(48, 3\) for 48 samples, and 1 output"), ("alone", "fails in")],
)
def test_modules_that_compute_something_else_in_training_are_refused(student_of, function, says):
    student = ready(student_of("torch", function))
    with pytest.raises(SourceError, match=says):
        student.step(batch(), 0.1)


def test_frozen_programs_are_refused(student_of, tmp_path, loaded):
    import torch

    source = student_of("torch", "plain")
    module = open_source(source.request).handle.module
    path = tmp_path / "plain.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, SIDE, SIDE),)), path)
    with pytest.raises(SourceError, match=r"an exported program is frozen.*FILE.py:function --weights"):
        open_student(loaded(path), Settings())


@pytest.mark.needs_litert
def test_models_that_only_run_are_refused(student_of, lowered, loaded):
    artifact = lowered(student_of("keras", "plain"), "litert")
    with pytest.raises(SourceError, match="a tflite model can be run, but not pruned or trained"):
        open_student(loaded(artifact.files[0]), Settings())
