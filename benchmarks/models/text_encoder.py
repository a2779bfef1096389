"""A small BERT-like encoder (Devlin et al., 2019), and a synthetic language whose questions need attention.

A text of 16 words contains a marker before a word of one of six topics; the other words have any topic. The answer is
the topic of the word after the marker: that word must attend to the previous one, and the output position must find it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LENGTH, TOPICS, WORDS = 16, 6, 20  # words of a text; words of a topic
ANSWER, MARKER, FIRST = 0, 1, 2  # the word whose place answers, the marker, and the first of all others
VOCABULARY = FIRST + TOPICS * WORDS
WIDTH, HEADS, INNER, LAYERS = 256, 4, 1024, 4  # those of BERT-mini (Turc et al., 2019)
STEPS, BATCH, RATE = 600, 64, 5e-4


class Layer(nn.Module):
    """Attention and two dense layers, each with a residual connection and a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.attended, self.computed = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, words, width) → the same."""
        size = WIDTH // HEADS
        query, key, value = (
            one(x).view(x.shape[0], LENGTH, -1, size).transpose(1, 2) for one in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / size**0.5, -1)
        mixed = (weights @ value).transpose(1, 2).reshape(x.shape[0], LENGTH, -1)
        x = self.attended(x + self.out(mixed))
        narrowed: torch.Tensor = self.computed(x + self.narrow(functional.gelu(self.wide(x))))
        return narrowed


class Encoder(nn.Module):
    """Maps word numbers (N, 16) to logits of topics (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.topic = nn.Linear(WIDTH, TOPICS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """What the first place says after the last layer."""
        found: torch.Tensor = self.topic(self.layers(self.words(words) + self.places)[:, 0])
        return found


def encoder() -> nn.Module:
    """Return the untrained module; deterministic."""
    torch.manual_seed(0)
    return Encoder()


def texts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return texts (count, 16) int64 and their topics (count,) int64."""
    random = np.random.default_rng(seed)
    words, rows = random.integers(FIRST, VOCABULARY, (count, LENGTH)), np.arange(count)
    places = random.integers(1, LENGTH - 1, count)
    words[:, 0], words[rows, places] = ANSWER, MARKER
    return words.astype(np.int64), (words[rows, places + 1] - FIRST) // WORDS


def train(folder: Path) -> None:
    """Write data and the trained weights; the last printed line is the accuracy on the test texts."""
    for name, count, seed in (("train", 20_000, 1), ("calibration", 500, 2), ("test", 4000, 3)):
        x, y = texts(count, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    module = encoder()
    optimizer = torch.optim.AdamW(module.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for step in range(STEPS):
        words, topics = (torch.from_numpy(one) for one in texts(BATCH, 1000 + step))
        loss = functional.cross_entropy(module(words), topics)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(step, round(loss.item(), 4), flush=True)
    torch.save(module.state_dict(), folder / "encoder.pth")
    module.eval()
    with torch.no_grad():
        words, topics = (torch.from_numpy(one) for one in texts(4000, 3))
        print((module(words).argmax(1) == topics).float().mean().item())


if __name__ == "__main__":
    train(Path(sys.argv[1]))
