"""``load(path)`` gives a ``Model``; ``model(x)`` runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from edgekit_runtime.bundle import Bundle, BundlePath, open_bundle
from edgekit_runtime.errors import EngineError, InputMismatch, MalformedBundle
from edgekit_runtime.manifest import InputSpec, Manifest, OutputSpec
from edgekit_runtime.place import How, Placement, place
from edgekit_runtime.selfcheck import CHECKS

if TYPE_CHECKING:
    from edgekit_runtime.delegates import Options
    from edgekit_runtime.session import Session
    from edgekit_runtime.tensors import Array

    Inputs = Union[Array, Mapping[str, Any], Sequence[Any]]
    Outputs = Union[Array, dict[str, Array]]


def load(  # noqa: PLR0913  # each is a question of its own, and all but the path are seldom asked
    path: BundlePath,
    device: str = "auto",
    require: str | None = None,
    threads: int | None = None,
    *,
    delegate: str | None = None,
    delegate_options: Options | None = None,
    check: str = "auto",
) -> Model:
    """Open a bundle and the best of its variants that this machine runs as it should.

    Args:
        path: a ``.edgekit`` file, or the same tree as a folder.
        device: ``"auto"``, or the name of a device the bundle was made for, whose variants then come first.
        require: a variant's name, engine, ``engine:device``, device, delegate or scheme; anything else is
            refused rather than fallen back to.
        threads: None leaves the number to the engine.
        delegate: tried first on every LiteRT variant for the CPU: a known name such as ``"vx"``, or the path of
            a delegate's library.
        delegate_options: ``{"device": "usb"}`` or ``"device=usb"``; for Coral ``"usb"``, ``"pci"`` or ``":1"``.
        check: the golden outputs are compared when anything that matters is new on this machine (``"auto"``),
            ``"always"`` or ``"never"``.

    Raises:
        BundleError: the bundle must not be used, or no variant is made for such a machine.
        EngineError: no variant can be opened and proven here; the message gives every reason.
        ProfileError: the bundle was not made for that device.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, wanted None or at least 1")
    if check not in CHECKS:
        raise ValueError(f"check is {check!r}, wanted one of {', '.join(CHECKS)}")
    bundle = open_bundle(path)
    try:
        labels = read_labels(bundle)
        session, placement = place(bundle, device, require, threads, How(delegate, delegate_options, check))
    except BaseException:  # whatever stopped it, nothing taken out of the bundle stays behind
        bundle.close()
        raise
    return Model(bundle, session, placement, labels)


class Model:
    """A model, ready to run. Threads may share it: calls take turns.

    Attributes:
        manifest: all that the bundle says.
        inputs: what ``model(x)`` takes.
        outputs: what it gives.
        placement: which variant runs, where, and why not the others.
        labels: by output name, the names of its classes, for outputs that have them.
    """

    def __init__(
        self, bundle: Bundle, session: Session, placement: Placement, labels: dict[str, tuple[str, ...]]
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.inputs: tuple[InputSpec, ...] = bundle.manifest.inputs
        self.outputs: tuple[OutputSpec, ...] = bundle.manifest.outputs
        self.placement = placement
        self.labels = labels
        self._bundle = bundle
        self._session: Session | None = session
        self._lock = Lock()
        self._single_input = len(self.inputs) == 1
        self._single_output = len(self.outputs) == 1

    def __call__(self, x: Inputs, raw: bool = False) -> Outputs:
        """Run once.

        Args:
            x: an array for a model of one input, else a dict by input name or a sequence in the order of
                ``inputs``. Floats are quantized where the variant wants that; an array in the variant's own
                quantized dtype goes in as it is.
            raw: ``x`` is what the sensor gave: images are uint8 (H, W, C) or (1, H, W, C), and the declared
                preprocessing is applied.

        Returns:
            An array for a model of one output, else a dict by output name; in the declared shapes and dtypes.

        Raises:
            InputMismatch: an input has the wrong name, shape or dtype, or is not finite.
            EngineError: the engine failed, or the model is closed.
        """
        values = [x] if self._single_input and type(x) is np.ndarray else self._values(x)
        with self._lock:
            if self._session is None:
                raise EngineError("the model is closed: load the bundle again")
            results = self._session.run(values, raw)
        if self._single_output:
            return results[0]
        return {spec.name: result for spec, result in zip(self.outputs, results)}

    def __repr__(self) -> str:
        at = self.placement
        return f"<Model {self.manifest.model_name!r} {at.variant} on {at.engine}:{at.device}>"

    def close(self) -> None:
        """Let go of the engine and of everything taken out of the bundle. May be called again."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
                self._bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _values(self, x: Inputs) -> list[Any]:
        """One value an input, in order."""
        names = [spec.name for spec in self.inputs]
        if isinstance(x, Mapping):
            if x.keys() != set(names):
                raise InputMismatch(f"the inputs are {', '.join(names)}, there came {', '.join(map(str, x)) or 'none'}")
            return [x[name] for name in names]
        values = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(values) != len(names):
            raise InputMismatch(f"the model has {len(names)} inputs ({', '.join(names)}), there came {len(values)}")
        return values


def read_labels(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """The labels of every output that has them: one a line, as many as the output's last dimension.

    Raises:
        MalformedBundle: they are not UTF-8, or not as many.
    """
    found = {}
    for spec in bundle.manifest.outputs:
        if spec.labels is None:
            continue
        try:
            labels = tuple(bundle.read(spec.labels).decode("utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise MalformedBundle(f"{spec.labels}: is not UTF-8: {error}") from error
        if len(labels) != (spec.shape[-1] if spec.shape else 1):
            raise MalformedBundle(
                f"{spec.labels}: has {len(labels)} labels for output {spec.name!r} {list(spec.shape)}"
            )
        found[spec.name] = labels
    return found
