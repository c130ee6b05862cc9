"""What is read of a machine, and when a run is not to be believed."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hffnet.runtime.benchmark.conditions import ConditionsWatch, CpuTimes, Look, conditions_from_looks, look
from hffnet.runtime.benchmark.energy import PowerIntegral, open_energy_meter
from hffnet.runtime.benchmark.gpu import GpuLook, Nvml
from hffnet.runtime.benchmark.interleave import Measured
from hffnet.runtime.benchmark.machine import machine_facts
from hffnet.runtime.benchmark.validity import reasons_against
from tests.runtime.benchmark.drafts import conditions


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def seen(at_s: float, *, busy: float, steal: float, own: float) -> Look:
    times = CpuTimes(total=2 * at_s, busy=busy, steal=steal, own=own)
    return Look(at_s=at_s, times=times, mhz=2000.0, celsius=float("nan"), num_throttles=0.0)


def test_a_machine_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            "proc/stat": "cpu  100 0 50 800 10 0 5 35 20 0\ncpu0 1 2 3\n",
            "proc/cpuinfo": "processor : 0\nmodel name\t: Test CPU\nflags\t\t: fpu avx2 hypervisor\n",
            f"{cpus}/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
            f"{cpus}/cpu1/cpufreq/scaling_cur_freq": "2200000\n",
            f"{cpus}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpus}/cpu0/thermal_throttle/core_throttle_count": "3\n",
            f"{cpus}/cpu1/thermal_throttle/core_throttle_count": "4\n",
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/temp": "55500\n",
            "sys/class/thermal/thermal_zone2/temp": "",
        },
    )
    found = look(tmp_path, 1.0)
    assert (found.mhz, found.celsius, found.num_throttles) == (2000.0, 55.5, 7.0)
    assert found.times.total == pytest.approx(10.0)
    assert found.times.steal == pytest.approx(0.35)
    facts = machine_facts(tmp_path)
    assert (facts["cpu"], facts["cpu_features"], facts["governor"]) == ("Test CPU", "avx2", "powersave")


def test_a_machine_that_shows_nothing_is_said_so(tmp_path: Path) -> None:
    found = conditions_from_looks([look(tmp_path, 0.0), look(tmp_path, 1.0)])
    assert set(found.cannot_read) == {"CPU clocks", "temperatures", "throttle counters", "CPU times"}
    assert reasons_against(found, {}, 1e-7) == ()


def test_shares_of_this_process_and_of_others() -> None:
    found = conditions_from_looks([seen(0.0, busy=0, steal=0, own=0), seen(10.0, busy=12, steal=1, own=9)])
    assert found.own_share.values().tolist() == pytest.approx([0.45])
    assert found.other_share.values().tolist() == pytest.approx([0.15])
    assert found.steal_share.values().tolist() == pytest.approx([0.05])


def test_the_watch_looks_at_the_start_and_the_end() -> None:
    ticks = iter(range(100))
    with ConditionsWatch(lambda: float(next(ticks)), 0.0, period_s=60.0) as watch:
        np.linalg.svd(np.ones((60, 60)))
    assert watch.conditions().at_s.num <= 1


def steady(factor: float = 1.0) -> dict[str, Measured]:
    latency_ms = np.linspace(10.0, 10.0 * factor, 30).tolist()
    return {"a row": Measured(latency_ms=latency_ms, num_blocks=10)}


@pytest.mark.parametrize(
    ("found", "rows", "tick_s", "words"),
    [
        pytest.param(conditions(), steady(), 1e-7, [], id="sound"),
        pytest.param(conditions(other=(0.2,) * 20), steady(), 1e-7, ["other processes used 20%"], id="load"),
        pytest.param(conditions(steal=(0.03,) * 20), steady(), 1e-7, ["hypervisor took 3.0%"], id="steal"),
        pytest.param(conditions(throttles=(5.0,) * 10 + (8.0,) * 10), steady(), 1e-7, ["throttled 3 times"], id="heat"),
        pytest.param(
            conditions(mhz=(3000.0,) * 10 + (2000.0,) * 10), steady(), 1e-7, ["from 3000 to 2000 MHz"], id="clocks"
        ),
        pytest.param(conditions(), steady(1.3), 1e-7, ["drifted by +2"], id="drift"),
        pytest.param(None, steady(), 0.015, ["clock ticks every 15 ms"], id="coarse-clock"),
        pytest.param(None, steady(), 2e-4, ["clock ticks every 200 µs"], id="clock-coarse-for-the-row"),
    ],
)
def test_reasons_against_a_run(found: object, rows: dict[str, Measured], tick_s: float, words: list[str]) -> None:
    reasons = reasons_against(found, rows, tick_s)  # type: ignore[arg-type]
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_joules_survive_the_counters_wrap(tmp_path: Path) -> None:
    for package, start in (("intel-rapl:0", 9_000_000), ("intel-rapl:1", 0), ("intel-rapl:0:0", 5)):
        files = {"energy_uj": str(start), "max_energy_range_uj": "10000000"}
        write(tmp_path, {f"sys/class/powercap/{package}/{name}": text for name, text in files.items()})
    meter, name = open_energy_meter(tmp_path)
    assert meter is not None
    assert "RAPL" in name
    write(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "500000"})
    write(tmp_path, {"sys/class/powercap/intel-rapl:1/energy_uj": "2000000"})
    assert meter() == pytest.approx(1.5 + 2.0)
    assert meter() == pytest.approx(3.5)


def test_joules_of_a_jetson_are_the_integral_of_its_input(tmp_path: Path) -> None:
    monitor = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000", "in2_label": "CPU"}
    write(tmp_path, {f"sys/class/hwmon/hwmon3/{name}": text for name, text in monitor.items()})
    meter, name = open_energy_meter(tmp_path)
    assert meter is not None
    assert "whole board" in name
    seconds, watts = iter([0.0, 1.0, 3.0, 4.0, 5.0]), iter([10.0, 20.0, 10.0, float("nan"), 10.0])
    lasting = PowerIntegral(lambda: next(watts), lambda: next(seconds), period_s=None)
    assert [lasting.joules() for _ in range(4)] == pytest.approx([15.0, 45.0, 45.0, 45.0])


def test_a_gpu_that_is_held_back_speaks_against_a_run() -> None:
    looks = [
        replace(seen(t, busy=0, steal=0, own=0), gpu=GpuLook(mhz=900, celsius=90, is_held_back=t > 5)) for t in range(9)
    ]
    found = conditions_from_looks(looks)
    assert found.gpu_mhz is not None
    assert found.gpu_mhz.values().tolist() == [900.0] * 8
    (reason,) = reasons_against(found, {}, 1e-7)
    assert "held the GPU back during 38%" in reason


def test_nvml_is_asked_for_what_it_knows() -> None:
    answers = {
        "nvmlDeviceGetCurrentClocksEventReasons": lambda _: 0x20 | 0x1,
        "nvmlDeviceGetClockInfo": lambda _gpu, _kind: 1980,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 4500,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=7, usedGpuMemory=300)],
    }
    library = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda number: number, NVMLError=OSError,
        NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, nvmlClocksEventReasonSwThermalSlowdown=0x20,
        nvmlClocksEventReasonHwThermalSlowdown=0x40, nvmlClocksEventReasonHwPowerBrakeSlowdown=0x80,
        nvmlClocksEventReasonSwPowerCap=0x04, **answers,
    )  # fmt: skip
    nvml = Nvml(library)
    assert (nvml.look().mhz, nvml.look().is_held_back, nvml.joules()) == (1980.0, 1.0, 4.5)
    assert np.isnan(nvml.look().celsius)
    assert (nvml.memory_of_process(7), nvml.memory_of_process(8)) == (300.0, 0.0)


def test_no_meter_says_why(tmp_path: Path) -> None:
    assert open_energy_meter(tmp_path) == (None, "no RAPL counter under /sys/class/powercap")
    write(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": ""})
    meter, why = open_energy_meter(tmp_path)
    assert meter is None
    assert "run as root" in why
