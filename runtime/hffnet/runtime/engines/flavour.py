"""The TensorRT flavours: one API under three module names, and what tells them apart."""

import ctypes
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from hffnet.runtime.engines.driver import Gpu
from hffnet.runtime.errors import ConfigError, EngineError, MissingExtraError

FlavourName = Literal["tensorrt", "tensorrt-rtx", "tensorrt-lean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One of the libraries.

    Attributes:
        module: to import.
        title: for people.
        libraries: shared libraries that ``module`` loads, newest major first; they tell their own version.
        install: what to do where it is absent.
        builds_without_gpu: whether engines can be built ahead of time, for named architectures.
        has_timing_cache: whether measured kernels are kept between builds.
        builds: whether it builds at all; the lean runtime only runs what TensorRT built to be version-compatible.
    """

    name: FlavourName
    module: str
    title: str
    libraries: tuple[str, ...]
    install: str
    builds_without_gpu: bool
    has_timing_cache: bool
    builds: bool = True


TENSORRT = Flavour(
    name="tensorrt",
    module="tensorrt",
    title="TensorRT",
    libraries=("libnvinfer.so.11", "libnvinfer.so.10"),
    install="on Jetson it comes with JetPack 7 or newer (python3-libnvinfer), elsewhere from NVIDIA's TensorRT page",
    builds_without_gpu=False,
    has_timing_cache=True,
)
TENSORRT_RTX = Flavour(
    name="tensorrt-rtx",
    module="tensorrt_rtx",
    title="TensorRT-RTX",
    libraries=("libtensorrt_rtx.so.1",),
    install="pip install 'hffnet[tensorrt-rtx]'",
    builds_without_gpu=True,
    has_timing_cache=False,
)
TENSORRT_LEAN = Flavour(
    name="tensorrt-lean",
    module="tensorrt_lean",
    title="TensorRT lean runtime",
    libraries=("libnvinfer_lean.so.11", "libnvinfer_lean.so.10"),
    install="pip install 'hffnet[tensorrt-lean]' (tensorrt-lean-cu13: it runs engines and builds none)",
    builds_without_gpu=False,
    has_timing_cache=False,
    builds=False,
)
FLAVOURS: dict[str, Flavour] = {flavour.name: flavour for flavour in (TENSORRT, TENSORRT_RTX, TENSORRT_LEAN)}
_OLDEST = (10, 3)
_CUDA_MAJORS = (13, 12)
_DRIVER_OF_CUDA = {13: "580", 12: "525"}  # CUDA release notes, table of driver versions
_CAPABILITY = re.compile(r"SM(\d+)")


def flavour_named(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FLAVOURS:
        raise ConfigError(f"{name!r} is not a TensorRT flavour; expected one of {', '.join(FLAVOURS)}")
    return FLAVOURS[name]


def is_installed(flavour: Flavour) -> bool:
    """Whether its Python module can be found; nothing is imported."""
    return find_spec(flavour.module) is not None


def installed_version(flavour: Flavour) -> str:
    """Version of the installed flavour, without importing it where the package tells.

    Raises:
        MissingExtraError: it is not installed.
    """
    if not is_installed(flavour):
        raise MissingExtraError(f"{flavour.title} is not installed: {flavour.install}")
    for package in (flavour.module, *(f"{flavour.module}_cu{major}" for major in _CUDA_MAJORS)):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return str(import_module(flavour.module).__version__)


def import_flavour(flavour: Flavour) -> ModuleType:
    """Import the library and refuse one whose two halves do not fit.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: it cannot be imported, is too old, or bindings and shared library are of different versions.
    """
    if not is_installed(flavour):
        raise MissingExtraError(f"{flavour.title} is not installed: {flavour.install}")
    try:
        library = import_module(flavour.module)
    except (ImportError, OSError) as error:
        raise EngineError(f"{flavour.title} is installed but cannot be imported: {error}; install it again") from error
    check_versions(flavour, str(library.__version__), _shared_library_version(flavour))
    return library


def check_versions(flavour: Flavour, bindings: str, shared_library: int | None) -> None:
    """Refuse a library that is too old, or whose Python bindings belong to another release.

    Args:
        flavour: which library.
        bindings: ``__version__`` of the Python module.
        shared_library: what ``getInferLibVersion()`` says: 10000 · major + 100 · minor + patch; None where it could
            not be asked.

    Raises:
        EngineError: they do not fit; calling into the library would end in a crash.
    """
    wanted = tuple(int(part) for part in bindings.split(".")[:2])
    if flavour.name != "tensorrt-rtx" and wanted < _OLDEST:
        raise EngineError(f"{flavour.title} {bindings} is installed; 10.3 (JetPack 6.1) or newer is needed: update it")
    if shared_library is None:
        return
    found = (shared_library // 10_000, shared_library % 10_000 // 100)
    if found != wanted:
        raise EngineError(
            f"{flavour.title}'s Python bindings are {bindings} but the shared library says"
            f" {found[0]}.{found[1]}: install both from one release"
        )


def runs_version_compatible(built_by: str, runtime: str) -> bool:
    """Whether a version-compatible engine of one TensorRT runs in another: the same release or a later one.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html

    >>> runs_version_compatible("10.16.1", "11.4.0"), runs_version_compatible("11.4.0", "10.16.1")
    (True, False)
    """
    built, here = (tuple(int(part) for part in text.split(".")[:2]) for text in (built_by, runtime))
    return _OLDEST <= built <= here


def check_driver(flavour: Flavour, gpu: Gpu) -> None:
    """Refuse a driver that is older than the CUDA release the installed library was made for.

    Raises:
        EngineError: it is; every call would end in CUDA error 35.
    """
    for major in _CUDA_MAJORS:
        try:
            package = version(f"{flavour.module}_cu{major}")
        except PackageNotFoundError:
            continue
        if gpu.cuda_version[0] < major:
            raise EngineError(
                f"the NVIDIA driver serves CUDA {gpu.cuda_version[0]}.{gpu.cuda_version[1]}, but"
                f" {flavour.title} {package} was made for CUDA {major}: update the driver"
                f" ({_DRIVER_OF_CUDA[major]} or newer)"
            )


def supported_architectures(library: ModuleType) -> tuple[str, ...]:
    """Architectures that TensorRT-RTX can build for, e.g. ``("sm75", "sm80", …)``; () where it builds only here."""
    names = (name.upper() for name in dir(getattr(library, "ComputeCapability", None)))
    numbers = [int(match[1]) for name in names if (match := _CAPABILITY.fullmatch(name))]
    return tuple(f"sm{number}" for number in sorted(numbers))


def _shared_library_version(flavour: Flavour) -> int | None:
    for name in flavour.libraries:
        try:
            # The module has loaded it already: this finds that copy, by its name within the process.
            return int(ctypes.CDLL(name, mode=_RTLD_NOLOAD).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return None


_RTLD_NOLOAD = 4  # dlfcn.h of Linux: only what is loaded already
