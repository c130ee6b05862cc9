"""An NVIDIA GPU while it is measured, through NVML (``pip install nvidia-ml-py``): clocks, heat, throttling, energy.

A Jetson's GPU has no NVML before JetPack 7; its clocks and power come from sysfs (``conditions``, ``energy``).
Reference: https://docs.nvidia.com/deploy/nvml-api/.
"""

import math
import os
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLook:
    """One look at the GPU; NaN where the driver does not tell.

    Attributes:
        is_held_back: 1.0 while heat or a power limit lowers its clocks, else 0.0.
    """

    mhz: float
    celsius: float
    is_held_back: float


NO_GPU = GpuLook(mhz=float("nan"), celsius=float("nan"), is_held_back=float("nan"))


class Nvml:
    """The GPU that CUDA numbers 0, asked through NVML; a missing answer is NaN, never an exception."""

    def __init__(self, library: ModuleType | SimpleNamespace) -> None:
        self._nvml = library
        library.nvmlInit()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        by_uuid = chosen.startswith("GPU-")
        self._gpu = (
            library.nvmlDeviceGetHandleByUUID(chosen)
            if by_uuid
            else library.nvmlDeviceGetHandleByIndex(int(chosen or 0))
        )
        # Reasons for lower clocks that are neither the user's wish nor an idle GPU.
        self._held_back = (
            library.nvmlClocksEventReasonSwThermalSlowdown
            | library.nvmlClocksEventReasonHwThermalSlowdown
            | library.nvmlClocksEventReasonHwPowerBrakeSlowdown
            | library.nvmlClocksEventReasonSwPowerCap
        )

    def look(self) -> GpuLook:
        """Clock of the multiprocessors, core temperature, and whether it is held back now."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        return GpuLook(
            mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            celsius=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            is_held_back=float(bool(int(reasons) & self._held_back)) if math.isfinite(reasons) else reasons,
        )

    def joules(self) -> float:
        """Joules since the driver was loaded; NaN before Volta."""
        return self._ask("nvmlDeviceGetTotalEnergyConsumption") / 1e3

    def memory_of_process(self, pid: int) -> float:
        """Bytes of GPU memory that a process holds; NaN where the driver does not tell (WSL, MIG)."""
        try:
            found = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        except self._nvml.NVMLError:
            return float("nan")
        return sum((float(one.usedGpuMemory or "nan") for one in found if one.pid == pid), 0.0)

    def _ask(self, name: str, *arguments: int) -> float:
        try:
            return float(getattr(self._nvml, name)(self._gpu, *arguments))
        except (AttributeError, self._nvml.NVMLError):
            return float("nan")


def open_nvml() -> tuple[Nvml | None, str]:
    """NVML of this machine, and its driver's version or why there is none."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, "nvidia-ml-py is not installed"
    try:
        nvml = Nvml(pynvml)
        return nvml, f"NVML, driver {pynvml.nvmlSystemGetDriverVersion()}"
    except (pynvml.NVMLError, ValueError) as error:
        return None, f"NVML: {error}"
