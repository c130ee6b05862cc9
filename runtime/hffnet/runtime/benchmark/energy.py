"""Joules that the machine used, where it tells: RAPL of CPU packages, NVML of a GPU, the INA3221 of a Jetson board.

They count everything that runs meanwhile, not this process alone. Most systems let only root read RAPL.
"""

import math
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter

from hffnet.runtime.benchmark.gpu import Nvml
from hffnet.runtime.benchmark.machine import text_of

EnergyMeter = Callable[[], float]
"""Joules since it was opened; never falls."""

_BOARD_INPUT = "VDD_IN"
"""The INA3221 channel of an Orin module's whole input (Jetson Linux Developer Guide, "Power monitoring")."""

_SAMPLE_S = 0.02


def open_energy_meter(root: Path = Path("/"), nvml: Nvml | None = None) -> tuple[EnergyMeter | None, str]:
    """The meter of this machine, and what it counts or why there is none.

    Args:
        root: of the file system that holds ``sys``.
        nvml: of the GPU, where there is one.
    """
    board = _board_input(root)
    if board is not None:
        return PowerIntegral(board).joules, f"INA3221 {_BOARD_INPUT}, the whole board"
    meters, names = list[EnergyMeter](), list[str]()
    packages, why = _rapl_packages(root)
    if packages:
        counters = [_RaplCounter(package) for package in packages]
        meters.append(lambda: sum(counter.joules() for counter in counters))
        names.append("RAPL packages (powercap)")
    if nvml is not None and not math.isnan(first := nvml.joules()):
        meters.append(lambda: nvml.joules() - first)
        names.append("GPU (NVML)")
    return (lambda: sum(meter() for meter in meters), " + ".join(names)) if meters else (None, why)


def _rapl_packages(root: Path) -> tuple[list[Path], str]:
    """Packages that can be read, or why there are none."""
    packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*"))
    packages = [package for package in packages if package.name.count(":") == 1]  # subzones are in their package
    readable = [package for package in packages if text_of(package / "energy_uj").isdigit()]
    if packages and not readable:
        return [], f"{packages[0]}/energy_uj cannot be read: run as root, or let an administrator allow reading it"
    return readable, "no RAPL counter under /sys/class/powercap"


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


def _board_input(root: Path) -> Callable[[], float] | None:
    """Watts at a Jetson's input; None where no INA3221 names such a channel."""
    for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in[1-3]_label")):
        if text_of(label.with_name("name")) == "ina3221" and text_of(label) == _BOARD_INPUT:
            number = label.name[2]
            millivolts, milliamperes = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
            return lambda: float(text_of(millivolts) or "nan") * float(text_of(milliamperes) or "nan") / 1e6
    return None


class PowerIntegral:
    """Joules from a power that can only be looked at: a thread adds it up by trapezoids, 50 times a second.

    Args:
        watts: the power now; NaN is passed over.
        now: seconds from an arbitrary zero.
        period_s: of the thread; None has none, and adds up only when it is asked.
    """

    def __init__(
        self,
        watts: Callable[[], float],
        now: Callable[[], float] = perf_counter,
        *,
        period_s: float | None = _SAMPLE_S,
    ) -> None:
        self._watts, self._now, self._lock = watts, now, Lock()
        self._joules, self._last = 0.0, (now(), watts())
        if period_s is not None:
            Thread(target=self._run, args=(period_s,), name="power", daemon=True).start()

    def joules(self) -> float:
        """Joules since it was opened."""
        with self._lock:
            here = self._now(), self._watts()
            (before_s, before_w), (here_s, here_w) = self._last, here
            if not math.isnan(before_w + here_w):
                self._joules += (before_w + here_w) / 2 * (here_s - before_s)
            self._last = here
            return self._joules

    def _run(self, period_s: float) -> None:
        never = Event()
        while not never.wait(period_s):
            self.joules()
