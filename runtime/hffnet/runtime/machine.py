"""Facts of the machine, read off its own files: system, JetPack, memory, power. Nothing here judges; ``doctor`` does.

Every function takes the root of the file system, so that a tree recorded on another machine can be read as well.
"""

import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

# Jetson Linux to JetPack: https://developer.nvidia.com/embedded/jetpack-archive and the release pages.
_JETPACKS = (
    ((39, 2, 2), "7.2.2"),
    ((39, 2), "7.2"),
    ((38, 4), "7.1"),
    ((38, 2), "7.0"),
    ((36, 4), "6.1 or 6.2"),
    ((36, 5), "6.2"),
    ((36, 3), "6.0"),
    ((35,), "5.1"),
)
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_POWER_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)")
_DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)")
_NVIDIA_SMI_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Jetson:
    """A Jetson module.

    Attributes:
        model: as its device tree names it.
        l4t: Jetson Linux, e.g. (36, 4, 3).
        jetpack: the JetPack it belongs to; None where it is not known here.
        power_mode: number of the nvpmodel in force, with its name where the system tells it.
    """

    model: str
    l4t: tuple[int, ...]
    jetpack: str | None
    power_mode: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes."""

    total: int
    available: int
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPower:
    """What ``nvidia-smi`` says of power, clocks and memory."""

    performance_state: str
    clock_mhz: str
    most_clock_mhz: str
    temperature_c: str
    power_limit_w: str
    free_memory_mb: str


def system_name(root: Path = ROOT) -> str:
    """Distribution, kernel and architecture."""
    text = _text(root / "etc/os-release")
    named = next(
        (line.split("=", 1)[1].strip('"') for line in text.splitlines() if line.startswith("PRETTY_NAME=")), ""
    )
    return f"{named or platform.system()}, {platform.release()}, {platform.machine()}"


def jetson(root: Path = ROOT) -> Jetson | None:
    """The Jetson module; None on any other machine."""
    found = _RELEASE.search(_text(root / "etc/nv_tegra_release"))
    if found is None:
        return None
    l4t = (int(found[1]), *(int(part) for part in found[2].split(".") if part))
    status = _text(root / "var/lib/nvpmodel/status").strip()
    return Jetson(
        model=_text(root / "proc/device-tree/model").strip("\0\n ") or "Jetson",
        l4t=l4t,
        jetpack=next((name for start, name in _JETPACKS if l4t[: len(start)] == start), None),
        power_mode=_power_mode(status.removeprefix("pmode:"), root),
    )


def _power_mode(number: str, root: Path) -> str | None:
    named = {int(found[1]): found[2] for found in _POWER_MODEL.finditer(_text(root / "etc/nvpmodel.conf"))}
    if not number.isdecimal():
        return number or None
    return f"{int(number)} ({named[int(number)]})" if int(number) in named else number


def jetson_gpu_clock(root: Path = ROOT) -> tuple[int, int] | None:
    """Present and greatest clock of a Jetson's GPU in MHz; None where the kernel shows none."""
    for folder in sorted(root.glob("sys/class/devfreq/*")):
        if folder.name.endswith(("gpu", "gv11b", "ga10b", "gp10b")):
            now, most = _text(folder / "cur_freq").strip(), _text(folder / "max_freq").strip()
            if now.isdecimal() and most.isdecimal():
                return int(now) // 1_000_000, int(most) // 1_000_000
    return None


def cuda_toolkit(root: Path = ROOT) -> str | None:
    """Version of the CUDA toolkit that is installed for the whole system; None where there is none."""
    try:
        found = json.loads(_text(root / "usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return f"toolkit {found} in /usr/local/cuda"


def memory(root: Path = ROOT) -> Memory:
    """Memory as the kernel counts it."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    kilobytes = {parts[0].rstrip(":"): int(parts[1]) for parts in lines if len(parts) > 1 and parts[1].isdecimal()}
    return Memory(
        total=kilobytes.get("MemTotal", 0) * 1024,
        available=kilobytes.get("MemAvailable", 0) * 1024,
        swap_total=kilobytes.get("SwapTotal", 0) * 1024,
        swap_free=kilobytes.get("SwapFree", 0) * 1024,
    )


def governor(root: Path = ROOT) -> str | None:
    """How the CPU's clock is chosen, e.g. ``performance`` or ``powersave``; None where the system does not tell."""
    return _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def driver_version(root: Path = ROOT) -> str | None:
    """Version of NVIDIA's kernel module; None where none is loaded."""
    found = _DRIVER.search(_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def gpu_power() -> GpuPower | None:
    """Power and clocks of the first GPU; None where ``nvidia-smi`` is absent or does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = "--query-gpu=pstate,clocks.sm,clocks.max.sm,temperature.gpu,power.limit,memory.free"
    try:
        answer = subprocess.run(  # noqa: S603 (a fixed command)
            [command, query, "--format=csv,noheader,nounits", "--id=0"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return gpu_power_from_text(answer.stdout)


def gpu_power_from_text(text: str) -> GpuPower | None:
    """One line of ``nvidia-smi --format=csv,noheader,nounits``.

    >>> gpu_power_from_text("P8, 210, 2100, 41, 140.00, 15000").performance_state
    'P8'
    """
    parts = [part.strip() for part in text.strip().split(",")]
    if len(parts) != 6:
        return None
    return GpuPower(
        performance_state=parts[0],
        clock_mhz=parts[1],
        most_clock_mhz=parts[2],
        temperature_c=parts[3],
        power_limit_w=parts[4],
        free_memory_mb=parts[5],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
