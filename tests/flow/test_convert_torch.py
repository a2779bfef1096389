"""A PyTorch model all the way: NCHW in training, NHWC on the board, the same numbers."""

import numpy as np
import pytest

import edgekit
import edgekit_runtime
from edgekit_runtime.errors import VerificationError

pytestmark = [pytest.mark.needs_torch, pytest.mark.needs_openvino]

MEAN, STD = (0.48, 0.45, 0.4), (0.23, 0.22, 0.25)
CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3))
        self.head = nn.Linear(8, 6)

    def forward(self, image):
        features = self.body(image)
        return {"scores": self.head(features.mean((2, 3))), "features": features}


class Branching(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's code, a checkpoint as a parallel training run leaves it, and images."""
    import torch

    folder = tmp_path_factory.mktemp("torch")
    (folder / "net_of_flow.py").write_text(CODE)
    torch.manual_seed(0)
    net = module(folder).Net()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "weights.pth")
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    return folder


def module(folder):
    scope = {}
    exec(compile((folder / "net_of_flow.py").read_text(), "net_of_flow.py", "exec"), scope)
    return type("Module", (), scope)


def source(folder, images):
    """What the trained module computes for raw images: normalised by hand, channels first."""
    import torch

    net = module(folder).Net()
    state = torch.load(folder / "weights.pth")["state_dict"]
    net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    normal = (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        return net.eval()(torch.from_numpy(np.moveaxis(normal, -1, 1).copy()))


@pytest.fixture(scope="module")
def made(folder, _own_cache):
    return edgekit.convert(
        f"{folder / 'net_of_flow.py'}:Net",
        folder / "net.edgekit",
        weights=folder / "weights.pth",
        input_shape=(1, 3, 16, 16),
        device=["generic-arm64", "intel-cpu"],
        quantize=["float32", "int8"],
        calibrate=folder / "images.npy",
        scale=1 / 255,
        mean=MEAN,
        std=STD,
    )


def test_it_takes_nhwc_and_says_so(made):
    assert "input 'image' takes NHWC (1, 16, 16, 3) (--keep-layout keeps NCHW)" in made.notes
    assert {variant.name for variant in made.variants} == {
        f"{engine}-{scheme}" for engine in ("litert", "openvino") for scheme in ("float32", "int8-static")
    }


@pytest.mark.parametrize("engine", ["litert", "openvino"])
@pytest.mark.parametrize("scheme", ["float32", "int8-static"])
def test_raw_images_give_what_the_module_gave_for_normalised_ones(folder, made, engine, scheme):
    images = np.load(folder / "images.npy")[:8]
    expected = source(folder, images)
    with edgekit_runtime.load(folder / "net.edgekit", require=f"{engine}-{scheme}") as model:
        results = [model(image[None], raw=True) for image in images]
    for name, wanted in expected.items():
        got = np.concatenate([result[name] for result in results])
        assert np.abs(got - wanted.numpy()).max() < (1e-4 if scheme == "float32" else 0.1)


def test_the_same_live_module_gives_the_same_bytes(folder):
    net = module(folder).Net()
    for name in ("one", "two"):
        edgekit.convert(
            net, folder / f"{name}.edgekit", input_shape=(1, 3, 16, 16), name="net", device="generic-arm64", cache=False
        )
    assert (folder / "one.edgekit").read_bytes() == (folder / "two.edgekit").read_bytes()


def test_a_branch_that_tracing_bakes_in_is_caught_at_its_stage(folder):
    with pytest.raises(VerificationError, match=r"openvino float32: broken at stage 'lower': output 'output'") as no:
        edgekit.convert(
            f"{folder / 'net_of_flow.py'}:Branching",
            folder / "branching.edgekit",
            input_shape=(1, 8),
            device="intel-cpu",
        )
    assert no.value.exit_code == 5
    assert "60 dB are required" in str(no.value)
    assert not (folder / "branching.edgekit").exists()
