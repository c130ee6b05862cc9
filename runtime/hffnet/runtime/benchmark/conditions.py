"""The machine while it is measured: clocks, heat, throttling and who else used the CPUs, a few times a second."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from hffnet.runtime.benchmark.gpu import NO_GPU, GpuLook, Nvml
from hffnet.runtime.benchmark.machine import text_of
from hffnet.runtime.benchmark.report import Column, Conditions

_NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Seconds of CPU time since boot, over all CPUs.

    Attributes:
        total: of all kinds, with idle.
        busy: used by any process of this system.
        steal: given to other guests by the hypervisor.
        own: used by this process.
    """

    total: float
    busy: float
    steal: float
    own: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the machine; NaN where nothing can be read."""

    at_s: float
    times: CpuTimes
    mhz: float
    celsius: float
    num_throttles: float
    gpu: GpuLook = NO_GPU


def look(root: Path, at_s: float, nvml: Nvml | None = None) -> Look:
    """Read /proc, /sys and the GPU once."""
    cpus = root / "sys/devices/system/cpu"
    return Look(
        at_s=at_s,
        times=_cpu_times(root),
        mhz=_mean_mhz(root),
        celsius=max(_numbers(root / "sys/class/thermal", "thermal_zone*/temp", 1e-3), default=_NAN),
        # Package counters repeat those of each core; the core's own tell all.
        num_throttles=sum(_numbers(cpus, "cpu[0-9]*/thermal_throttle/core_throttle_count", 1.0) or [_NAN]),
        gpu=NO_GPU if nvml is None else nvml.look(),
    )


def _cpu_times(root: Path) -> CpuTimes:
    """See proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already."""
    first = text_of(root / "proc/stat").partition("\n")[0].split()[1:9]
    if len(first) < 8:
        return CpuTimes(total=_NAN, busy=_NAN, steal=_NAN, own=_NAN)
    ticks = [float(value) for value in first]
    user, nice, system, idle, iowait, irq, softirq, steal = (value / os.sysconf("SC_CLK_TCK") for value in ticks)
    busy = user + nice + system + irq + softirq
    own = os.times()
    return CpuTimes(total=busy + idle + iowait + steal, busy=busy, steal=steal, own=own.user + own.system)


def _mean_mhz(root: Path) -> float:
    found = _numbers(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_cur_freq", 1e-3)
    if not found:
        lines = text_of(root / "proc/cpuinfo").splitlines()
        found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else _NAN


def _numbers(folder: Path, pattern: str, scale: float) -> list[float]:
    values = list[float]()
    for file in folder.glob(pattern):
        try:
            values.append(float(text_of(file)) * scale)
        except ValueError:
            continue  # empty where the driver refuses to read
    return values


class ConditionsWatch:
    """A thread that looks at the machine every ``period_s``; a context manager around the run.

    Args:
        began_s: zero of the run on ``now``.
        nvml: of the GPU, where there is one.
    """

    def __init__(
        self,
        now: Callable[[], float],
        began_s: float,
        *,
        period_s: float = 0.5,
        root: Path = Path("/"),
        nvml: Nvml | None = None,
    ) -> None:
        self._now, self._began_s, self._period_s, self._root, self._nvml = now, began_s, period_s, root, nvml
        self._looks = list[Look]()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="conditions", daemon=True)

    def __enter__(self) -> Self:
        self._looks.append(self._look())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._looks.append(self._look())

    def _look(self) -> Look:
        return look(self._root, self._now() - self._began_s, self._nvml)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._looks.append(self._look())

    def conditions(self) -> Conditions:
        """What was seen, between each two looks; call after the run."""
        return conditions_from_looks(self._looks)


def conditions_from_looks(looks: list[Look]) -> Conditions:
    """Shares of all CPU time between each two looks, and the other readings at the later one."""
    pairs = [(a, b) for a, b in pairwise(looks) if not b.times.total <= a.times.total]
    shares = [_shares(a.times, b.times) for a, b in pairs]
    readings = {
        "CPU clocks": [b.mhz for _, b in pairs],
        "temperatures": [b.celsius for _, b in pairs],
        "throttle counters": [b.num_throttles for _, b in pairs],
        "CPU times": [own for own, _, _ in shares],
    }
    return Conditions(
        at_s=Column.of([b.at_s for _, b in pairs]),
        own_share=Column.of([own for own, _, _ in shares]),
        other_share=Column.of([other for _, other, _ in shares]),
        steal_share=Column.of([steal for _, _, steal in shares]),
        mhz=Column.of(readings["CPU clocks"]),
        celsius=Column.of(readings["temperatures"]),
        num_throttles=Column.of(readings["throttle counters"]),
        gpu_mhz=_if_any([b.gpu.mhz for _, b in pairs]),
        gpu_celsius=_if_any([b.gpu.celsius for _, b in pairs]),
        gpu_held_back=_if_any([b.gpu.is_held_back for _, b in pairs]),
        cannot_read=tuple(name for name, values in readings.items() if all(map(math.isnan, values))),
    )


def _if_any(values: list[float]) -> Column | None:
    return None if all(map(math.isnan, values)) else Column.of(values)


def _shares(a: CpuTimes, b: CpuTimes) -> tuple[float, float, float]:
    total, own = b.total - a.total, b.own - a.own
    # Ticks are counted in hundredths of a second and not at one moment: a share may come out a little below zero.
    other = max(b.busy - a.busy - own, 0.0)
    return own / total, other / total, (b.steal - a.steal) / total
