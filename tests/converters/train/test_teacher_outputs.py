"""A teacher's answers: to each sample as it is and augmented, in the teacher's own layout and preprocessing."""

import dataclasses

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_converters.train import TeacherOutputsRequest
from edgekit_converters.train.augment import Augmentation
from edgekit_converters.train.teacher_outputs import check_pair, teacher_outputs
from edgekit_runtime.errors import PlanError, SourceError

from .conftest import images, scaled

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_litert]


@pytest.fixture
def artifact(student_of, lowered, loaded):
    """The student as .tflite, to be a teacher."""
    return loaded(lowered(student_of("keras", "plain"), "litert").files[0])


def test_every_variant_is_answered_as_the_teacher_would(student_of, data_of, artifact, tmp_path):
    student = student_of("keras", "plain")
    x, y = images(70)
    data = data_of(student.inputs, x, y)
    request = TeacherOutputsRequest(artifact, scaled(artifact), student.inputs, data, ("flip", "shift"), 3, seed=5)
    answers = np.load(teacher_outputs(request, tmp_path).outputs[0])
    assert answers.shape == (3, 70, 3)
    augmented = Augmentation(("flip", "shift"), 5, 70)
    run = open_source(artifact.request).run
    for variant in range(3):
        seen = augmented.apply(x, student.inputs[0], np.arange(70), variant)
        assert np.allclose(answers[variant], run([(seen / 255).astype(np.float32)])[0], atol=1e-6)
    assert not np.allclose(answers[1], answers[2])


def test_samples_are_turned_to_the_teachers_layout(student_of, data_of, tmp_path):
    from edgekit_converters.load import load

    given = student_of("torch")
    kept = load(dataclasses.replace(given.request, keep_layout=True), tmp_path)
    assert (given.inputs[0].layout, kept.inputs[0].layout) == ("NHWC", "NCHW")
    data = data_of(given.inputs, *images(8))
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    ours = teacher_outputs(TeacherOutputsRequest(given, given.inputs, given.inputs, data), tmp_path / "a")
    theirs = teacher_outputs(TeacherOutputsRequest(kept, kept.inputs, given.inputs, data), tmp_path / "b")
    assert np.allclose(np.load(ours.outputs[0]), np.load(theirs.outputs[0]), atol=1e-5)
    check_pair(kept, given)


def test_a_teacher_that_does_not_show_its_features_gives_no_hints(artifact, data_of, tmp_path):
    data = data_of(artifact.inputs, *images(8))
    with pytest.raises(SourceError, match="a teacher of tflite does not show its features"):
        teacher_outputs(
            TeacherOutputsRequest(artifact, artifact.inputs, artifact.inputs, data, attention_transfer=True), tmp_path
        )


def test_a_teacher_of_another_shape_is_refused(student_of):
    student = student_of("keras", "plain")
    (spec,), (out,) = student.inputs, student.outputs
    wide = dataclasses.replace(student, inputs=(dataclasses.replace(spec, shape=(1, 16, 16, 3)),))
    with pytest.raises(PlanError, match=r"the teacher takes .*\(1, 16, 16, 3\), the student .*\(1, 8, 8, 3\)"):
        check_pair(wide, student)
    with pytest.raises(PlanError, match=r"the teacher gives \(1, 5\), the student \(1, 3\)"):
        check_pair(dataclasses.replace(student, outputs=(dataclasses.replace(out, shape=(1, 5)),)), student)
    with pytest.raises(PlanError, match="the teacher takes 2 inputs, the student 1"):
        check_pair(dataclasses.replace(student, inputs=(spec, spec)), student)
