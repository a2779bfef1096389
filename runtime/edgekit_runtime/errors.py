"""Every error that edgekit raises on purpose, and the exit code of its family.

EdgekitError
├── PlanError             exit 3   the request cannot be fulfilled
│   ├── ProfileError               a device profile is unknown or malformed
│   ├── SourceError                the model cannot be found, read or loaded
│   └── DataError                  calibration or evaluation data do not fit
├── ConversionError       exit 4   a stage failed; has stage, subject and advice
│   ├── UnsupportedOperator        the target format lacks an operator of the model
│   ├── CalibrationError           the quantizer could not use the calibration data
│   ├── DiskFull                   the disk is full
│   └── ToolchainError             a toolchain failed, was killed or is not installed
├── VerificationError     exit 5   an artifact differs more, or costs more accuracy, than allowed
├── BundleError           exit 6   the bundle must not be used
│   ├── MalformedBundle            the archive or its manifest breaks the format
│   ├── DigestMismatch             a file is not the file that was packed
│   ├── SignatureInvalid           a trusted signature is required, and it is missing or wrong
│   ├── DecryptionFailed           the key of an encrypted file is missing or wrong
│   ├── UnsupportedVersion         written by a newer format version
│   ├── IncompatibleDevice         no variant can run on this machine
│   └── NotAnUpdate                it is older than the store's bundle, or of another model
├── EngineError           exit 7   an engine is not available, failed, or refused an input
│   ├── EngineUnavailable          the library is missing or does not load
│   ├── DelegateUnavailable        the delegate is missing or refused the model
│   ├── DelegateCrashed            the delegate crashed or hung in its probe
│   └── InputMismatch              an input has the wrong name, shape, dtype or values
└── StoreError            exit 8   the store of bundles on a board cannot do it

Exit code 2 is a usage error of the command line, 1 a bug with its traceback.
Messages say what happened, where, and what to do next.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """The root of every error raised on purpose."""

    exit_code = 1


class PlanError(EdgekitError):
    """The request cannot be fulfilled."""

    exit_code = 3


class ProfileError(PlanError):
    """A device profile is unknown or malformed."""


class SourceError(PlanError):
    """The model cannot be found, read or loaded."""


class DataError(PlanError):
    """Calibration or evaluation data do not fit the model or are unusable."""


class ConversionError(EdgekitError):
    """A stage failed or refused its input.

    Attributes:
        stage: the stage's name, such as ``"lower"``.
        subject: the layer, operator or artifact at fault.
        advice: what the user can do next.
    """

    exit_code = 4

    def __init__(self, message: str, *, stage: str = "", subject: str = "", advice: str = "") -> None:
        super().__init__(message)
        self.stage = stage
        self.subject = subject
        self.advice = advice

    def __str__(self) -> str:
        where = self.stage + (f" ({self.subject})" if self.subject else "")
        text = f"{where}: {self.args[0]}" if where else str(self.args[0])
        return f"{text}\n{self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args[0], self.stage, self.subject, self.advice)


def _rebuild(kind: type[ConversionError], message: str, stage: str, subject: str, advice: str) -> ConversionError:
    """Restore a pickled error, which a worker process sends to its parent."""
    return kind(message, stage=stage, subject=subject, advice=advice)


class UnsupportedOperator(ConversionError):
    """The target format lacks an operator of the model."""


class CalibrationError(ConversionError):
    """The quantizer could not use the calibration data."""


class DiskFull(ConversionError):
    """The disk is full, so that the next stage would fail, too."""


class ToolchainError(ConversionError):
    """A toolchain failed, was killed, or is not installed."""


class VerificationError(EdgekitError):
    """An artifact differs more, or costs more accuracy, than allowed."""

    exit_code = 5


class BundleError(EdgekitError):
    """The bundle must not be used."""

    exit_code = 6


class MalformedBundle(BundleError):
    """The archive or its manifest breaks the format."""


class DigestMismatch(BundleError):
    """A file is not the file that was packed."""


class SignatureInvalid(BundleError):
    """A trusted signature is required, and it is missing or wrong."""


class DecryptionFailed(BundleError):
    """The key of an encrypted file is missing or wrong."""


class UnsupportedVersion(BundleError):
    """The bundle was written by a newer format version."""


class IncompatibleDevice(BundleError):
    """No variant can run on this machine."""


class NotAnUpdate(BundleError):
    """The bundle is older than the store's bundle, or of another model."""


class EngineError(EdgekitError):
    """An engine is not available, failed, or refused an input."""

    exit_code = 7


class EngineUnavailable(EngineError):
    """The engine's library is missing or does not load."""


class DelegateUnavailable(EngineError):
    """The delegate is missing or refused the model."""


class DelegateCrashed(EngineError):
    """The delegate crashed or hung in its probe."""


class InputMismatch(EngineError):
    """An input has the wrong name, shape, dtype or values."""


class StoreError(EdgekitError):
    """The store of bundles on a board cannot do what was requested."""

    exit_code = 8
