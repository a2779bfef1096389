"""The loop, with a student that is a softmax regression in numpy: what it learns, keeps, stops at and goes on with."""

import dataclasses
import re

import numpy as np
import pytest

from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, TeacherOutputs, TrainRequest, checkpoint, loop
from edgekit_converters.train.losses import softened
from edgekit_runtime.errors import ConversionError, DataError, SourceError, ToolchainError
from edgekit_runtime.format.manifest import OutputSpec

from .conftest import CLASSES, SIDE, images


class Regression:
    """``softmax(mean colour · w + b)`` by gradient descent; noise in the gradients is seeded by the epoch."""

    notes = ("a note",)

    def __init__(self, request, settings):
        self.request, self.settings = request, settings
        self.weights = {"w": np.zeros((3, CLASSES)), "b": np.zeros(CLASSES)}
        self.speed = 0.0
        self.steps = 0

    def set_objective(self, objective):
        self.objective = objective

    def start_epoch(self, epoch):
        self.random = np.random.default_rng([self.settings.seed, epoch])

    def step(self, batch, learning_rate):
        self.steps += 1
        x, found = batch.inputs[0].mean(axis=(1, 2)), softened(self.run(batch.inputs)[0], False, 1.0)
        wanted = batch.answers[0] if batch.answers else np.eye(CLASSES)[batch.labels]
        gradient = (found - wanted) / len(x) + self.random.normal(0, 1e-3, found.shape)
        self.speed = 0.9 * self.speed + 1
        self.weights["w"] -= learning_rate * self.speed * (x.T @ gradient)
        self.weights["b"] -= learning_rate * gradient.sum(axis=0)
        return float(-(wanted * np.log(np.maximum(found, 1e-30))).sum(axis=1).mean())

    def run(self, inputs):
        return [inputs[0].mean(axis=(1, 2)) @ self.weights["w"] + self.weights["b"]]

    def state(self):
        state = {f"weights/{name}": array.copy() for name, array in self.weights.items()}
        return state | {"optimizer/speed": np.array(self.speed)}

    def restore(self, state):
        self.weights = {name: np.array(state[f"weights/{name}"]) for name in self.weights}
        self.speed = float(state.get("optimizer/speed", self.speed))

    def estimate_statistics(self, batches):
        return False

    def save(self, folder):
        np.savez(folder / "weights.npz", **self.weights)
        return dataclasses.replace(self.request, weights=folder / "weights.npz")

    def close(self):
        self.closed = True


@pytest.fixture
def training(tmp_path, monkeypatch, data_of):
    """Ask the loop to train a regression; gives what it made, and the student."""
    students = []

    def open_regression(source, settings):
        students.append(Regression(source.request, settings))
        return students[-1]

    monkeypatch.setattr(loop, "open_student", open_regression)

    def run(labelled=True, count=240, teacher_outputs=None, labels=None, wandb=None, **fields):
        from edgekit_runtime.format.manifest import InputSpec, Preprocessing

        spec = InputSpec("x", (1, SIDE, SIDE, 3), "float32", "NHWC", Preprocessing(None, 1 / 255, (), ()))
        out = (OutputSpec("scores", (1, CLASSES), "float32"),)
        x, y = images(count)
        data = data_of((spec,), x, (labels if labels is not None else y) if labelled else None)
        source = Source(SourceRequest("keras", tmp_path / "model.keras"), "keras", (spec,), out, (False,))
        paths = {name: fields.pop(name) for name in ("checkpoints", "log_dir") if name in fields}
        settings = Settings(**{"epochs": 6, "learning_rate": 1.0, "batch_size": 20} | fields)
        request = TrainRequest(source, (spec,), out, data, settings, teacher_outputs, wandb=wandb, **paths)
        folder = tmp_path / f"out-{len(students)}"
        folder.mkdir()
        return loop.train(request, folder)

    run.students = students
    return run


def without_times(trained):
    """A history without the time it took."""
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in trained.history]


