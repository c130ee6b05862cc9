"""ONNX Runtime's ways to a GPU: which provider, with which options, and proof that it does the work.

Sources: https://onnxruntime.ai/docs/execution-providers/ (CUDA, TensorRT) and the header of NVIDIA's plugin,
tensorrt_rtx_provider_options.h. Options that are defaults are stated all the same: they are part of what was measured.
"""

from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from hffnet.runtime.engines.driver import Gpu, probe_gpu
from hffnet.runtime.engines.target import NV_PLUGIN, OrtProvider
from hffnet.runtime.errors import EngineError, MissingExtraError

_WEIGHTED = frozenset({"Conv", "MatMul", "Gemm", "QLinearConv", "QLinearMatMul", "MatMulInteger"})
_CPU_PROVIDER = "CPUExecutionProvider"
_GPU_BUILD = (
    "install onnxruntime-gpu instead of onnxruntime (on Jetson: NVIDIA's own build for your JetPack),"
    " or use --engine onnxruntime"
)
_PLUGIN_INSTALL = "pip install 'hffnet[onnxruntime-rtx]', or use --engine tensorrt-rtx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One execution provider.

    Attributes:
        name: ONNX Runtime's.
        install: what to do where this build of ONNX Runtime has none.
        options: as ONNX Runtime takes them.
        then: who takes the nodes that this one leaves, before the CPU does.
        builds_engines: it builds for one fixed shape and keeps engines in a folder, named by ``folder_option``.
    """

    name: str
    install: str
    options: dict[str, str] = field(default_factory=dict)
    then: tuple[OrtProvider, ...] = ()
    builds_engines: bool = False
    folder_option: str | None = None


_CUDA_OPTIONS = {
    "device_id": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",  # shapes are fixed, so searching once at the start pays
    "do_copy_in_default_stream": "1",
    "has_user_compute_stream": "0",
    "use_tf32": "0",  # what is called fp32 is computed in float32
}
PROVIDERS: dict[OrtProvider, Provider] = {
    "cpu": Provider(name=_CPU_PROVIDER, install="pip install onnxruntime"),
    "cuda": Provider(name="CUDAExecutionProvider", install=_GPU_BUILD, options=_CUDA_OPTIONS),
    "tensorrt": Provider(
        name="TensorrtExecutionProvider",
        install=_GPU_BUILD,
        # No trt_fp16_enable and no trt_int8_enable: without them the network is strongly typed, and its precision is
        # the graph's own.
        options={
            "device_id": "0",
            "has_user_compute_stream": "0",
            "trt_engine_cache_enable": "1",
            "trt_timing_cache_enable": "1",
            "trt_cuda_graph_enable": "0",
        },
        then=("cuda",),
        builds_engines=True,
        folder_option="trt_engine_cache_path",
    ),
    "nv-tensorrt-rtx": Provider(
        name="NvTensorRTRTXExecutionProvider",
        install=_PLUGIN_INSTALL,
        options={"has_user_compute_stream": "0", "enable_cuda_graph": "0"},
        builds_engines=True,
        folder_option="nv_runtime_cache_path",
    ),
}


def check_built_in(device: OrtProvider) -> None:
    """Refuse a provider that is not there at all.

    Raises:
        MissingExtraError: this build of ONNX Runtime has no such provider, or the plugin is not installed.
    """
    provider = PROVIDERS[device]
    if device == "nv-tensorrt-rtx":
        if find_spec(NV_PLUGIN) is None:
            raise MissingExtraError(
                f"NVIDIA's TensorRT-RTX plugin for ONNX Runtime is not installed: {provider.install}"
            )
    elif provider.name not in (here := onnxruntime.get_available_providers()):
        raise MissingExtraError(
            f"this build of ONNX Runtime {onnxruntime.__version__} has no {provider.name}, only"
            f" {', '.join(here)}: {provider.install}"
        )


def gpu_for_provider(device: OrtProvider) -> Gpu:
    """The GPU that the provider will run on.

    Raises:
        MissingExtraError: see `check_built_in`, which comes first: a driver would not help there.
        EngineError: no driver or no GPU.
    """
    check_built_in(device)
    return probe_gpu()


def options_with_provider(
    device: OrtProvider, options: onnxruntime.SessionOptions, frame_size: int, folder: Path | None
) -> list[tuple[str, dict[str, str]]]:
    """What ``InferenceSession`` takes as providers; a plugin is added to ``options`` instead.

    Args:
        device: which provider.
        options: of the session.
        frame_size: side of the frames: providers that build engines build for one frame of it.
        folder: for engines; None to build them each time.

    Raises:
        EngineError: the plugin does not load, or sees no GPU.
    """
    provider = PROVIDERS[device]
    chosen = dict(provider.options)
    if folder is not None and provider.folder_option is not None:
        chosen[provider.folder_option] = str(folder)
    if provider.builds_engines:
        prefix = "trt" if device == "tensorrt" else "nv"
        shape = f"frames:1x{frame_size}x{frame_size}"
        chosen |= {f"{prefix}_profile_{which}_shapes": shape for which in ("min", "opt", "max")}
    if folder is not None and device == "tensorrt":
        chosen["trt_timing_cache_path"] = str(folder)
    if device == "nv-tensorrt-rtx":
        _add_plugin(provider, options, chosen)
        return []
    if device == "cpu":
        return [(_CPU_PROVIDER, {})]
    after = [(PROVIDERS[name].name, dict(PROVIDERS[name].options)) for name in provider.then]
    return [(provider.name, chosen), *after, (_CPU_PROVIDER, {})]


def _add_plugin(provider: Provider, options: onnxruntime.SessionOptions, chosen: dict[str, str]) -> None:
    try:
        plugin = import_module(NV_PLUGIN)
        if provider.name not in {device.ep_name for device in onnxruntime.get_ep_devices()}:
            onnxruntime.register_execution_provider_library(provider.name, plugin.get_library_path())
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]
    except Exception as error:  # onnxruntime has no public root of its exceptions
        raise EngineError(
            f"NVIDIA's TensorRT-RTX plugin cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error};"
            " install the plugin of the same CUDA major as the driver serves"
        ) from error
    if not devices:
        raise EngineError(
            "NVIDIA's TensorRT-RTX plugin sees no GPU that it supports (compute capability 8.6, 8.9, 12.0 or 12.1);"
            " use --engine onnxruntime:cuda or tensorrt"
        )
    options.add_provider_for_devices(devices[:1], chosen)


def check_placement(session: onnxruntime.InferenceSession, device: OrtProvider) -> Counter[str]:
    """Refuse a session whose weighted operations run elsewhere than asked.

    A provider that cannot start or does not know an operation leaves it to the next, without an error.

    Returns:
        Number of nodes by provider.

    Raises:
        EngineError: the provider did not start, or convolutions or matrix products run elsewhere.
    """
    wanted = PROVIDERS[device].name
    if device != "cpu" and wanted not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} could not start {wanted} and would have used"
            f" {', '.join(session.get_providers())};"
            " mostly a CUDA or cuDNN library is missing: see its log with --debug"
        )
    nodes, strays = Counter[str](), Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        assigned = part.get_nodes()
        nodes[part.ep_name] += len(assigned)
        if part.ep_name != wanted:
            strays.update(node.op_type for node in assigned if node.op_type in _WEIGHTED)
    if strays:
        found = ", ".join(f"{number} {kind}" for kind, number in strays.items())
        raise EngineError(
            f"{wanted} leaves {found} of the graph to {' and '.join(sorted(set(nodes) - {wanted}))}, which is not what"
            " was asked for;"
            " choose another --precision or --engine"
        )
    return nodes
