"""What ``hffnet doctor`` finds of GPUs and of the libraries that run graphs."""

from hffnet.runtime import machine
from hffnet.runtime.bundle import Bundle
from hffnet.runtime.engines import ENGINES, EngineName
from hffnet.runtime.engines.choice import library_version
from hffnet.runtime.engines.device_memory import is_module_found
from hffnet.runtime.engines.driver import Gpu, NoGpuError
from hffnet.runtime.engines.flavour import (
    FLAVOURS,
    Flavour,
    check_driver,
    import_flavour,
    is_installed,
    supported_architectures,
)
from hffnet.runtime.engines.opening import is_engine_installed
from hffnet.runtime.engines.target import ORT_PROVIDERS, devices_to_try
from hffnet.runtime.errors import EngineError, HffnetError
from hffnet.runtime.finding import Finding, State

_INSTALL = {"openvino": "pip install 'hffnet[openvino]'", "onnxruntime": "pip install 'onnxruntime>=1.32'"}
_LITTLE_GPU_MEMORY_MB = 3000


def gpu_findings(gpu: Gpu | None, no_gpu: EngineError | None) -> list[Finding]:
    """The GPU, its driver, memory, power and clocks; ``no_gpu`` is why there is none."""
    if gpu is None:
        if isinstance(no_gpu, NoGpuError):
            return [Finding(section="gpu", name="GPU", value="none", state="note", fix=str(no_gpu))]
        return [Finding(section="gpu", name="GPU", value="not usable", state="problem", fix=str(no_gpu))]
    kind = "shares the machine's memory" if gpu.integrated else f"{gpu.memory_bytes / 1e9:.1f} GB"
    cuda = ".".join(map(str, gpu.cuda_version))
    found = [
        Finding(section="gpu", name="GPU", value=f"{gpu.name}, compute capability {gpu.architecture}, {kind}"),
        Finding(
            section="gpu", name="driver", value=f"{machine.driver_version() or 'loaded'}, serves CUDA up to {cuda}"
        ),
        Finding(
            section="gpu", name="CUDA", value=machine.cuda_toolkit() or "no toolkit; engines bring what they need of it"
        ),
        _gpu_library_finding(),
    ]
    if (power := machine.gpu_power()) is not None:
        free_mb = int(power.free_memory_mb) if power.free_memory_mb.isdecimal() else None
        if free_mb is not None:
            little = free_mb < _LITTLE_GPU_MEMORY_MB
            found.append(
                Finding(
                    section="gpu",
                    name="GPU memory",
                    value=f"{free_mb / 1e3:.1f} GB free",
                    state="problem" if little else "ok",
                    fix="close other programs on the GPU: building an engine of the paper's size needs 3 GB"
                    if little
                    else None,
                )
            )
        idle = power.performance_state not in {"P0", "P1", "P2"}
        found.append(
            Finding(
                section="gpu",
                name="power and clocks",
                value=f"{power.performance_state}, {power.clock_mhz} of {power.most_clock_mhz} MHz,"
                f" {power.temperature_c} °C, limit {power.power_limit_w} W",
                state="note" if idle else "ok",
                fix="clocks are down between frames; keep-warm holds them up" if idle else None,
            )
        )
    return found


def _gpu_library_finding() -> Finding:
    for package, module in (("cuda-bindings", "cuda.bindings.runtime"), ("pycuda", "pycuda.driver")):
        if is_module_found(module):
            return Finding(section="gpu", name="GPU memory through", value=package)
    fix = "pip install 'cuda-bindings>=12.9,<14'; TensorRT engines need it"
    return Finding(section="gpu", name="GPU memory through", value="nothing", state="problem", fix=fix)


def flavour_finding(flavour: Flavour, gpu: Gpu | None) -> Finding:
    """What one TensorRT flavour can do here."""
    name = flavour.title
    if not is_installed(flavour):
        # One of them is enough for a GPU.
        absent: State = "note" if gpu is None or any(map(is_installed, FLAVOURS.values())) else "problem"
        return Finding(section="engines", name=name, value="not installed", state=absent, fix=flavour.install)
    version = library_version(flavour.name)
    if gpu is None and not flavour.builds_without_gpu:
        return Finding(section="engines", name=name, value=f"{version}: idle without a GPU", state="note")
    try:
        architectures = supported_architectures(import_flavour(flavour))
        if gpu is not None:
            check_driver(flavour, gpu)
    except HffnetError as error:
        return Finding(section="engines", name=name, value=version, state="problem", fix=str(error))
    value, state, fix = _use_of(flavour, architectures, gpu)
    return Finding(section="engines", name=name, value=f"{version}: {value}", state=state, fix=fix)


def _use_of(flavour: Flavour, architectures: tuple[str, ...], gpu: Gpu | None) -> tuple[str, State, str | None]:
    if not flavour.builds:
        return "runs version-compatible engines that TensorRT built on this machine, builds none", "ok", None
    built = f"builds ahead of time for {', '.join(architectures)}" if architectures else "builds for this GPU"
    if gpu is None:
        return f"{built}; runs nothing without a GPU", "note", None
    if architectures and gpu.architecture not in architectures:
        return f"{built}; not for {gpu.name} ({gpu.architecture})", "problem", "use TensorRT on this GPU"
    return f"{built} and runs on {gpu.name}", "ok", None


def library_findings() -> list[Finding]:
    """ONNX Runtime with its providers, OpenVINO with its devices."""
    cpu_engines: list[EngineName] = [name for name in ENGINES if name not in FLAVOURS]
    found = [
        Finding(section="engines", name=name, value=_version_and_devices(name))
        if is_engine_installed(name)
        else Finding(section="engines", name=name, value="not installed", state="note", fix=_INSTALL[name])
        for name in cpu_engines
    ]
    if not any(is_engine_installed(name) for name in ENGINES):
        fix = "pip install 'onnxruntime>=1.32'"
        found.append(Finding(section="engines", name="any engine", value="none installed", state="missing", fix=fix))
    return found


def _version_and_devices(name: EngineName) -> str:
    here = devices_to_try(name)
    lacking = [one for one in ORT_PROVIDERS if one not in here] if name == "onnxruntime" else []
    without = f"; this build has no {', '.join(lacking)}" if lacking else ""
    return f"{library_version(name)} on {', '.join(here)}{without}"


def ahead_of_time_findings(bundle: Bundle) -> list[Finding]:
    """What a flavour that needs no GPU for building can make of the bundle."""
    held = [graph.precision for graph in bundle.manifest.graphs if graph.family == "tensorrt"] or ["fp32"]
    found = list[Finding]()
    for flavour in FLAVOURS.values():
        if not flavour.builds_without_gpu or not is_installed(flavour):
            continue
        try:
            architectures = ", ".join(supported_architectures(import_flavour(flavour)))
        except HffnetError:
            continue  # flavour_finding says what is wrong with it
        value = f"can build {', '.join(held)} for {architectures}"
        found.append(Finding(section="bundle", name=f"{flavour.title}, ahead of time", value=value))
    return found
