"""Joules that the CPU packages used, where the machine tells: RAPL through powercap.

They count everything that runs meanwhile, not this process alone. Most systems let only root read them.
"""

from collections.abc import Callable
from pathlib import Path

from hffnet.runtime.benchmark.machine import text_of

EnergyMeter = Callable[[], float]
"""Joules since it was opened; never falls."""


def open_energy_meter(root: Path = Path("/")) -> tuple[EnergyMeter | None, str]:
    """The meter of this machine, and its name or why there is none."""
    packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*"))
    packages = [package for package in packages if package.name.count(":") == 1]  # subzones are in their package
    readable = [package for package in packages if text_of(package / "energy_uj").isdigit()]
    if readable:
        counters = [_RaplCounter(package) for package in readable]
        return lambda: sum(counter.joules() for counter in counters), "RAPL packages (powercap)"
    if packages:
        return None, f"{packages[0]}/energy_uj cannot be read: run as root, or let an administrator allow reading it"
    return None, "no RAPL counter under /sys/class/powercap"


class _RaplCounter:
    """One package's counter, which begins at zero again after ``max_energy_range_uj``."""

    def __init__(self, package: Path) -> None:
        self._file = package / "energy_uj"
        self._range_uj = int(text_of(package / "max_energy_range_uj") or 0)
        self._last_uj = int(text_of(self._file))
        self._sum_uj = 0

    def joules(self) -> float:
        here_uj = int(text_of(self._file) or self._last_uj)
        step_uj = here_uj - self._last_uj
        self._sum_uj += step_uj if step_uj >= 0 else step_uj + self._range_uj
        self._last_uj = here_uj
        return self._sum_uj / 1e6
