"""Small nets, one a pattern, for the tests of pruning; each function returns a module with fresh weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """A forward pass given as a function of the module and its input."""

    def __init__(self, forward: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.does = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)


def conv(ins: int, outs: int, size: int = 3, **options: int) -> nn.Sequential:
    normal = nn.BatchNorm2d(outs)
    with torch.no_grad():
        for one in (normal.weight, normal.bias, normal.running_mean, normal.running_var):
            one.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Conv2d(ins, outs, size, padding=size // 2, bias=False, **options), normal, nn.ReLU())


def residual() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        x = x + net.inner(net.first(x))
        return net.head(x.mean((2, 3)))

    return Net(forward, stem=conv(3, 8), first=conv(8, 12), inner=conv(12, 8), head=nn.Linear(8, 4))


def concatenated() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        x = torch.cat([x, net.left(x), net.right(x)], 1)
        return net.head(F.adaptive_avg_pool2d(net.last(x), 1).flatten(1))

    parts = {"stem": conv(3, 8), "left": conv(8, 6, 1), "right": conv(8, 4), "last": conv(18, 8)}
    return Net(forward, **parts, head=nn.Linear(8, 4))


def inverted() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        x = x + net.project(net.depthwise(net.expand(x)))
        return net.head(x.mean((2, 3)))

    parts = {"stem": conv(3, 8), "expand": conv(8, 24, 1), "depthwise": conv(24, 24, groups=24)}
    return Net(forward, **parts, project=nn.Conv2d(24, 8, 1), head=nn.Linear(8, 4))


class Growing(nn.Module):
    """Layers that take a list of features, which grows after each of them, as torchvision's DenseNet is written."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Joined(8 + 4 * place, 4) for place in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Joined(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.body = conv(ins, outs)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.body(torch.cat(features, 1))


def growing() -> nn.Module:
    return nn.Sequential(conv(3, 8), Growing(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 4))


def grouped() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.more(net.grouped(net.stem(x))).mean((2, 3)))

    parts = {"stem": conv(3, 16), "grouped": conv(16, 32, groups=4), "more": conv(32, 64, groups=32)}
    return Net(forward, **parts, head=nn.Linear(64, 4))


def two_groups() -> nn.Module:
    """One group is left of the grouped convolution, which is an ordinary one then."""
    return nn.Sequential(conv(3, 16), conv(16, 16, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def flattened() -> nn.Module:
    return nn.Sequential(
        *conv(3, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 4 * 4, 16), nn.PReLU(16), nn.Linear(16, 4)
    )


def one_by_one() -> nn.Module:
    """The same, fixed to a batch of one."""
    net = flattened()
    return nn.Sequential(*net[:4], nn.Flatten(0), nn.Unflatten(0, (1, 128)), *net[5:])


def squeezed() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        scale = net.excite(F.relu(net.squeeze(x.mean((2, 3))))).sigmoid()
        return net.head((x * scale[:, :, None, None]).mean((2, 3)))

    return Net(forward, stem=conv(3, 8), squeeze=nn.Linear(8, 4), excite=nn.Linear(4, 8), head=nn.Linear(8, 4))


def group_normalized() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 8, 3), nn.InstanceNorm2d(8, affine=True)),
        *(nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


class Padded(nn.Module):
    """The shortcut without parameters, option A."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (
            conv(3, 8),
            conv(8, 16, stride=2),
            conv(16, 16),
            nn.Linear(16, 4),
        )
        self.added = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return self.head((self.second(self.first(x)) + shortcut).mean((2, 3)))


def padded() -> nn.Module:
    return Padded()


def shuffled() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        left, right = net.stem(x).chunk(2, 1)
        x = torch.cat([left, net.branch(right)], 1)
        return net.head(net.last(x).mean((2, 3)))

    return Net(forward, stem=conv(3, 16), branch=conv(8, 8), last=conv(16, 8), head=nn.Linear(8, 4))


def gated() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head(F.silu(net.gate(x)) * net.up(x))

    return Net(forward, gate=nn.Linear(16, 24), up=nn.Linear(16, 24), head=nn.Linear(24, 4))


class Scaled(nn.Module):
    """A parameter of the module itself along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.stem(x) * self.scale).mean((2, 3)))


def scaled() -> nn.Module:
    return Scaled()


def computed() -> nn.Module:
    """Weights that are computed before each pass: they stay, and what comes after them does not."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.body(net.stem(x)).mean((2, 3)))

    stem = nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    return Net(forward, stem=stem, body=conv(8, 6), head=nn.Linear(6, 4))


def upsampled() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        low = net.low(F.max_pool2d(x, 2))
        x = net.stem(x) + F.interpolate(low, scale_factor=2) + net.up(low)
        return net.head(x).mean((2, 3))

    up = nn.ConvTranspose2d(8, 8, 2, 2)
    return Net(forward, stem=conv(3, 8), low=conv(3, 8), up=up, head=nn.Conv2d(8, 4, 1))


def frozen() -> nn.Module:
    net = residual()
    for one in net.parameters():
        one.requires_grad_(False)
    return net


class HiddenSize(nn.Module):
    """Forward holds sizes that were right before a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Linear(8 * 16, 4)
        self.hidden = 8 * 16
        self.shape = (8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.stem(x), 2).view(-1, *self.shape)
        return self.head(x.view(-1, self.hidden))


