"""PyTorch models: saved programs, pickles, weights, and images that the application gives as NHWC."""

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_converters.load.save import SaveRequest, save
from edgekit_converters.records import InputShape, SourceRequest
from edgekit_runtime.errors import SourceError

pytestmark = pytest.mark.needs_torch

IMAGES = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))

class Branch(nn.Module):
    def forward(self, image):
        return image * 2 if image.sum() > 0 else image

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.more = nn.Conv2d(3, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(6, 2)
    def forward(self, left, right, more):
        x = self.left(left).mean((2, 3)) + self.right(right).mean((2, 3)) + self.more(more)
        return {"zed": x, "aye": x[:, :1]}
"""
IMAGE = (InputShape((1, 3, 8, 8)),)


def run(source, *batch):
    return open_source(source.request).run(list(batch))


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The module that holds CODE, importable as pickles need it."""
    import importlib
    import sys

    name = f"net_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.fixture
def net(code):
    import torch

    torch.manual_seed(0)
    return code.Net().eval()


def reference(net, images):
    import torch

    with torch.inference_mode():
        return net(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()


@pytest.mark.parametrize("batch", ["one", "open"])
def test_a_saved_program(net, tmp_path, loaded, batch):
    import torch

    sizes = None if batch == "one" else ({0: torch.export.Dim("batch")},)
    example = torch.zeros(1 if batch == "one" else 2, 3, 8, 8)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=sizes), tmp_path / "net.pt2")
    source = loaded(tmp_path / "net.pt2")
    assert [(spec.name, spec.shape, spec.layout) for spec in source.inputs] == [("image", (1, 8, 8, 3), "NHWC")]
    assert source.notes == ("input 'image' takes NHWC (1, 8, 8, 3) (--keep-layout keeps NCHW)",)
    assert np.allclose(run(source, IMAGES)[0], reference(net, IMAGES), atol=1e-6)


def test_a_program_is_not_saved_again_but_says_what_can_be_cut_and_trained(net, tmp_path, loaded):
    import torch

    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    with pytest.raises(SourceError, match=r"not pruned or trained; give the module .*FILE\.py:function --weights"):
        save(SaveRequest(loaded(tmp_path / "net.pt2")), tmp_path)


def test_a_module_whose_computation_hangs_on_its_values_is_not_saved_and_named(code, tmp_path, loaded):
    source = loaded(tmp_path / f"{code.__name__}.py", function="Branch", input_shapes=IMAGE)
    with pytest.raises(SourceError, match=r"^Branch: torch\.export cannot export its forward pass; remove control"):
        save(SaveRequest(source), tmp_path)


def test_a_program_of_a_larger_batch_is_refused(net, tmp_path, loaded):
    import torch

    torch.export.save(torch.export.export(net, (torch.zeros(4, 3, 8, 8),)), tmp_path / "net.pt2")
    with pytest.raises(SourceError, match="'image' was exported with a fixed batch of 4; export with example inputs"):
        loaded(tmp_path / "net.pt2")


def test_the_layout_can_be_kept(net, tmp_path, loaded):
    import torch

    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    source = loaded(tmp_path / "net.pt2", keep_layout=True)
    assert (source.inputs[0].shape, source.inputs[0].layout, source.notes) == ((1, 3, 8, 8), "NCHW", ())
    channels_first = np.moveaxis(IMAGES, -1, 1)
    assert np.allclose(run(source, channels_first)[0], reference(net, IMAGES), atol=1e-6)


def test_inputs_by_name_in_any_order_and_outputs_of_a_dictionary(code, tmp_path, loaded):
    file = next(tmp_path.glob("*.py"))
    file.write_text(CODE + "\ndef pair():\n    return Pair()\n")
    said = (InputShape((1, 6), "more"), InputShape((1, 1, 5, 5), "right"), InputShape((1, 3, 9, 9), "left"))
    source = loaded(file, function="pair", input_shapes=said)
    assert [(spec.name, spec.shape) for spec in source.inputs] == [
        ("left", (1, 9, 9, 3)),
        ("right", (1, 5, 5, 1)),
        ("more", (1, 6)),
    ]
    assert [(spec.name, spec.shape) for spec in source.outputs] == [("zed", (1, 2)), ("aye", (1, 1))]
    with pytest.raises(SourceError, match="no input 'lft'; there are left, right, more"):
        loaded(file, function="pair", input_shapes=(InputShape((1, 3, 9, 9), "lft"), *said[:2]))
    with pytest.raises(SourceError, match="shape of input 'more' more than once"):
        loaded(file, function="pair", input_shapes=(*said, said[0]))


