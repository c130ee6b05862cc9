"""The house stays in order: namespace, imports, commands, README."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from hffnet.runtime.cli import GROUP, build_app, main

ROOT = Path(__file__).parents[2]
STATIONS = ("train", "calibration", "export", "runtime")


def test_the_namespace_is_shared_by_the_stations() -> None:
    """One `hffnet/__init__.py` would hide the other three stations."""
    assert not [s for s in STATIONS if (ROOT / s / "hffnet" / "__init__.py").exists()]
    assert all((ROOT / s / "hffnet" / s / "py.typed").exists() for s in STATIONS)


def test_the_runtime_loads_neither_torch_nor_onnx() -> None:
    probe = (
        "import sys, hffnet.runtime as r\n"
        "from hffnet.runtime import Classifier, cli\n"
        "cli.build_app()\n"
        "print(sorted({'torch', 'onnx', 'kornia', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom hffnet.runtime.cli import build_app\nbuild_app()\n"
        "print(sorted({'numpy', 'cv2', 'onnxruntime', 'openvino', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_promised_command_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    promised = {
        "demo",
        "train",
        "evaluate",
        "calibrate",
        "export",
        "inspect",
        "classify",
        "run",
        "benchmark",
        "records",
    }
    assert promised <= {entry.name for entry in entry_points(group=GROUP)}
    assert build_app().registered_commands
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert promised <= set(re.findall(r"^│ (\w+)", capsys.readouterr().out, flags=re.MULTILINE))


def _readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hffnet")]


@pytest.mark.parametrize("line", _readme_commands())
def test_readme_commands_exist_with_their_options(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal cuts long option names
    command, *rest = line.split()
    arguments = [command.removeprefix("hffnet-")] if command != "hffnet" else [rest.pop(0)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in rest if word.startswith("-"))


def test_readme_names_only_pages_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / s / "README.md" for s in STATIONS)]
    broken = [
        f"{page.relative_to(ROOT)} -> {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not broken


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    ("module", "command", "extra"), [("torch", "train", "train"), ("onnx", "calibrate", "calibration")]
)
def test_a_missing_extra_names_the_pip_command(module: str, command: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    arguments = {
        "train": ["train", str(tmp_path), "-o", str(tmp_path / "out")],
        "calibrate": ["calibrate", str(tmp_path / "x.onnx"), "--data", str(tmp_path), "-o", str(tmp_path / "y.onnx")],
    }[command]
    absent = f"import sys; sys.modules['{module}'] = None\nfrom hffnet.runtime.cli import main\nmain({arguments})"
    done = subprocess.run([sys.executable, "-c", absent], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert f"pip install 'hffnet[{extra}]'" in done.stderr
