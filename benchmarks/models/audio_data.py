"""Real inputs for MLPerf Tiny's audio models, as functions for the data options of `edgekit convert`.

$EDGEKIT_DATA is the folder of the real data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WHISTLE_HZ = 3000.0
CALIBRATION_SHARE = 5  # one keyword in five calibrates, the others are evaluated
SAMPLE_RATE_HZ, N_FFT, HOP, MELS, FRAMES, POWER = 8000, 1024, 512, 128, 5, 2.0  # as MLPerf Tiny's but for the rate


def keyword_calibration() -> list[np.ndarray]:
    """MFCC of spoken keywords, each (49, 10, 1)."""
    features, _ = _keywords()
    return list(features[::CALIBRATION_SHARE])


def keyword_test() -> list[tuple[np.ndarray, np.int64]]:
    """MFCC of other keywords, with their class."""
    features, classes = _keywords()
    others = np.arange(len(classes)) % CALIBRATION_SHARE != 0
    return list(zip(features[others], classes[others], strict=True))


def speech_calibration() -> Iterator[np.ndarray]:
    """Log-mel windows, each (640,), of every tenth clip of the speakers' training clips."""
    return _windows(is_test=False, step=10)


def speech_test() -> Iterator[np.ndarray]:
    """Log-mel windows, each (640,), of the test clips."""
    return _windows(is_test=True, step=1)


def whistle_test() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The windows of the test clips, then those of the same clips with a whistle.

    The label, (641,), is the window itself and 0, or 1 where there is a whistle: a metric wants to know both.
    """
    for whistles in (0.0, WHISTLE_HZ):
        for window in _windows(is_test=True, step=1, whistle_hz=whistles):
            yield window, np.append(window, np.float32(whistles > 0))


def whistle_area(outputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """Area under the ROC curve when the error of reconstruction tells windows with a whistle, as MLPerf Tiny has it.

    Args:
        outputs: the model's only one, (n, 640).
        labels: of :func:`whistle_test`, (n, 641).
    """
    (found,) = outputs.values()
    errors, faulty = np.mean((found - labels[:, :-1]) ** 2, axis=1), labels[:, -1] > 0
    ranks = errors.argsort().argsort() + 1  # the Mann-Whitney statistic is the area
    most = faulty.sum() * (~faulty).sum()
    return float((ranks[faulty].sum() - faulty.sum() * (faulty.sum() + 1) / 2) / most)


def _keywords() -> tuple[np.ndarray, np.ndarray]:
    """MFCC of 1,000 keywords as real numbers, (1000, 49, 10, 1), and their classes, (1000,)."""
    data = np.load(Path(os.environ["EDGEKIT_DATA"]) / "kws01/kws01_mfcc_int8.npz")
    return (data["features"].astype(np.float32) - 83) * np.float32(0.5847), data["labels"]


def _windows(*, is_test: bool, step: int, whistle_hz: float = 0.0) -> Iterator[np.ndarray]:
    """Return every five consecutive frames of every step-th clip, with a sine of half its amplitude if requested."""
    data = np.load(Path(os.environ["EDGEKIT_DATA"]) / "fsdd/fsdd_8khz_int16.npz")
    samples, offsets = data["samples"], data["offsets"]
    filters = _mel_filters()
    for clip in np.flatnonzero(data["is_test"] == is_test)[::step]:
        wave = samples[offsets[clip] : offsets[clip + 1]] / 32768
        if whistle_hz:
            wave = wave + wave.std() / 2 * np.sin(2 * np.pi * whistle_hz / SAMPLE_RATE_HZ * np.arange(len(wave)))
        frames = _log_mel(wave, filters)
        for first in range(len(frames) - FRAMES + 1):
            yield frames[first : first + FRAMES].reshape(-1).astype(np.float32)  # (640,)


def _log_mel(wave: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return decibels by frame and mel band, (frames, 128), of a wave (n,) in -1..1, like MLPerf Tiny's reference."""
    padded = np.pad(wave, N_FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]  # (frames, 1024)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    spectrum = np.abs(np.fft.rfft(windows * hann)) ** POWER  # (frames, 513)
    return np.asarray(20 / POWER * np.log10(spectrum @ filters.T + np.finfo(float).eps))


def _mel_filters() -> np.ndarray:
    """Triangles of equal area on Slaney's mel scale, (128, 513): linear to 1 kHz, logarithmic above.

    From M. Slaney, Auditory Toolbox (1998); it is what librosa, and so the reference, computes.
    """
    top_mel = 15 + np.log(SAMPLE_RATE_HZ / 2 / 1000) * 27 / np.log(6.4)
    mels = np.linspace(0, top_mel, MELS + 2)
    edges_hz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))  # (130,)
    bins_hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ)  # (513,)
    low, middle, high = (edges_hz[start : start + MELS, np.newaxis] for start in range(3))
    triangles = np.minimum((bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle))
    return np.asarray(np.maximum(triangles, 0) * 2 / (high - low))
