"""What ``--engine`` means: an engine, and where one library serves several devices or providers, which of them.

``openvino``, ``openvino:gpu``, ``openvino:gpu.1``, ``openvino:npu``; ``onnxruntime``, ``onnxruntime:cuda``,
``onnxruntime:tensorrt``, ``onnxruntime:nv-tensorrt-rtx``. The engine alone means every device of it that may be here,
in the order in which they are tried; a device that was named is taken or refused, never replaced.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hffnet.runtime.engines import ENGINES, EngineName
from hffnet.runtime.errors import ConfigError

CPU = "cpu"
OrtProvider = Literal["nv-tensorrt-rtx", "tensorrt", "cuda", "cpu"]
ORT_PROVIDERS: tuple[OrtProvider, ...] = ("nv-tensorrt-rtx", "tensorrt", "cuda", "cpu")
"""Of ONNX Runtime, in the order in which they are tried."""

NV_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""Module of NVIDIA's plugin for ONNX Runtime."""

_OPENVINO_DEVICE = re.compile(r"cpu|npu|gpu(\.\d+)?")
_PROVIDER_FILES = {"tensorrt": "providers_tensorrt", "cuda": "providers_cuda"}
_INTEL_DEVICES = (Path("/dev/dri"), Path("/dev/accel"))


def target_from_text(text: str) -> tuple[EngineName, str | None]:
    """Engine and device; the device is None where none is named.

    Raises:
        ConfigError: no such engine, or no such device of it.

    >>> target_from_text("openvino:GPU"), target_from_text("tensorrt")
    (('openvino', 'gpu'), ('tensorrt', None))
    """
    name, separator, device = text.partition(":")
    if name == "torch-tensorrt":
        raise ConfigError(
            "torch-tensorrt compiles a checkpoint, not a bundle: call hffnet.export.torch_tensorrt.open_torch_tensorrt;"
            " for a bundle take --engine tensorrt"
        )
    engine = next((one for one in ENGINES if one == name), None)
    if engine is None:
        raise ConfigError(f"engine {text!r} is not known; expected one of auto, {', '.join(engine_texts())}")
    if not separator:
        return engine, None
    device = device.lower()
    if engine == "openvino" and _OPENVINO_DEVICE.fullmatch(device):
        return engine, device
    if engine == "onnxruntime" and device in ORT_PROVIDERS:
        return engine, device
    here = [one for one in engine_texts() if one.startswith(f"{engine}:")]
    known = f"expected {', '.join(here)}" if here else f"{engine} has only one; leave out {separator + device!r}"
    raise ConfigError(f"engine {text!r} names a device that is not known; {known}")


def engine_texts() -> Iterator[str]:
    """Everything that may be said, for people."""
    for engine in ENGINES:
        yield engine
        match engine:
            case "openvino":
                yield from (f"{engine}:{device}" for device in ("cpu", "gpu", "gpu.1", "npu"))
            case "onnxruntime":
                yield from (f"{engine}:{device}" for device in reversed(ORT_PROVIDERS))


def text_of_target(engine: EngineName, device: str) -> str:
    """The shortest text that names it.

    >>> text_of_target("openvino", "cpu"), text_of_target("onnxruntime", "cuda")
    ('openvino', 'onnxruntime:cuda')
    """
    return engine if device in {"", CPU} else f"{engine}:{device}"


def devices_to_try(engine: EngineName) -> tuple[str, ...]:
    """Devices of an installed engine that may be here, without loading its library where that can be avoided."""
    match engine:
        case "openvino":
            return _openvino_devices()
        case "onnxruntime":
            return tuple(one for one in ORT_PROVIDERS if one == CPU or _has_provider(one))
    return ("",)


def _openvino_devices() -> tuple[str, ...]:
    # Where the kernel shows no graphics or accelerator device, the answer is known without loading OpenVINO.
    if not any(folder.is_dir() for folder in _INTEL_DEVICES):
        return (CPU,)
    import openvino

    present = [device.lower() for device in openvino.Core().available_devices]
    return (*(one for one in present if one.startswith(("gpu", "npu"))), CPU)


def _has_provider(provider: OrtProvider) -> bool:
    if provider == "nv-tensorrt-rtx":
        return find_spec(NV_PLUGIN) is not None
    spec = find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else ()
    return any(any(Path(folder, "capi").glob(f"*{_PROVIDER_FILES[provider]}*")) for folder in folders)
