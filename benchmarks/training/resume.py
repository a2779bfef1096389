"""Is a training that was killed and resumed equal to one that was not? Keras ``fit``, Lightning and edgekit.

Each training has dropout, shuffled batches, Adam and a seed. It runs twice to the end, which shows whether it can be
repeated at all. A third run is ended at the start of epoch 4 and then started again. Lightning is measured where it is
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, KILLED_AT, BATCH, RATE = 6, 4, 32, 1e-2  # epochs count from 1
KILLED = 9  # exit code
MODELS = {
    "keras": """
import keras

def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((16,)), *layers])
""",
    "torch": """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))
""",
}


def main() -> None:
    """Print a line a training loop; with arguments, be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("child", nargs="*", help=argparse.SUPPRESS)
    child = parser.parse_args().child
    if child:
        name, kill, folder, result = child
        np.savez(result, *TRAININGS[name](kill == "kill", Path(folder)))
        return
    for name in TRAININGS:
        if name == "Lightning" and not importlib.util.find_spec("lightning"):
            print("Lightning: not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            whole, again = (_train(name, Path(folder), run) for run in ("whole", "again"))
            _train(name, Path(folder), "killed", kill=True)
            resumed = _train(name, Path(folder), "killed")
        print(
            f"{name}: repeated differs by {_apart(whole, again):.3g}, resumed by {_apart(whole, resumed):.3g}",
            flush=True,
        )


def _train(name: str, folder: Path, run: str, *, kill: bool = False) -> list[np.ndarray]:
    (folder / run).mkdir(exist_ok=True)
    result = folder / f"{run}.npz"
    command = [sys.executable, "-m", "benchmarks.training.resume", name, "kill" if kill else "", folder / run, result]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode != (KILLED if kill else 0):
        raise SystemExit(f"{name}: {ended.stderr[-2000:]}")
    if kill:
        return []
    with np.load(result) as kept:
        return list(kept.values())


def _apart(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Return the largest difference between two sets of weights."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def _data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def _end_process(epoch: int) -> None:
    if epoch == KILLED_AT:
        os._exit(KILLED)


def _keras(kill: bool, folder: Path) -> list[np.ndarray]:
    import keras

    scope: dict[str, Any] = {}
    exec(MODELS["keras"], scope)
    model = scope["build"]()
    model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [keras.callbacks.BackupAndRestore(folder / "backup")]
    if kill:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: _end_process(epoch + 1)))
    model.fit(*_data(), epochs=EPOCHS, batch_size=BATCH, callbacks=callbacks, verbose=0)
    weights: list[np.ndarray] = model.get_weights()
    return weights


def _lightning(kill: bool, folder: Path) -> list[np.ndarray]:
    import lightning
    import torch
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            scope: dict[str, Any] = {}
            exec(MODELS["torch"], scope)
            self.net = scope["build"]()

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), RATE)

    class Kill(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            _end_process(trainer.current_epoch + 1)

    lightning.seed_everything(0)
    samples = torch.utils.data.TensorDataset(*map(torch.from_numpy, _data()))
    batches = torch.utils.data.DataLoader(samples, batch_size=BATCH, shuffle=True)
    checkpoints = ModelCheckpoint(folder, save_last=True, every_n_epochs=1)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [checkpoints, Kill()] if kill else [checkpoints]
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=callbacks, **quiet)
    module, last = Module(), folder / "last.ckpt"
    trainer.fit(module, batches, ckpt_path=last if last.exists() else None)
    return [one.detach().numpy() for one in module.parameters()]


def _edgekit(framework: str) -> Callable[[bool, Path], list[np.ndarray]]:
    def run(kill: bool, folder: Path) -> list[np.ndarray]:
        from edgekit_converters import data, train
        from edgekit_converters.load import load, reopen
        from edgekit_converters.records import InputShape, SourceRequest
        from edgekit_converters.train import loop

        model, samples = folder / "model.py", folder / "samples.npz"
        model.write_text(MODELS[framework])
        x, y = _data()
        np.savez(samples, x=x, y=y)
        for name in ("data", "checkpoints"):
            (folder / name).mkdir(exist_ok=True)
        shapes = (InputShape((1, 16)),) if framework == "torch" else ()
        source = load(SourceRequest("python", model, function="build", input_shapes=shapes), folder)
        prepared = data.prepare(data.DataRequest(str(samples), source.inputs, purpose="training"), folder / "data")
        settings = train.Settings(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE)
        if kill:
            start = loop._epoch
            loop._epoch = lambda run, number, log: (_end_process(number), start(run, number, log))[1]
        request = train.TrainRequest(
            source, source.inputs, source.outputs, prepared, settings, checkpoints=str(folder / "checkpoints")
        )
        handle = reopen(loop.train(request, folder).request).handle
        if framework == "keras":
            weights: list[np.ndarray] = handle.model.get_weights()
            return weights
        return [one.detach().numpy() for one in handle.parameters()]

    return run


TRAININGS: dict[str, Callable[[bool, Path], list[np.ndarray]]] = {
    "Keras fit": _keras,
    "Lightning": _lightning,
    "edgekit, Keras": _edgekit("keras"),
    "edgekit, PyTorch": _edgekit("torch"),
}

if __name__ == "__main__":
    main()
