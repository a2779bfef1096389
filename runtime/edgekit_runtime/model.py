"""``load(path)`` gives a ``Model``; ``model(x)`` runs it."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Union

import numpy as np

from edgekit_runtime.bundle.reader import Bundle, open_bundle
from edgekit_runtime.errors import EngineError, InputMismatch, MalformedBundle
from edgekit_runtime.format.extents import BundlePath
from edgekit_runtime.format.manifest import InputSpec, Manifest, OutputSpec
from edgekit_runtime.inference.stream import cores, stream
from edgekit_runtime.placement.golden_check import CHECKS
from edgekit_runtime.placement.place import How, Placement, place

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.inference.postprocess import Answer
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.placement.failover import Event, Failover
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.policy import Trust

    Inputs = Union[Array, Mapping[str, Any], Sequence[Any]]
    Outputs = Union[Array, dict[str, Array]]


ISOLATE_S, MOST_S = 10.0, 86400.0  # what a run in a child process may take, unless said; and may at most


def load(  # noqa: PLR0913  # each is a question of its own, and all but the path are seldom asked
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
    """Open a bundle and the best of its variants that this machine runs as it should.

    Args:
        path: a ``.edgekit`` file, the same tree as a folder, or a store, whose current generation is opened.
        device: ``"auto"``, or the name of a device the bundle was made for, whose variants then come first.
        require: a variant's name, engine, ``engine:device``, device, delegate or scheme; anything else is
            refused rather than fallen back to.
        threads: of an engine; None leaves the number to it, ``"auto"`` measures what is fastest when the bundle is
            first loaded on a machine.
        delegate: tried first on every LiteRT variant for the CPU: a known name such as ``"vx"``, or the path of
            a delegate's library.
        delegate_options: ``{"device": "usb"}`` or ``"device=usb"``; for Coral ``"usb"``, ``"pci"`` or ``":1"``.
        check: the golden outputs are compared when anything that matters is new on this machine (``"auto"``),
            ``"always"`` or ``"never"``.
        concurrency: calls inferred at once, each in an engine of its own; None takes as many as keep the cores busy.
        isolate: run in a child process. When that crashes, or a run takes longer than so many seconds (True is
            ``ISOLATE_S``), the next variant takes over and the call goes on there.
        on_event: called with each ``Event`` of an isolated model, in the thread of the call that met it.
        cache: an engine may keep what it makes of the artifact on this machine, to start sooner or to share it.
        trust: the public keys of which one must have signed the bundle, as for ``open_bundle``.
        decryption_key: of encrypted artifacts, as for ``open_bundle``.

    Raises:
        BundleError: the bundle must not be used, or no variant is made for such a machine.
        EngineError: no variant can be opened and proven here; the message gives every reason.
        ProfileError: the bundle was not made for that device.
    """
    asked = dict(locals())
    _refuse_wrong_values(threads, check, concurrency)
    how = How(delegate, delegate_options, check, isolate_s=_isolate_s(isolate), cache=cache)
    bundle = open_bundle(path, trust, decryption_key)
    try:
        labels = read_labels(bundle)
        threads = _how_many(threads, bundle, device, require, how)
        session, placement = place(bundle, device, require, threads, how)
    except BaseException:  # whatever stopped it, nothing taken out of the bundle stays behind
        bundle.close()
        raise
    runner: Session | Failover = session
    if how.isolate_s is not None:
        from edgekit_runtime.placement.failover import Failover, Wish

        runner = Failover(bundle, session, placement, Wish(device, require, threads, how), on_event)
    return Model(bundle, runner, placement, labels, concurrency, asked)


def _refuse_wrong_values(threads: int | str | None, check: str, concurrency: int | None) -> None:
    if threads not in (None, "auto") and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}, wanted None, 'auto' or at least 1")
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}, wanted None or at least 1")
    if check not in CHECKS:
        raise ValueError(f"check is {check!r}, wanted one of {', '.join(CHECKS)}")


def _how_many(threads: int | str | None, bundle: Bundle, device: str, require: str | None, how: How) -> int | None:
    """The number of threads that was asked for; ``"auto"`` is measured."""
    if not isinstance(threads, str):
        return threads
    from edgekit_runtime.placement.thread_tuning import best_threads

    return best_threads(bundle, device, require, how)


def _isolate_s(isolate: bool | float) -> float | None:
    """How long a run in a child process may take; None without one."""
    if isolate is True or isolate is False:
        return ISOLATE_S if isolate else None
    if not 0 < isolate <= MOST_S:  # which NaN is not either
        raise ValueError(f"isolate is {isolate}, wanted True, False, or positive seconds, at most {MOST_S:g}")
    return float(isolate)


class Model:
    """A model, ready to run. Threads may share it: each call has an engine to itself, or waits for one.

    Attributes:
        manifest: all that the bundle says.
        inputs: what ``model(x)`` takes.
        outputs: what it gives.
        placement: which variant runs, where, and why not the others.
        labels: by output name, the names of its classes, for outputs that have them.
        concurrency: how many calls may be inferred at once; an engine for each is opened when it is first needed.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session | Failover,
        placement: Placement,
        labels: dict[str, tuple[str, ...]],
        concurrency: int | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self._asked = asked or {}  # of ``load``, to be asked again when the store has another generation
        self._passed_over: set[str] = set()  # generations of the store that could not be switched to
        self.manifest: Manifest = bundle.manifest
        self.inputs: tuple[InputSpec, ...] = bundle.manifest.inputs
        self.outputs: tuple[OutputSpec, ...] = bundle.manifest.outputs
        self._placed = placement
        self.labels = labels
        self._bundle = bundle
        self.concurrency = concurrency or max(1, cores() // (placement.threads or 1))
        session.share(self.concurrency)
        self._session = session
        self._run_one = session.run_one
        self._executor: Executor | None = None
        self._closed = False
        self._lock = allocate_lock()
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
        run_one = self._run_one
        if run_one is not None and type(x) is np.ndarray and not raw:
            try:
                return run_one(x)
            except EngineError:
                if run_one is self._run_one:  # else another generation took over meanwhile
                    raise
        values = [x] if self._single_input and type(x) is np.ndarray else self._values(x)
        results = self._run(values, raw)
        if self._single_output:
            return results[0]
        return {spec.name: result for spec, result in zip(self.outputs, results)}

    def _run(self, values: list[Any], raw: bool) -> list[Array]:
        while True:
            session = self._session
            try:
                return session.run(values, raw)
            except EngineError:
                if session is self._session:  # else another generation took over meanwhile
                    raise

    @property
    def placement(self) -> Placement:
        """What runs now; of an isolated model it changes when a variant is lost."""
        placement: Placement = getattr(self._session, "placement", self._placed)
        return placement

    @property
    def events(self) -> tuple[Event, ...]:
        """What an isolated model has lost while it ran, the last things last."""
        return tuple(getattr(self._session, "events", ()))

    def submit(self, x: Inputs, raw: bool = False) -> Future[Outputs]:
        """Begin a call in another thread. The arrays must not change until it is done."""
        return self._threads().submit(self, x, raw)

    def postprocess(self, outputs: Outputs) -> tuple[Answer, ...]:
        """What the outputs of one call mean, as the bundle declares: classes or boxes, the best first.

        Raises:
            MalformedBundle: the bundle declares nothing.
        """
        declared = self.manifest.postprocessing
        if declared is None:
            raise MalformedBundle(f"the bundle {self.manifest.model_name!r} does not declare what its outputs mean")
        from edgekit_runtime.inference.postprocess import answers

        by_name = outputs if isinstance(outputs, dict) else {self.outputs[0].name: outputs}
        return answers(declared, by_name, self.labels)

    async def arun(self, x: Inputs, raw: bool = False) -> Outputs:
        """Run once without blocking the event loop."""
        import asyncio

        return await asyncio.wrap_future(self.submit(x, raw))

    def stream(self, inputs: Iterable[Inputs], depth: int | None = None, raw: bool = False) -> Iterator[Outputs]:
        """Give the outputs of each input, in order, while later ones are preprocessed and inferred.

        Args:
            inputs: read as they are needed, at most ``depth`` ahead; an array must not change while it is under way.
            depth: calls under way at once; None takes two for each of ``concurrency``.
            raw: as in a call.

        Raises:
            Exception: what a call or ``inputs`` raised, after all results before it.
        """
        if depth is not None and depth < 1:
            raise ValueError(f"depth is {depth}, wanted None or at least 1")
        return stream(lambda x: self.submit(x, raw), inputs, depth or 2 * self.concurrency)

    def _threads(self) -> Executor:
        """The threads of ``submit``: one for each engine, and one that preprocesses meanwhile."""
        with self._lock:
            if self._closed:
                raise EngineError("the model is closed: load the bundle again")
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self.concurrency + 1, "edgekit")
            return self._executor

    @property
    def generation(self) -> str | None:
        """The name of the store's generation that runs; None of a bundle that is in no store."""
        return None if self._bundle.hold is None else self._bundle.hold.generation

    def reload_if_changed(self) -> bool:
        """Switch to the store's current generation if that is another than what runs; tell whether it is.

        Calls go on meanwhile: those under way end on the old generation, the next ones run on the new one, in whatever
        thread. Asking costs one system call. ``manifest``, ``labels`` and ``placement`` are then those of the new one.

        Raises:
            StoreError: the model was not loaded from a store, or the new generation has other inputs or outputs.
            EngineError: the new one cannot be opened and proven here, or the model is closed.
            BundleError: the new one must not be used. After each of these the old one runs on, and this generation is
                not tried again.
        """
        from edgekit_runtime.store.reload import newer

        other = newer(self._bundle, self._asked, self._passed_over)
        if other is not None:
            self._become(other)
        return other is not None

    def heartbeat(self) -> bool:
        """Tell the store that this application works with the generation that runs, where that is on trial.

        Returns:
            Whether it was on trial; else nothing is written, so this may be called often.

        Raises:
            StoreError: the model was not loaded from a store, or that cannot be written.
        """
        from edgekit_runtime.store.reload import beat

        return beat(self._bundle)

    def __repr__(self) -> str:
        at = self.placement
        return f"<Model {self.manifest.model_name!r} {at.variant} on {at.engine}:{at.device}>"

    def close(self) -> None:
        """Let go of the engines and of everything taken out of the bundle. May be called again.

        Calls that run in other threads end as usual; those that have not begun are refused or cancelled.
        """
        with self._lock:
            self._closed = True
            self._session.close()
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
            self._bundle.close()

    def _become(self, other: Model) -> None:
        """Take over all that another model has, and close what was there when its calls have ended."""
        with self._lock:
            if self._closed:
                other.close()
                raise EngineError("the model is closed: load the store again")
            bundle, session = self._bundle, self._session
            for name in ("manifest", "inputs", "outputs", "labels", "_placed", "_bundle", "_session", "_run_one"):
                setattr(self, name, getattr(other, name))
        session.close()
        bundle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
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
    """The labels of every output that has them: one a line, as many as the output has classes.

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
        means = bundle.manifest.postprocessing
        if means is not None and means.scores == spec.name:
            classes = means.classes(spec.shape)
        else:
            classes = spec.shape[-1] if spec.shape else 1
        if len(labels) != classes:
            raise MalformedBundle(
                f"{spec.labels}: has {len(labels)} labels for output {spec.name!r} {list(spec.shape)}"
            )
        found[spec.name] = labels
    return found
