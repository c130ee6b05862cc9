"""Is this machine ready? Each finding is a fact, and each problem comes with its fix."""

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hffnet.runtime import machine, native
from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.doctor_engines import ahead_of_time_findings, flavour_finding, gpu_findings, library_findings
from hffnet.runtime.engines.cache import FOLDER_VARIABLE, cache_folder
from hffnet.runtime.engines.choice import (
    Choice,
    ChoiceRow,
    cpu_name,
    measured_choice,
    remembered_choice,
    store_choice,
)
from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.flavour import FLAVOURS
from hffnet.runtime.engines.opening import OpenSettings, candidates_for
from hffnet.runtime.errors import BundleError, EngineError, ExitCode, MissingExtraError
from hffnet.runtime.finding import Finding

_OLDEST_PYTHON = (3, 11)
_LITTLE_MEMORY = 2 << 30
_LITTLE_DISK = 2 << 30
_CODECS = ("LZW", "DEFLATE", "PACKBITS", "JPEG8", "PNG", "ZSTD")


class Diagnosis(BaseModel):
    """What ``hffnet doctor`` prints.

    Attributes:
        engines: the measured table for the bundle; None where no bundle was named.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    command: str = "doctor"
    bundle: str | None
    findings: tuple[Finding, ...]
    engines: Choice | None

    @property
    def exit_code(self) -> ExitCode:
        """MISSING where something that was asked for cannot be done here."""
        return ExitCode.MISSING if any(one.state == "missing" for one in self.findings) else ExitCode.DONE


def diagnose(bundle: Path | None = None, *, threads: int | None = None) -> Diagnosis:
    """Look at the machine, and at what it can do with a bundle.

    Args:
        bundle: its engines are opened, self-tested and, where that was not done before, timed.
        threads: of CPU engines.

    Raises:
        BundleError: the bundle is not sound.
    """
    opened = open_bundle(bundle) if bundle is not None else None
    gpu, no_gpu = _gpu()
    findings = [
        *_system_findings(),
        *_memory_findings(gpu),
        *gpu_findings(gpu, no_gpu),
        *(flavour_finding(flavour, gpu) for flavour in FLAVOURS.values()),
        *library_findings(),
        _native_finding(),
        _codec_finding(),
        *_storage_findings(),
    ]
    engines = None
    if opened is not None:
        engines, more = _bundle_findings(opened, threads)
        findings += [*more, *ahead_of_time_findings(opened)]
    return Diagnosis(bundle=str(bundle) if bundle else None, findings=tuple(findings), engines=engines)


def _gpu() -> tuple[Gpu | None, EngineError | None]:
    try:
        return probe_gpu(), None
    except EngineError as error:
        return None, error


def _system_findings() -> list[Finding]:
    version = platform.python_version()
    new_enough = sys.version_info >= _OLDEST_PYTHON
    found = [
        Finding(
            section="system",
            name="Python",
            value=f"{version}, {sys.executable}",
            state="ok" if new_enough else "missing",
            fix=None if new_enough else "install Python 3.11 or newer; on JetPack 6 use the C++ runtime",
        ),
        Finding(section="system", name="system", value=machine.system_name()),
        Finding(section="system", name="processor", value=f"{cpu_name()}, {machine.usable_cores()} usable cores"),
    ]
    governor = machine.governor()
    if governor is not None:
        slow = governor == "powersave"
        found.append(
            Finding(
                section="system",
                name="clock governor",
                value=governor,
                state="note" if slow else "ok",
                fix="sudo cpupower frequency-set -g performance, before timing anything" if slow else None,
            )
        )
    if (jetson := machine.jetson()) is not None:
        found.append(_jetson_finding(jetson))
    return found


def _jetson_finding(jetson: machine.Jetson) -> Finding:
    name = f"JetPack {jetson.jetpack}" if jetson.jetpack else "unknown JetPack"
    mode = f", power mode {jetson.power_mode}" if jetson.power_mode else ""
    if (clock := machine.jetson_gpu_clock()) is not None:
        mode += f", GPU at {clock[0]} of {clock[1]} MHz"
    fix = None
    if jetson.l4t < (36, 4):
        fix = "update to JetPack 6.1 or newer: its TensorRT is too old"
    elif jetson.l4t < (38,):
        fix = "use the C++ runtime, or JetPack 7 or newer: the Python bindings of its TensorRT need Python 3.10"
    return Finding(
        section="system",
        name="Jetson",
        value=f"{jetson.model}, L4T {'.'.join(map(str, jetson.l4t))} ({name}){mode}",
        state="problem" if fix else "ok",
        fix=fix or "for full clocks: sudo nvpmodel -m 0 && sudo jetson_clocks",
    )


def _memory_findings(gpu: Gpu | None) -> list[Finding]:
    found = machine.memory()
    little = found.available < _LITTLE_MEMORY
    shared = gpu is not None and gpu.integrated and not found.swap_total
    return [
        Finding(
            section="memory",
            name="memory",
            value=f"{found.available / 1e9:.1f} GB available of {found.total / 1e9:.1f} GB",
            state="problem" if little else "ok",
            fix="close other programs: an engine of the paper's size needs about 2 GB to open" if little else None,
        ),
        Finding(
            section="memory",
            name="swap",
            value=f"{found.swap_free / 1e9:.1f} GB free of {found.swap_total / 1e9:.1f} GB",
            state="problem" if shared else "ok",
            fix="add swap before an engine is built here: GPU and CPU share the memory" if shared else None,
        ),
    ]


def _native_finding() -> Finding:
    """Speed only: the two forms answer alike."""
    name = "compiled preprocess and decode"
    if native.MODULE is not None:
        return Finding(section="frames", name=name, value=f"used ({native.MODULE.__file__})")
    fix = (
        f"{native.VARIABLE}=1 pip install . in hffnet's source folder, with a C++20 compiler: it prepares frames faster"
    )
    return Finding(section="frames", name=name, value=native.REASON, state="note", fix=fix)


def _codec_finding() -> Finding:
    try:
        import imagecodecs
    except ImportError as error:
        fix = "pip install imagecodecs"
        return Finding(section="frames", name="codecs", value=str(error), state="missing", fix=fix)
    absent = [name for name in _CODECS if not getattr(getattr(imagecodecs, name, None), "available", False)]
    return Finding(
        section="frames",
        name="codecs",
        value=f"imagecodecs {imagecodecs.__version__}" + (f", without {', '.join(absent)}" if absent else ""),
        state="problem" if absent else "ok",
        fix="pip install --force-reinstall imagecodecs: TIFF files so compressed cannot be read" if absent else None,
    )


def _storage_findings() -> list[Finding]:
    places = (("engine cache", cache_folder(), f"set {FOLDER_VARIABLE} to a folder that you own"),
              ("working folder", Path.cwd(), "change to a folder that you may write"))  # fmt: skip
    return [_folder_finding(name, folder, fix) for name, folder, fix in places]


def _folder_finding(name: str, folder: Path, fix: str) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        value = f"{folder} cannot be written: {error.strerror or error}"
        return Finding(section="storage", name=name, value=value, state="problem", fix=fix)
    free = shutil.disk_usage(existing).free
    little = free < _LITTLE_DISK
    return Finding(
        section="storage",
        name=name,
        value=f"{folder}, {free / 1e9:.1f} GB free",
        state="problem" if little else "ok",
        fix="free some space: an engine of the paper's size takes up to 1 GB" if little else None,
    )


def _bundle_findings(bundle: Bundle, threads: int | None) -> tuple[Choice | None, list[Finding]]:
    settings = OpenSettings(threads=threads)
    try:
        candidates = candidates_for(bundle, "auto", "auto")
    except (BundleError, MissingExtraError) as error:
        return None, [Finding(section="bundle", name="engine", value="none", state="missing", fix=str(error))]
    choice = remembered_choice(bundle, candidates, settings)
    if choice is None:
        choice, quickest = measured_choice(bundle, candidates, settings)
        store_choice(bundle, candidates, settings, choice)
        if quickest is not None:
            quickest.close()
    winner = choice.winner
    if winner is None:
        fix = "; ".join(f"{row.target}: {row.refused}" for row in choice.rows)
        return choice, [Finding(section="bundle", name="engine", value="none passes", state="missing", fix=fix)]
    chosen = f"{winner.target} {winner.precision} on {winner.device}, {winner.median_ms:.2f} ms"
    return choice, [
        Finding(section="bundle", name="engine", value=chosen),
        *(_refused_finding(row) for row in choice.rows if row.refused),
    ]


def _refused_finding(row: ChoiceRow) -> Finding:
    return Finding(
        section="bundle", name=f"{row.target} {row.precision}", value="not used", state="note", fix=row.refused
    )