def test_it_learns_and_leaves_the_best_epoch(training):
    trained = training()
    values = [epoch.value for epoch in trained.history]
    assert [epoch.number for epoch in trained.history] == [1, 2, 3, 4, 5, 6]
    assert trained.metric == "accuracy"
    assert trained.before < 0.7 < trained.value
    assert trained.value == max(values) == values[trained.best - 1]
    assert trained.history[-1].loss < trained.history[0].loss
    student = training.students[0]
    x, y = images(240)
    kept = np.load(trained.request.weights)
    scores = (x / 255).mean(axis=(1, 2)) @ kept["w"] + kept["b"]
    assert (scores.argmax(axis=1) == y).mean() > 0.7
    assert student.closed
    assert student.steps == 6 * (216 // 20)  # a tenth is held out; what does not fill a batch waits


def test_equal_seeds_give_equal_trainings_and_others_do_not(training):
    assert without_times(training()) == without_times(training())
    assert without_times(training()) != without_times(training(seed=1))


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(training, tmp_path, monkeypatch):
    whole = training(augment=("flip",))
    kept = Regression.step

    def killed_in_epoch_4(self, batch, learning_rate):
        if self.steps == 35:
            raise KeyboardInterrupt
        return kept(self, batch, learning_rate)

    monkeypatch.setattr(Regression, "step", killed_in_epoch_4)
    with pytest.raises(KeyboardInterrupt):
        training(augment=("flip",), checkpoints=str(tmp_path / "kept"))
    monkeypatch.setattr(Regression, "step", kept)
    resumed = training(augment=("flip",), checkpoints=str(tmp_path / "kept"))
    assert without_times(resumed) == without_times(whole)
    assert (resumed.best, resumed.value, resumed.before) == (whole.best, whole.value, whole.before)
    assert "resumed after epoch 3" in resumed.notes
    first, second = (np.load(one.request.weights) for one in (whole, resumed))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert training.students[-1].steps == 3 * 10


def test_it_stops_when_nothing_gets_better(training):
    trained = training(epochs=40, patience=3, learning_rate=30.0, schedule="constant")
    assert len(trained.history) < 40
    assert len(trained.history) - trained.best == 3
    assert any("no improvement since epoch" in note for note in trained.notes)


def test_a_student_that_gets_no_better_is_left_as_it_came(training, monkeypatch):
    right = np.eye(3) * 100
    start = Regression.__init__

    def knowing(self, request, settings):
        start(self, request, settings)
        self.weights["w"] = right.copy()

    monkeypatch.setattr(Regression, "__init__", knowing)
    trained = training(learning_rate=1e-9, epochs=2)
    assert trained.best == 0
    assert trained.value == trained.before
    assert np.array_equal(np.load(trained.request.weights)["w"], right)


def test_a_loss_that_is_no_number_stops_it_and_the_last_good_state_stays(training, tmp_path, monkeypatch):
    kept = Regression.step

    def lost_in_epoch_3(self, batch, learning_rate):
        loss = kept(self, batch, learning_rate)
        return float("nan") if self.steps == 24 else loss

    monkeypatch.setattr(Regression, "step", lost_in_epoch_3)
    with pytest.raises(ConversionError, match="the loss is nan at step 4 of 10 of epoch 3") as caught:
        training(checkpoints=str(tmp_path / "kept"))
    assert re.search(r"lower --learning-rate \(it is 1\).*--resume.*after epoch 2", str(caught.value))
    saved = checkpoint.read(tmp_path / "kept")
    assert len(saved.history) == 2
    assert np.isfinite(saved.now["weights/w"]).all()
    assert len(training(checkpoints=str(tmp_path / "kept"), learning_rate=0.1, epochs=3).history) == 3


def test_a_model_that_computes_no_numbers_is_refused(training, monkeypatch):
    monkeypatch.setattr(Regression, "run", lambda self, inputs: [np.full((len(inputs[0]), CLASSES), np.nan)])
    with pytest.raises(SourceError, match="computes NaN or infinity for held-out samples before the training"):
        training()


def test_unlabelled_data_are_learned_from_the_teacher_and_judged_by_it(training, tmp_path):
    x, _ = images(240)
    answers = softened((x / 255).mean(axis=(1, 2)) * 50, probabilities=False, temperature=1.0)
    np.save(tmp_path / "answers.npy", np.stack([answers] * 2).astype(np.float32))
    trained = training(
        labelled=False, teacher_outputs=TeacherOutputs((tmp_path / "answers.npy",), (), 2), temperature=2.0
    )
    assert trained.metric == "agreement"
    assert trained.value > 0.8 > trained.before


def test_labels_out_of_range_are_refused_with_the_sample(training):
    labels = images(240)[1].copy()
    labels[100] = 3
    with pytest.raises(DataError, match=r"training sample 100 has the label 3.*classes 0\.\.2"):
        training(labels=labels)
    assert training.students[0].closed


def test_a_handful_of_samples_is_refused(training):
    with pytest.raises(DataError, match="8 training samples are too few"):
        training(count=8)


@pytest.mark.needs_tensorboard
def test_tensorboard_reads_every_epoch(training, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = training(log_dir=str(tmp_path / "log")).history
    (file,) = (tmp_path / "log").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    for tag, values in {
        "loss": [epoch.loss for epoch in history],
        "held-out/accuracy": [epoch.value for epoch in history],
        "learning_rate": [epoch.learning_rate for epoch in history],
    }.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [epoch.number for epoch in history]
        assert [scalar.value for scalar in scalars] == pytest.approx(values)
        assert all(scalar.wall_time > 1.7e9 for scalar in scalars)


@pytest.mark.needs_wandb
def test_weights_and_biases_is_told_offline(training, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    training(wandb="edges", log_dir=str(tmp_path / "log"), epochs=2)
    (run,) = (tmp_path / "log" / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    content = file.read_bytes()
    assert b"held-out/accuracy" in content
    assert b"edges" in content


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ({"wandb": "edges"}, r"wandb is not installed\n.*edgekit\[wandb\]"),
        ({"log_dir": "log"}, r"tensorboardX is not installed\n.*edgekit\[keras\]"),
    ],
)
def test_a_logger_that_is_not_installed_is_refused(training, monkeypatch, logger, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=message):
        training(**logger)
