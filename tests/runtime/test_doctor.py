"""What ``hffnet doctor`` finds on this machine and on trees recorded from others, and how it exits."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hffnet.runtime import machine
from hffnet.runtime.doctor import Diagnosis, diagnose
from hffnet.runtime.doctor_command import doctor
from hffnet.runtime.doctor_engines import flavour_finding, gpu_findings
from hffnet.runtime.engines.driver import Gpu, NoGpuError
from hffnet.runtime.engines.flavour import TENSORRT_RTX, is_installed
from hffnet.runtime.errors import BundleError, EngineError, ExitCode
from tests.tiny import tiny_graph, write_tiny_bundle


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", str(tmp_path / "cache"))


def value_of(diagnosis: Diagnosis, name: str) -> str:
    (found,) = [one.value for one in diagnosis.findings if one.name == name]
    return found


def test_this_machine_runs_the_bundle(bundle_path: Path) -> None:
    diagnosis = diagnose(bundle_path, threads=1)
    assert diagnosis.exit_code == ExitCode.DONE
    assert diagnosis.engines is not None
    winner = diagnosis.engines.winner
    assert winner is not None
    assert value_of(diagnosis, "engine").startswith(f"{winner.engine} fp32")
    assert winner.flips == 0
    # The second time the remembered table is shown.
    assert diagnose(bundle_path, threads=1).engines == diagnosis.engines


def test_every_finding_that_is_not_fine_has_a_fix() -> None:
    findings = diagnose().findings
    assert {one.section for one in findings} >= {"system", "memory", "gpu", "engines", "frames", "storage"}
    assert all(one.fix for one in findings if one.state in {"problem", "missing"})


def test_a_bundle_that_no_engine_answers_rightly_is_missing_an_engine(tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other.hffnet", model=tiny_graph(np.full((1, 5), 9.0)))
    diagnosis = diagnose(other, threads=1)
    assert diagnosis.exit_code == ExitCode.MISSING
    (found,) = [one for one in diagnosis.findings if one.state == "missing"]
    assert found.fix is not None
    assert "test vectors with an error" in found.fix


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.hffnet").write_bytes(b"no bundle")
    with pytest.raises(BundleError, match="is not a bundle"):
        diagnose(tmp_path / "damaged.hffnet")


def test_an_unwritable_cache_is_a_problem_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFNET_CACHE_DIR", "/proc/hffnet")
    (found,) = [one for one in diagnose().findings if one.name == "engine cache"]
    assert found.state == "problem"
    assert "HFFNET_CACHE_DIR" in str(found.fix)


def test_a_broken_driver_is_a_problem_and_an_absent_gpu_is_none() -> None:
    absent, broken = gpu_findings(None, NoGpuError("no driver")), gpu_findings(None, EngineError("restart"))
    assert [(one.state, one.fix) for one in (*absent, *broken)] == [("note", "no driver"), ("problem", "restart")]


def test_a_gpu_is_described_by_what_its_driver_says() -> None:
    gpu = Gpu(name="Orin", compute_capability=(8, 7), memory_bytes=8 << 30, integrated=True, cuda_version=(12, 6))
    found = {one.name: one for one in gpu_findings(gpu, None)}
    assert found["GPU"].value == "Orin, compute capability sm87, shares the machine's memory"
    assert "serves CUDA up to 12.6" in found["driver"].value
    rtx = flavour_finding(TENSORRT_RTX, gpu)
    if is_installed(TENSORRT_RTX):
        assert rtx.state == "problem", "this GPU is not one of its, and the driver is too old for it"
        assert rtx.fix is not None


def test_engines_are_told_with_their_devices(network_bundle_path: Path) -> None:
    diagnosis = diagnose(network_bundle_path, threads=1)
    assert "cpu" in value_of(diagnosis, "onnxruntime")
    assert diagnosis.engines is not None
    targets = {(row.target, row.precision) for row in diagnosis.engines.rows}
    assert {("onnxruntime", "int8"), ("openvino", "int8")} <= targets
    if is_installed(TENSORRT_RTX):
        assert value_of(diagnosis, "TensorRT-RTX, ahead of time").startswith("can build fp16, int8 for sm75")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(doctor)
    return app


def test_a_library_that_is_broken_is_diagnosed_with_a_bundle_too(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_flavour: object) -> None:
        raise EngineError("TensorRT-RTX is installed but cannot be imported: no libtensorrt_rtx.so")

    monkeypatch.setattr("hffnet.runtime.doctor_engines.is_installed", lambda flavour: flavour is TENSORRT_RTX)
    monkeypatch.setattr("hffnet.runtime.doctor_engines.library_version", lambda _: "1.7")
    monkeypatch.setattr("hffnet.runtime.doctor_engines.import_flavour", broken)
    findings = {finding.name: finding for finding in diagnose(bundle_path, threads=1).findings}
    assert "no libtensorrt_rtx.so" in str(findings[TENSORRT_RTX.title].fix)
    assert f"{TENSORRT_RTX.title}, ahead of time" not in findings


def test_json_is_one_document(app: typer.Typer, bundle_path: Path) -> None:
    result = CliRunner().invoke(app, [str(bundle_path), "--json", "--threads", "1"])
    assert result.exit_code == ExitCode.DONE
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert {row["engine"] for row in document["engines"]["rows"]} >= {"onnxruntime"}


def test_tables_show_engines_and_fixes(app: typer.Typer, bundle_path: Path) -> None:
    result = CliRunner().invoke(app, [str(bundle_path), "--threads", "1"])
    assert result.exit_code == ExitCode.DONE
    assert "what to do" in result.stdout
    assert "chosen" in result.stdout


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"),
    [
        ("36", "4.3", "6.1 or 6.2"),
        ("36", "3.0", "6.0"),
        ("38", "2.1", "7.0"),
        ("39", "2.2", "7.2.2"),
        ("35", "6.0", "5.1"),
        ("99", "1.0", None),
    ],
)
def test_jetpack_from_jetson_linux(tmp_path: Path, release: str, revision: str, jetpack: str | None) -> None:
    line = f"# R{release} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed\n"
    write(tmp_path, "etc/nv_tegra_release", line)
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano\0")
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002\n")
    write(tmp_path, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/max_freq", "1020000000\n")
    found = machine.jetson(tmp_path)
    assert found is not None
    assert found.jetpack == jetpack
    assert found.model == "NVIDIA Jetson Orin Nano"
    assert found.power_mode == "2 (MAXN_SUPER)"
    assert machine.jetson_gpu_clock(tmp_path) == (306, 1020)


def test_a_recorded_tree(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 2000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:00:00 UTC 2025\n"
    write(tmp_path, "proc/driver/nvidia/version", module)
    write(tmp_path, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04"\n')
    assert machine.memory(tmp_path).available == 2000 * 1024
    assert machine.driver_version(tmp_path) == "580.65.06"
    assert machine.system_name(tmp_path).startswith("Ubuntu 24.04, ")
    assert machine.jetson(tmp_path) is None
    assert machine.governor(tmp_path) is None
    assert machine.jetson_gpu_clock(tmp_path) is None
    assert machine.cuda_toolkit(tmp_path) is None
    write(tmp_path, "usr/local/cuda/version.json", '{"cuda": {"version": "13.0.1"}}')
    assert machine.cuda_toolkit(tmp_path) == "toolkit 13.0.1 in /usr/local/cuda"


def test_a_driver_of_the_open_kind(tmp_path: Path) -> None:
    module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n"
    write(tmp_path, "proc/driver/nvidia/version", module)
    assert machine.driver_version(tmp_path) == "575.57.08"


@pytest.mark.parametrize("text", ["", "P8, 210", "No devices were found"])
def test_answers_of_nvidia_smi_that_are_no_answers(text: str) -> None:
    assert machine.gpu_power_from_text(text) is None