def hidden_size() -> nn.Module:
    return HiddenSize()


def repeated() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        for _ in range(2):
            x = x + net.again(x)
        x = x.mean((2, 3))
        return net.head(F.relu(net.inner(x)))

    return Net(forward, stem=conv(3, 8), again=conv(8, 8), inner=nn.Linear(8, 12), head=nn.Linear(12, 4))


class HandWritten(nn.Module):
    """An encoder layer as BERT's is written."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.normal, self.up, self.down, self.head = (
            nn.LayerNorm(16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 4),
        )
        self.attention_ids, self.size, self.all = 4, 4, 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            each(x).view(*x.shape[:2], self.attention_ids, self.size).transpose(1, 2)
            for each in (self.q, self.k, self.v)
        )
        scores = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5, -1)
        mixed = (scores @ v).transpose(1, 2).contiguous()
        x = self.normal(x + self.o(mixed.view(*x.shape[:2], self.all)))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


def hand_written() -> nn.Module:
    return HandWritten()


class Fused(nn.Module):
    """Attention as vision transformers write it: queries, keys and values from one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 4)
        self.attention_ids, self.size = 4, 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.attention_ids, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.o(mixed.transpose(1, 2).flatten(2))).mean(1))


def fused() -> nn.Module:
    return Fused()


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.stack(net.table(x)).mean(1))

    return Net(forward, table=nn.Embedding(9, 16), stack=stack, head=nn.Linear(16, 4))


def attending() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head((x + net.attention(x, x, x)[0]).mean(1))

    return Net(forward, attention=nn.MultiheadAttention(16, 4, batch_first=True), head=nn.Linear(16, 4))


def alone() -> nn.Module:
    """No layer after it could do with less."""
    return nn.Linear(8, 4)


def constant_size() -> nn.Module:
    """A size that no attribute holds."""
    return Net(lambda net, x: net.head(net.stem(x).view(-1, 8 * 64)), stem=conv(3, 8), head=nn.Linear(8 * 64, 4))


def decides() -> nn.Module:
    """What is computed depends on a value."""
    first, head = nn.Linear(8, 8), nn.Linear(8, 4)
    return Net(lambda net, x: net.head(net.first(x) if float(x.sum()) > 0 else x), first=first, head=head)


def sorted_channels() -> nn.Module:
    return Net(lambda net, x: net.head(net.stem(x).sort(1)[0].mean((2, 3))), stem=conv(3, 8), head=nn.Linear(8, 4))


def tied() -> nn.Module:
    first, second, head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
    second.weight = first.weight
    return Net(lambda net, x: net.head(net.second(net.first(x).relu()).relu()), first=first, second=second, head=head)


def reads_a_channel() -> nn.Module:
    return Net(lambda net, x: net.stem(x)[:, 0].mean((1, 2), keepdim=True) * x.sum(), stem=conv(3, 8))


class Block(nn.Module):
    """Two convolutions and the way around them, which is one of its own where the width changes."""

    def __init__(self, ins: int, outs: int, *, overwrites: bool = False) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(ins, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.two, self.last = nn.Conv2d(12, outs, 3, padding=1), nn.BatchNorm2d(outs)
        self.around = nn.Conv2d(ins, outs, 1) if ins != outs else nn.Identity()
        self.act = nn.ReLU(inplace=overwrites)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.two(F.relu(self.norm(self.one(x)))))
        y += self.around(x)
        return self.act(y)


def blocks() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.third(net.second(net.first(net.stem(x))))
        return net.head(x.mean((2, 3)))

    parts = {"first": Block(8, 8), "second": Block(8, 8), "third": Block(8, 10)}
    return Net(forward, stem=nn.Conv2d(3, 8, 3, padding=1), **parts, head=nn.Linear(10, 4))


def overwriting() -> nn.Module:
    """What the block takes is read once more after it: without its branch, its activation would write over that."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        y = net.block(x)
        return net.head(torch.cat([x, y], 1).mean((2, 3)))

    return Net(forward, stem=nn.Conv2d(3, 8, 3, padding=1), block=Block(8, 8, overwrites=True), head=nn.Linear(16, 4))


def asking() -> nn.Module:
    """Looks at a shape on its way, which ``torch.export`` knows and ``torch.fx`` does not."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        x = x + net.inner(net.first(x)) if x.shape[2] > 4 else x
        return net.head(x.mean((2, 3)))

    return Net(forward, stem=conv(3, 8), first=conv(8, 12), inner=conv(12, 8), head=nn.Linear(8, 4))


class Optional(nn.Module):
    """Two arguments that may be left out, as BERT's are; by the second one its forward pass decides what to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(8, 8), conv(8, 8)

    def forward(self, x: torch.Tensor, scale: float = 2.0, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.two(self.one(x)) * scale
        if mask is not None:
            y = y * mask.mean()
        return x + y


def optional() -> nn.Module:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.block(net.stem(x), mask=None).mean((2, 3)))

    return Net(forward, stem=conv(3, 8), block=Optional(), head=nn.Linear(8, 4))
