"""``load(path)`` returns a ``Model``; ``model(x)`` runs it."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Protocol, Union

import numpy as np

from edgekit_runtime.errors import EngineError, InputMismatch, MalformedBundle
from edgekit_runtime.inference.stream import cores, stream
from edgekit_runtime.placement.load_options import LoadOptions, check_options
from edgekit_runtime.placement.place import Placement, place
from edgekit_runtime.record import dataclass, replace
from edgekit_runtime.store.open_bundle import open_bundle

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.format.manifest import InputSpec, Manifest, OutputSpec
    from edgekit_runtime.inference.postprocess import Answer
    from edgekit_runtime.placement.load_options import Event
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.policy import Trust

    Inputs = Union[Array, Mapping[str, Any], Sequence[Any]]
    Outputs = Union[Array, dict[str, Array]]


def load(  # noqa: PLR0913  # each is an independent option, and all but the path have defaults
    path: BundlePath,
    device: str = "auto",
    require: str | None = None,
    threads: int | str | None = None,
    *,
    delegate: str | None = None,
    delegate_options: Options | None = None,
    check: str = "auto",
    concurrency: int | None = None,
    isolate: bool | float = False,
    on_event: Callable[[Event], Any] | None = None,
    cache: bool = True,
    trust: Trust = None,
    decryption_key: KeySource | None = None,
) -> Model:
    """Open a bundle, and the best of its variants that runs correctly on this machine.

    Args:
        path: a ``.edgekit`` file, the same files in a folder, or a store, whose current generation is opened.
        device: ``"auto"``, or the name of a device profile in the bundle, whose variants are tried first.
        require: a variant's name, engine, ``engine:device``, device, delegate or scheme. If no variant that matches
            runs, loading fails; there is no fallback to another.
        threads: of an engine. None leaves the number to the engine; ``"auto"`` measures the fastest number when the
            bundle is first loaded on a machine.
        delegate: tried first on every LiteRT variant for the CPU: a known name such as ``"vx"``, or the path of
            a delegate's library.
        delegate_options: ``{"device": "usb"}`` or ``"device=usb"``; for Coral also ``"usb"``, ``"pci"`` or ``":1"``.
        check: when to compare the golden outputs: ``"auto"`` if anything that can change them is new on this machine,
            ``"always"`` or ``"never"``.
        concurrency: how many calls may run at once, each in an engine of its own. None uses as many as keep the
            processor's cores busy.
        isolate: run in a child process. If it crashes, or a run takes longer than this many seconds (True means
            10 s), the call continues on the next variant.
        on_event: called with each ``Event`` of an isolated model, in the thread whose call lost a variant.
        cache: allow engines to cache compiled models and repacked weights on this machine.
        trust: the public keys, one of which must have signed the bundle; as for ``open_bundle``.
        decryption_key: the key of encrypted artifacts; as for ``open_bundle``.

    Raises:
        BundleError: the bundle must not be used, or has no variant for such a machine.
        EngineError: no variant can be opened and passes its golden check here; the message lists every reason.
        ProfileError: the bundle has no profile of that device.
    """
    how = delegate, delegate_options, check, concurrency, isolate, on_event, cache, trust, decryption_key
    return load_model(path, LoadOptions(device, require, threads, *how))


def load_model(path: BundlePath, options: LoadOptions) -> Model:
    """Load a bundle with the options in one record; otherwise as ``load``."""
    check_options(options)
    return Model(_open(path, options), options)


class Runnable(Protocol):
    """Runs the calls of a ``Model``: a placed session, or one that fails over to the next variant."""

    @property
    def placement(self) -> Placement:
        """The variant that runs now."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The variants that were lost, the latest last."""

    @property
    def run_one(self) -> Callable[[Any], Array] | None:
        """A shortcut of ``run`` for one input and one output; None if there is none."""

    def run(self, values: Sequence[Any], raw: bool = False) -> list[Array]:
        """Run once, as ``Session.run``."""

    def share(self, engines: int) -> None:
        """Let as many threads run at once."""

    def close(self) -> None:
        """Close the engines. May be called again."""


@dataclass(frozen=True)
class Current:
    """What a model runs now. A reload replaces the record as a whole, so that each call sees a consistent state."""

    bundle: Bundle
    runnable: Runnable
    labels: dict[str, tuple[str, ...]]

    def close(self) -> None:
        """Close the engines and the bundle."""
        self.runnable.close()
        self.bundle.close()


