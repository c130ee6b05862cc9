"""What can go wrong, as exceptions with a sentence and an exit code.

Every message says what was found (value, file), what was expected and what to do. The command line prints the
sentence and exits with ``exit_code``; it shows a traceback only with ``--debug``.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every ``hffnet`` command (docs/reference/exit-codes.md)."""

    DONE = 0
    FAILED_GATE = 1
    WRONG_USE = 2
    BAD_INPUT = 3
    MISSING = 4
    INTERRUPTED = 5


class HffnetError(Exception):
    """Root of every error that hffnet raises on purpose."""

    exit_code = ExitCode.BAD_INPUT


class ConfigError(HffnetError):
    """A setting, an option or a combination of them is wrong."""

    exit_code = ExitCode.WRONG_USE


class DatasetError(HffnetError):
    """Labelled frames cannot be used as they are: empty, one class, unknown class, impossible split."""


class FrameError(HffnetError):
    """A frame cannot be read or is refused: unreadable, truncated, over a limit."""


class ReaderError(HffnetError):
    """The process that reads files cannot be started on this machine now; says nothing of any frame."""

    exit_code = ExitCode.MISSING


class BundleError(HffnetError):
    """A bundle is corrupt, foreign, or not readable by this version."""


class CheckpointError(HffnetError):
    """A checkpoint or a weights file is incomplete, or does not fit the network."""


class SourceError(HffnetError):
    """A source of frames cannot be opened or has failed for good."""


class SourceAwayError(SourceError):
    """A source is not there now and may come: a device that is off, a share that is not mounted."""

    exit_code = ExitCode.MISSING


class RecordError(HffnetError):
    """The records cannot be opened, written or trusted: foreign file, newer version, disk full."""


class RecordsAwayError(RecordError):
    """The records cannot be reached now and may be later: locked, disk full, folder not mounted."""

    exit_code = ExitCode.MISSING


class GraphError(HffnetError):
    """An ONNX graph is not of the form that calibration or export can handle."""


class EngineError(HffnetError):
    """An engine cannot be built, opened or trusted on this machine."""

    exit_code = ExitCode.MISSING


class MissingExtraError(HffnetError):
    """A command needs an optional part of hffnet that is not installed."""

    exit_code = ExitCode.MISSING


class ParityError(HffnetError):
    """Two forms of the same network disagree by more than the stated tolerance."""

    exit_code = ExitCode.FAILED_GATE


class GateError(HffnetError):
    """A measured quality is below its limit, so nothing was written."""

    exit_code = ExitCode.FAILED_GATE