def test_a_pickled_module_needs_leave_and_its_code(net, tmp_path, loaded):
    import torch

    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(SourceError, match=r"holds pickled objects, which run code when loaded.* --allow-pickle"):
        loaded(tmp_path / "net.pt", input_shapes=IMAGE)
    source = loaded(tmp_path / "net.pt", input_shapes=IMAGE, allow_pickle=True)
    assert np.allclose(run(source, IMAGES)[0], reference(net, IMAGES), atol=1e-6)


def test_a_pickle_without_its_code_says_where_to_put_it(net, tmp_path, loaded, monkeypatch):
    import sys

    import torch

    torch.save(net, tmp_path / "net.pt")
    monkeypatch.delitem(sys.modules, type(net).__module__)
    next(tmp_path.glob("*.py")).unlink()
    with pytest.raises(SourceError, match=r"add its folder to PYTHONPATH .ModuleNotFoundError"):
        loaded(tmp_path / "net.pt", input_shapes=IMAGE, allow_pickle=True)


def test_weights_given_as_the_model(net, tmp_path, loaded):
    import torch

    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SourceError, match=r"holds weights, not a model; .* --weights net.pth --input-shape"):
        loaded(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["plain", "wrapped", "wrapped and parallel", "parallel"],
)
def test_weights_as_training_scripts_leave_them(net, code, tmp_path, wrap):
    import torch

    from edgekit_converters.load.torch_module import load_weights

    torch.save(wrap(net.state_dict()), tmp_path / "weights.pth")
    fresh = code.Net()
    load_weights(fresh, tmp_path / "weights.pth")
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in net.state_dict().items())


def test_weights_that_do_not_fit_say_which(net, tmp_path):
    import torch
    from torch import nn

    from edgekit_converters.load.torch_module import load_weights

    torch.save(net.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SourceError, match=r'weights do not fit Linear:\n(.*\n)?Missing key\(s\).*"weight", "bias"'):
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")


def test_a_checkpoint_with_other_objects_needs_leave(net, code, tmp_path):
    import torch

    from edgekit_converters.load.torch_module import load_weights

    torch.save({"state_dict": net.state_dict(), "config": code.Net}, tmp_path / "weights.pth")
    with pytest.raises(SourceError, match="--allow-pickle"):
        load_weights(code.Net(), tmp_path / "weights.pth")
    load_weights(code.Net(), tmp_path / "weights.pth", allow_pickle=True)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ((), "does not describe its inputs; give every input's shape"),
        (
            (InputShape((1, 4, 8, 8)),),
            r"the shapes given, with float32; .*--input-shape 1,128:int64 \(RuntimeError: Given",
        ),
        (
            (InputShape((1, 4, 8, 8), dtype="float32"),),
            r"cannot run on inputs of the shapes given \(RuntimeError: Given groups=1",
        ),
    ],
)
def test_shapes_that_are_missing_or_wrong(net, tmp_path, shapes, message):
    from edgekit_converters.load.torch_module import from_module

    with pytest.raises(SourceError, match=message):
        from_module(net, SourceRequest("python", tmp_path / "net.py", input_shapes=shapes))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_torchscript_and_text_are_called_what_they_are(tmp_path, loaded, allow_pickle):
    import torch

    torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)).save(str(tmp_path / "script.pt"))
    with pytest.raises(SourceError, match=r"is TorchScript, .*torch\.export\.save\(.*'model\.pt2'\)$"):
        loaded(tmp_path / "script.pt", input_shapes=(InputShape((1, 3)),), allow_pickle=allow_pickle)
    (tmp_path / "text.pth").write_text("hello, this is no model\n")
    with pytest.raises(SourceError, match=r"text\.pth: not a file that PyTorch has saved$"):
        loaded(tmp_path / "text.pth", allow_pickle=allow_pickle)


@pytest.mark.parametrize("name", ["garbage.pt", "garbage.pt2"])
def test_garbage_is_not_a_model(tmp_path, loaded, name):
    (tmp_path / name).write_bytes(b"\0garbage" * 100)
    with pytest.raises(SourceError, match=f"{name}: (not a file that PyTorch has saved|PyTorch cannot load it)"):
        loaded(tmp_path / name)