def _open(path: BundlePath, options: LoadOptions) -> Current:
    bundle = open_bundle(path, options.trust, options.decryption_key)
    try:
        labels = read_labels(bundle)
        if options.threads == "auto":
            from edgekit_runtime.placement.thread_tuning import best_threads

            options = replace(options, threads=best_threads(bundle, options))
        placed = place(bundle, options)
    except BaseException:  # on every error, KeyboardInterrupt included, the temporary files are removed
        bundle.close()
        raise
    runnable: Runnable = placed
    if options.isolate_s is not None:
        from edgekit_runtime.placement.failover import Failover

        runnable = Failover(bundle, placed, options)
    runnable.share(_concurrency(options, placed.placement))
    return Current(bundle, runnable, labels)


def _concurrency(options: LoadOptions, placement: Placement) -> int:
    return options.concurrency or max(1, cores() // (placement.threads or 1))


class Model:
    """A model that is ready to run. Threads may share it: each call uses an engine alone, or waits for one.

    Attributes:
        concurrency: how many calls may run at once; an engine for each is opened when it is first needed.
    """

    def __init__(self, current: Current, options: LoadOptions) -> None:
        self._current = current
        self._options = options  # used again when the store has a newer generation
        self._failed_generations: set[str] = set()  # of the store, to which the model could not switch
        self.concurrency = _concurrency(options, current.runnable.placement)
        self._executor: Executor | None = None
        self._closed = False
        self._lock = allocate_lock()
        self._single_input = len(self.inputs) == 1
        self._single_output = len(self.outputs) == 1

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._current.bundle.manifest

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs of ``model(x)``."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The outputs of ``model(x)``."""
        return self.manifest.outputs

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """By output name, the names of the classes, for outputs that have them."""
        return self._current.labels

    @property
    def placement(self) -> Placement:
        """The variant that runs now, where, and why not the others; an isolated model's changes with a failover."""
        return self._current.runnable.placement

    @property
    def events(self) -> tuple[Event, ...]:
        """The variants that an isolated model lost while it ran, the latest last."""
        return self._current.runnable.events

    def __call__(self, x: Inputs, raw: bool = False) -> Outputs:
        """Run once.

        Args:
            x: an array for a model with one input, else a dict by input name or a sequence in the order of
                ``inputs``. Floats are quantized if the variant needs that; an array in the variant's own quantized
                dtype is used unchanged.
            raw: ``x`` is sensor data: images are uint8 (H, W, C) or (1, H, W, C), and the bundle's preprocessing is
                applied.

        Returns:
            An array for a model with one output, else a dict by output name; in the declared shapes and dtypes.

        Raises:
            InputMismatch: an input has the wrong name, shape or dtype, or a value that is not finite.
            EngineError: the engine failed, or the model is closed.
        """
        current = self._current
        run_one = current.runnable.run_one
        if run_one is not None and type(x) is np.ndarray and not raw:
            try:
                return run_one(x)
            except EngineError:
                if current is self._current:  # else a reload closed this session: run on the new one
                    raise
        values = [x] if self._single_input and type(x) is np.ndarray else self._values(x)
        results = self._run(values, raw)
        if self._single_output:
            return results[0]
        return {spec.name: result for spec, result in zip(self.outputs, results)}

    def _run(self, values: list[Any], raw: bool) -> list[Array]:
        while True:
            current = self._current
            try:
                return current.runnable.run(values, raw)
            except EngineError:
                if current is self._current:  # else a reload closed this session: run on the new one
                    raise

    def submit(self, x: Inputs, raw: bool = False) -> Future[Outputs]:
        """Start a call in another thread. The arrays must not change until it is done."""
        return self._threads().submit(self, x, raw)

    def postprocess(self, outputs: Outputs) -> tuple[Answer, ...]:
        """Convert the outputs of a call to classes or boxes, as the bundle declares, the best first.

        Raises:
            MalformedBundle: the bundle declares no postprocessing.
        """
        declared = self.manifest.postprocessing
        if declared is None:
            raise MalformedBundle(f"the bundle {self.manifest.model_name!r} does not declare what its outputs mean")
        from edgekit_runtime.inference.postprocess import postprocess

        by_name = outputs if isinstance(outputs, dict) else {self.outputs[0].name: outputs}
        return postprocess(declared, by_name, self.labels)

    async def arun(self, x: Inputs, raw: bool = False) -> Outputs:
        """Run once without blocking the event loop."""
        import asyncio

        return await asyncio.wrap_future(self.submit(x, raw))

    def stream(self, inputs: Iterable[Inputs], depth: int | None = None, raw: bool = False) -> Iterator[Outputs]:
        """Yield the outputs of each input, in order, while later ones are preprocessed and run.

        Args:
            inputs: read when needed, at most ``depth`` ahead; an array must not change until its outputs are yielded.
            depth: calls in progress at once; None means twice ``concurrency``.
            raw: as in a call.

        Raises:
            Exception: the exception of a call or of ``inputs``, after all results before it.
        """
        if depth is not None and depth < 1:
            raise ValueError(f"depth is {depth}, wanted None or at least 1")
        return stream(lambda x: self.submit(x, raw), inputs, depth or 2 * self.concurrency)

    def _threads(self) -> Executor:
        """Return the threads of ``submit``: one for each engine, and one that preprocesses meanwhile."""
        with self._lock:
            if self._closed:
                raise EngineError("the model is closed: load the bundle again")
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self.concurrency + 1, "edgekit")
            return self._executor

    @property
    def generation(self) -> str | None:
        """The name of the store's generation that runs; None for a bundle that is in no store."""
        lock = self._current.bundle.lock
        return None if lock is None else lock.generation

    def reload_if_changed(self) -> bool:
        """Switch to the store's current generation if it is not the one that runs; return whether it switched.

        Calls in other threads continue: those in progress end on the old generation, later ones run on the new one.
        ``manifest``, ``labels`` and ``placement`` are then those of the new one. If nothing has changed, this costs one
        system call.

        Raises:
            StoreError: the model was not loaded from a store, or the new generation has other inputs or outputs.
            EngineError: no variant of the new generation runs here, or the model is closed.
            BundleError: the new generation must not be used. After each of these errors the old generation still runs,
                and the new one is not tried again.
        """
        from edgekit_runtime.store.reload import newer

        current = newer(self._current.bundle, lambda store: _open(store, self._options), self._failed_generations)
        if current is not None:
            self._switch_to(current)
        return current is not None

    def _switch_to(self, new: Current) -> None:
        """Switch to a new generation; the old one's engines are closed when their calls have ended."""
        with self._lock:
            if self._closed:
                new.close()
                raise EngineError("the model is closed: load the store again")
            old, self._current = self._current, new
        old.close()

    def heartbeat(self) -> bool:
        """Confirm to the store that the application works with the generation that runs, if that is on trial.

        Returns:
            Whether it was on trial; if not, nothing is written, so this may be called often.

        Raises:
            StoreError: the model was not loaded from a store, or the store cannot be written.
        """
        from edgekit_runtime.store.reload import beat

        return beat(self._current.bundle)

    def __repr__(self) -> str:
        at = self.placement
        return f"<Model {self.manifest.model_name!r} {at.variant} on {at.engine}:{at.device}>"

    def close(self) -> None:
        """Close the engines and the bundle. May be called again.

        Calls that run in other threads end as usual; those that have not started are refused or cancelled.
        """
        with self._lock:
            self._closed = True
            self._current.runnable.close()
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
            self._current.bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _values(self, x: Inputs) -> list[Any]:
        """Return one value for each input, in order."""
        names = [spec.name for spec in self.inputs]
        if isinstance(x, Mapping):
            if x.keys() != set(names):
                raise InputMismatch(f"the inputs are {', '.join(names)}, but got {', '.join(map(str, x)) or 'none'}")
            return [x[name] for name in names]
        values = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(values) != len(names):
            raise InputMismatch(f"the model has {len(names)} inputs ({', '.join(names)}), but got {len(values)}")
        return values


def read_labels(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """Read the labels of every output that has them: one on each line, as many as the output has classes.

    Raises:
        MalformedBundle: they are not UTF-8, or their number is wrong.
    """
    found = {}
    for spec in bundle.manifest.outputs:
        if spec.labels is None:
            continue
        try:
            labels = tuple(bundle.read(spec.labels).decode("utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise MalformedBundle(f"{spec.labels}: is not UTF-8: {error}") from error
        postprocessing = bundle.manifest.postprocessing
        if postprocessing is not None and postprocessing.scores == spec.name:
            classes = postprocessing.classes(spec.shape)
        else:
            classes = spec.shape[-1] if spec.shape else 1
        if len(labels) != classes:
            raise MalformedBundle(
                f"{spec.labels}: has {len(labels)} labels for output {spec.name!r} {list(spec.shape)}"
            )
        found[spec.name] = labels
    return found
