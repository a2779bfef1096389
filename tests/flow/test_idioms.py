"""What models of computer vision and of language are full of, all the way to int8 in both formats."""

import numpy as np
import pytest

import edgekit

VISION = """
import torch
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.squeeze = nn.Conv1d(1, 1, 3, padding=1)
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 6, 1)

    def forward(self, image):
        x = self.stem(image)
        gate = functional.adaptive_max_pool2d(x, 1)
        gate = self.squeeze(gate.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1).sigmoid()
        y = self.head(self.up(x * gate.expand_as(x)))
        sizes = (y.view(1, 1, 6, 16, 16).sigmoid() * 2) ** 2
        return y, functional.normalize(sizes.flatten(1)), y.argmax(1).float()

def build():
    torch.manual_seed(0)
    return Net()
"""
LANGUAGE = """
import torch
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 5)
        self.word, self.norm = nn.Parameter(torch.randn(1, 1, 16)), nn.LayerNorm(16)

    def forward(self, image):
        x = self.patches(image)
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).contiguous()
        x = windows.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(n, h, w, c)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 1::2]], 1)
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w, c).reshape(n, -1, c)
        x = torch.cat([self.word.expand(n, -1, -1), x], 1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(1, 2) + (1 - (image[:, :1, 0, :9] > -9).float()) * torch.finfo(torch.float32).min
        return self.head((x + scores.softmax(-1) @ v).mean(1))

def build():
    torch.manual_seed(0)
    return Net()
"""


def held(tmp_path, model, **options):
    """Convert, which holds int8 within 10 dB of the model, enough for random weights; float is to be far nearer."""
    samples = np.random.default_rng(0).standard_normal((40, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", samples)
    report = edgekit.convert(
        model,
        tmp_path / "net.edgekit",
        device=["raspberry-pi-5", "intel-cpu"],
        quantize=["float32", "int8-static"],
        calibrate=tmp_path / "x.npy",
        **options,
    )
    assert len(report.variants) == 4
    assert all(variant.parity.snr_db > 90 for variant in report.variants if variant.scheme == "float32")
    return {finding.kind for finding in report.findings if finding.engine == "litert"}


@pytest.mark.needs_torch
@pytest.mark.needs_openvino
@pytest.mark.parametrize(("source", "kinds"), [(VISION, {"normalization"}), (LANGUAGE, {"mask", "normalization"})])
def test_modules_of_pytorch(tmp_path, source, kinds):
    (tmp_path / "net.py").write_text(source)
    assert held(tmp_path, f"{tmp_path}/net.py:build", input_shape=(1, 3, 16, 16)) == kinds


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
def test_a_keras_model_that_begins_with_a_transposed_convolution(tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2DTranspose(4, 3, strides=2, padding="same")(image))
    keras.Model(image, layers.Conv2D(2, 3)(layers.ReLU()(x))).save(tmp_path / "net.keras")
    assert held(tmp_path, tmp_path / "net.keras") == set()
