"""The ``hffnet`` command: finds every station's commands by entry point and turns errors into sentences.

Nothing heavy is imported here or at the top of a command module: ``hffnet --help`` reads them all.
"""

import logging
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from hffnet.runtime.errors import ExitCode, HffnetError
from hffnet.runtime.stderr import OneLineFormatter, say, say_line, settle_stderr

GROUP = "hffnet.commands"
_ORDER = (
    "demo",
    "data",
    "train",
    "evaluate",
    "calibrate",
    "export",
    "inspect",
    "classify",
    "run",
    "records",
    "benchmark",
)
_EXTRA_OF_MODULE = {
    "torch": "train",
    "kornia": "train",
    "safetensors": "train",
    "jinja2": "train",
    "plotly": "train",
    "onnx": "calibration",
    "onnxscript": "export",
    "openvino": "openvino",
    "mss": "screen",
    "paho": "mqtt",
    "pyarrow": "parquet",
    "ray": "ray",
}
_TYPER_INTERRUPTED = 130
_INTERRUPTED = HffnetError("interrupted")
_INTERNAL_ERROR = 70  # sysexits.h EX_SOFTWARE: a defect in hffnet, not in what it was given


def build_app() -> typer.Typer:
    """The command with everything that the installed stations register."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Hierarchical image classification at the microscope.",
        epilog="Exit codes: 0 done, 1 failed gate, 2 wrong use, 3 bad input, 4 missing extra or device, 5 interrupted.",
    )
    app.callback()(_global_options)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    for name in sorted(found, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n)):
        command = found[name].load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _print_version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"hffnet {version('hffnet')}")
        raise typer.Exit


def _global_options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and every log line.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=lambda asked: _print_version(asked=asked))
    ] = False,
) -> None:
    del show_version
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(name)s: %(message)s" if debug else "hffnet: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its documented code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # OpenMP threads that wait spinning take the core from whoever they wait for: beside other work on two cores
    # torch trained 10 times slower (6 instead of 110 frames/s). Read by the library when it is loaded, so set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = build_app()(arguments, prog_name="hffnet", standalone_mode=False)
        if code == _TYPER_INTERRUPTED:
            code = _complain(_INTERRUPTED, ExitCode.INTERRUPTED, arguments)
    except HffnetError as error:
        code = _complain(error, error.exit_code, arguments)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
        if extra is None:
            code = _complain(error, _INTERNAL_ERROR, arguments)
        else:
            sentence = f"this command needs {error.name}, which is not installed: pip install 'hffnet[{extra}]'"
            code = _complain(HffnetError(sentence), ExitCode.MISSING, arguments)
    except TyperException as error:
        sentence = f"{error.format_message()} See hffnet {' '.join(arguments[:1])} --help."
        code = _complain(HffnetError(sentence), ExitCode.WRONG_USE, arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain(_INTERRUPTED, ExitCode.INTERRUPTED, arguments)
    except (BrokenPipeError, SystemExit) as error:
        code = _code_of_broken_pipe(error, arguments)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a sentence instead of a traceback
        code = _complain(error, _INTERNAL_ERROR, arguments)
    settle_stderr()
    sys.exit(int(code or 0))


def _code_of_broken_pipe(error: BrokenPipeError | SystemExit, arguments: Sequence[str]) -> int:
    """Typer answers to a broken pipe, whichever it is, by leaving with 1; any other way of leaving goes on."""
    broken = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(broken, BrokenPipeError):
        raise error
    return ExitCode.DONE if _is_stdout_gone() else _complain(broken, _INTERNAL_ERROR, arguments)


def _is_stdout_gone() -> bool:
    """Whether the reader of our results went away (`hffnet … | head`), which is not an error.

    Any other pipe that broke is one: a service that ended so must be started anew.
    """
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # what is left in its buffer must not break at exit again
    os.close(null)
    return True


def _complain(error: Exception, code: int, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        logging.getLogger(__name__).error("failed", exc_info=error)
    if code == _INTERNAL_ERROR:
        sentence = f"this is a defect: {type(error).__name__}: {error}; run hffnet --debug … and report what it shows"
    else:
        sentence = str(error)
    first, *rest = sentence.split("\n")
    say(first)
    for line in rest:
        say_line(line)
    return code


def main_train() -> None:
    """``hffnet-train``."""
    main(["train", *sys.argv[1:]])


def main_calibrate() -> None:
    """``hffnet-calibrate``."""
    main(["calibrate", *sys.argv[1:]])


def main_export() -> None:
    """``hffnet-export``."""
    main(["export", *sys.argv[1:]])


def main_run() -> None:
    """``hffnet-run``."""
    main(["run", *sys.argv[1:]])


def main_benchmark() -> None:
    """``hffnet-benchmark``."""
    main(["benchmark", *sys.argv[1:]])
