"""What this machine is: the facts that do not change during a run. Linux; elsewhere what cannot be read is absent."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hffnet.runtime.machine import jetson

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
_TOOLS = ("hffnet", "numpy", "onnxruntime", "openvino", "opencv-python-headless")


def machine_facts(root: Path = Path("/")) -> dict[str, str]:
    """CPU, governor, clock source, power mode, system and versions.

    Args:
        root: of the file system that holds ``proc`` and ``sys``.
    """
    cpu, module = root / "sys/devices/system/cpu/cpu0", jetson(root)
    facts = {
        "cpu": _cpuinfo(root, "model name") or platform.machine(),
        "cpu_features": " ".join(flag for flag in _FLAGS if flag in _cpuinfo(root, "flags", "Features").split()),
        "cpus": str(os.cpu_count()),
        "usable_cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "board": text_of(root / "proc/device-tree/model").rstrip("\0"),
        "power_mode": "" if module is None else module.power_mode or "",
        "governor": text_of(cpu / "cpufreq/scaling_governor"),
        "max_khz": text_of(cpu / "cpufreq/cpuinfo_max_freq"),
        "platform_profile": text_of(root / "sys/firmware/acpi/platform_profile"),
        "clock_source": text_of(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "hypervisor": "yes" if "hypervisor" in _cpuinfo(root, "flags").split() else "",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    return {name: value for name, value in (facts | _versions()).items() if value}


def text_of(path: Path) -> str:
    """A small file's text without the line's end; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(root: Path, *names: str) -> str:
    for line in text_of(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _versions() -> dict[str, str]:
    found = dict[str, str]()
    for tool in _TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
