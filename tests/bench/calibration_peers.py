"""One float graph and the same frames through every int8 calibrator we know of, judged on the same held-out frames.

    python -m tests.bench.calibration_peers --model xsdd --checkpoint DIR --data hierarchy.csv --work DIR
    python -m tests.bench.calibration_peers --model resnet50 --weights FILE.safetensors --data hierarchy.csv --work DIR
    python -m tests.bench.calibration_peers --model paper --data hierarchy.csv --work DIR \\
        --num-frames 256 --peer-frames 32 --num-held-out 48

``xsdd`` is a trained checkpoint with its own train frames and labelled test frames. ``resnet50`` is the plain ImageNet
classifier on the same pictures: what they show is in none of its classes, so there is fidelity but no score. ``paper``
is the paper's network with random weights: sizes, seconds and milliseconds mean something, fidelity does not.

Frames: all calibrators get the same ones (but those that keep every activation in memory, which get 24). As calibrators
take up to seven times the forward passes, ``--peer-frames N`` lets the others have the first N only, for tables of
times: seconds are compared with forward passes over a calibrator's own frames, and the column ``frames`` says how many.

Every step leaves its result in DIR/MODEL and is not done again (``--again NAME`` does it again), so a run can be
stopped and gone on with. Each calibrator runs in a process of its own, in a virtual environment under DIR that this
script makes once (packages from the index that pip is configured for); one that cannot be installed or fails is named
with the reason. Before and after each calibration the same frames are passed through the bare float graph in ONNX
Runtime, in a process of its own; the calibrator's seconds are compared with the mean of both, as a machine's speed
drifts. The part that runs in the foreign environments is this same file; so nothing of hffnet is imported at its top.

``ort-minmax-u8`` is ``ort-minmax`` with unsigned activations, as ours are for CPU engines. ``hffnet-picture`` is no
peer but ours with the convolution that reads the picture quantized too, which other calibrators do by default.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime as ort

_ORT = ("onnxruntime==1.32.0", "onnx==1.23.2", "numpy")
PACKAGES: dict[str, tuple[str, ...]] = {
    "hffnet": (),
    "hffnet-picture": (),
    "ort-minmax": (*_ORT, "sympy"),
    "ort-minmax-u8": (*_ORT, "sympy"),
    "ort-entropy": (*_ORT, "sympy"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "numpy"),
    "modelopt-no-mha": ("nvidia-modelopt[onnx]==0.47.0", "numpy"),
    "nncf": ("nncf==3.4.0", "onnx", "onnxruntime", "numpy"),
}
_ENVIRONMENTS = {"ort-minmax": "ort", "ort-minmax-u8": "ort", "ort-entropy": "ort", "modelopt-no-mha": "modelopt"}
_MOST_FRAMES = {"ort-entropy": 24}
"""Calibrators that keep every activation of every frame in memory: 3.6 GB for 24 frames of the small network."""

_OWN = "hffnet"
_OURS = {_OWN, "hffnet-picture"}
_LAUNCHER = """
import json, os, subprocess, sys, time
began = time.monotonic()
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps({"seconds": time.monotonic() - began, "rss_gb": usage.ru_maxrss / 1e6, "code": code}))
"""
"""Linux counts what the parent held at most as the child's, too: so this parent imports nothing."""

_MOST_TIMES_FORWARD = 1.3
_TURNS = 60
_Row = dict[str, Any]


def main() -> None:
    """Print one Markdown table."""
    if sys.argv[1:2] == ["--calibrate"]:
        _calibrate(*sys.argv[2:6])
        return
    if sys.argv[1:2] == ["--forward"]:
        print(_forward_seconds(*map(Path, sys.argv[2:4])))
        return
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", choices=["xsdd", "resnet50", "paper"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="labelled frames, class folders or CSV")
    parser.add_argument("--work", type=Path, required=True, help="environments, graphs and results; kept")
    parser.add_argument("--checkpoint", type=Path, help="for xsdd")
    parser.add_argument("--weights", type=Path, help="for resnet50: torchvision's names, safetensors")
    parser.add_argument("--num-frames", type=int, default=512, help="calibration frames")
    parser.add_argument("--peer-frames", type=int, default=None, help="fewer for the other calibrators")
    parser.add_argument("--num-held-out", type=int, default=1000, help="frames to judge on, at most")
    parser.add_argument("--calibrators", nargs="*", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--again", nargs="*", default=[], help="calibrators to run again, or 'latency'")
    options = parser.parse_args()
    folder = options.work / options.model
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "subject.json").exists():
        from tests.bench.calibration_subjects import write_subject

        write_subject(options, folder)
    rows: dict[str, _Row] = {}
    for name in options.calibrators:
        again = name in options.again
        rows[name] = _kept(folder / f"{name}.json", again, partial(_calibrated, name, folder, options))
        if "failed" not in rows[name]:
            rows[name] |= _kept(folder / f"{name}.fidelity.json", again, partial(_fidelity, name, folder))
    made = [name for name in rows if "failed" not in rows[name]]
    again = "latency" in options.again or any(name in options.again for name in made)
    timed = _kept(folder / f"latency-{'-'.join(made)}.json", again, partial(_latencies, folder, made))
    for name, columns in timed.items():
        rows.setdefault(name, {}).update(columns)
    print(_table(rows, json.loads((folder / "subject.json").read_text())))


def _kept(path: Path, again: bool, make: Callable[[], _Row]) -> _Row:
    if again or not path.exists():
        found = make()
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(found))
        temporary.rename(path)
    row: _Row = json.loads(path.read_text())
    return row


def _calibrated(name: str, folder: Path, options: argparse.Namespace) -> _Row:
    try:
        python = _python(name, options.work)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["pip said nothing"]
        return {"failed": f"not installed: {last[0][:120]}"}
    # ModelOpt writes beside its input, and into it: each calibrator gets a copy of its own.
    own = folder / f"{name}.float.onnx"
    own.write_bytes((folder / "float.onnx").read_bytes())
    frames = np.load(folder / "calibration.npy")[: _MOST_FRAMES.get(name)]
    if name not in _OURS:
        frames = frames[: options.peer_frames]
    np.save(folder / f"{name}.frames.npy", frames)
    out = folder / f"{name}.onnx"
    out.unlink(missing_ok=True)
    arguments = (name, own, folder / f"{name}.frames.npy", out)
    script = [str(python), str(Path(__file__).resolve()), "--calibrate", *map(str, arguments)]
    forward = [_forward_pass(folder, name)]
    with (folder / f"{name}.log").open("w") as log:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *script]
        ended = json.loads(subprocess.run(launcher, check=True, stdout=subprocess.PIPE, stderr=log, text=True).stdout)
    forward.append(_forward_pass(folder, name))
    for leftover in (*folder.glob(f"{name}.float*"), folder / f"{name}.frames.npy"):
        leftover.unlink()
    found: _Row = {"frames": len(frames), "seconds": ended["seconds"], "forward_seconds": forward}
    found |= {"times_forward": ended["seconds"] / float(np.mean(forward)), "rss_gb": ended["rss_gb"]}
    if ended["code"] or not out.exists():
        last = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        found["failed"] = f"exit code {ended['code']}: {last[0][:120]}"
    else:
        found["mb"] = out.stat().st_size / 1e6
    return found


def _forward_pass(folder: Path, name: str) -> float:
    arguments = ("--forward", folder / "float.onnx", folder / f"{name}.frames.npy")
    script = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    return float(subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _forward_seconds(model: Path, frames: Path) -> float:
    """The bare float graph over the same frames, one by one, opening it included."""
    import onnxruntime as ort

    frames_NHW = np.load(frames)
    began = time.monotonic()
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for frame in frames_NHW:
        session.run(None, {"frames": frame[None]})
    return time.monotonic() - began


def _python(name: str, work: Path) -> Path:
    """The interpreter to calibrate with; makes the environment at its first use."""
    if not PACKAGES[name]:
        return Path(sys.executable)
    folder = work / f"venv-{_ENVIRONMENTS.get(name, name)}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *PACKAGES[name]], check=True, capture_output=True, text=True
        )
        done.touch()
    return python


def _calibrate(name: str, model: str, frames: str, out: str) -> None:
    """In the calibrator's own environment: write ``out``."""
    frames_NHW = np.load(frames)
    match name:
        case "hffnet" | "hffnet-picture":
            _by_hffnet(model, frames_NHW, out, picture=name == "hffnet-picture")
        case "ort-minmax" | "ort-minmax-u8" | "ort-entropy":
            _by_onnxruntime(name.split("-")[1], model, frames_NHW, out, unsigned=name.endswith("u8"))
        case "modelopt" | "modelopt-no-mha":
            _by_modelopt(model, frames_NHW, out, disable_mha=name != "modelopt")
        case _:
            _by_nncf(model, frames_NHW, out)


def _by_hffnet(model: str, frames_NHW: np.ndarray, out: str, *, picture: bool) -> None:
    from hffnet.calibration.int8 import CalibrationOptions, int8_from_onnx

    options = CalibrationOptions(include=_picture_readers(model) if picture else ())
    quantized, _ = int8_from_onnx(Path(model), frames_NHW, options=options, activations="uint8")
    Path(out).write_bytes(quantized.SerializeToString())


def _picture_readers(model: str) -> tuple[str, ...]:
    """Names of the convolutions that read the picture, which we leave float by default."""
    from hffnet.calibration.graph import GraphIndex, model_from_path
    from hffnet.calibration.placement import reads_picture

    index = GraphIndex(model_from_path(Path(model)))
    names = tuple(node.name for node in index.nodes if reads_picture(node, index))
    assert names, "no convolution reads the picture"
    return names


def _by_onnxruntime(method: str, model: str, frames_NHW: np.ndarray, out: str, *, unsigned: bool) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._frames: Iterator[dict[str, np.ndarray]] = iter({"frames": frame[None]} for frame in frames_NHW)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._frames, None)

    prepared = f"{out}.prepared"
    quant_pre_process(model, prepared)
    methods = quantization.CalibrationMethod
    quantization.quantize_static(
        prepared,
        out,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8 if unsigned else quantization.QuantType.QInt8,
        calibrate_method=methods.MinMax if method == "minmax" else methods.Entropy,
    )
    Path(prepared).unlink()


def _by_modelopt(model: str, frames_NHW: np.ndarray, out: str, *, disable_mha: bool) -> None:
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    quantize(
        model,
        quantize_mode="int8",
        calibration_data={"frames": frames_NHW},
        calibration_method="entropy",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        disable_mha_qdq=disable_mha,
        output_path=out,
    )


def _by_nncf(model: str, frames_NHW: np.ndarray, out: str) -> None:
    import nncf  # type: ignore[import-not-found]
    import onnx

    samples = nncf.Dataset(list(frames_NHW), lambda frame: {"frames": frame[None]})
    quantized = nncf.quantize(onnx.load(model), samples, subset_size=len(frames_NHW))
    onnx.save(quantized, out)


def _fidelity(name: str, folder: Path) -> _Row:
    from tests.bench.calibration_subjects import fidelity

    try:
        return fidelity(folder / f"{name}.onnx", folder)
    except Exception as error:  # noqa: BLE001 - a peer's graph that does not run is a result
        return {"failed": f"its graph does not run: {str(error).splitlines()[0][:120]}"}


def _latencies(folder: Path, names: list[str]) -> _Row:
    """Medians of interleaved turns, so that what else the machine does falls on all alike."""
    import onnxruntime as ort
    import openvino as ov

    frames_NHW = np.load(folder / "held_out.npy")
    runs: dict[tuple[str, str], Callable[[np.ndarray], object]] = {}
    rows: _Row = {name: {} for name in ("float", *names)}
    core = ov.Core()
    for name in rows:
        path = folder / f"{name}.onnx"
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        runs[name, "ort_ms"] = _onnxruntime_run(session)
        try:
            compiled = core.compile_model(core.read_model(str(path)), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        except RuntimeError as error:
            rows[name]["openvino_ms"] = f"refused: {' '.join(str(error).split())[-80:]}"
            continue
        runs[name, "openvino_ms"] = compiled
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    order, chance = list(runs), random.Random(0)
    for turn in range(_TURNS + 3):
        chance.shuffle(order)  # or each would always come after the same other, with what that left in the caches
        for key in order:
            run = runs[key]
            began = time.perf_counter()
            run(frames_NHW[turn % len(frames_NHW)][None])
            times[key].append(time.perf_counter() - began)
    for (name, column), seconds in times.items():
        rows[name][column] = 1000 * float(np.median(seconds[3:]))
    return rows


def _onnxruntime_run(session: "ort.InferenceSession") -> Callable[[np.ndarray], object]:
    return lambda frame: session.run(None, {"frames": frame})


_FORMATS = {
    "frames": "d",
    "seconds": ".1f",
    "times_forward": ".2f",
    "rss_gb": ".2f",
    "mb": ".1f",
    "kl": ".2e",
    "kl_median": ".1e",
    "kl_largest": ".0%",
    "logit_db": ".1f",
    "cosine": ".5f",
    "hf1": ".4f",
    "ort_ms": ".1f",
    "openvino_ms": ".1f",
}


def _table(rows: dict[str, _Row], subject: _Row) -> str:
    columns = [*_FORMATS, "flips", "failed"]
    lines = [subject["title"], "", f"| calibrator | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, row in rows.items():
        values = ((column, row.get(column)) for column in columns)
        cells = [
            "" if value is None else value if isinstance(value, str) else format(value, _FORMATS[column])
            for column, value in values
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| goal | asked | found | |", "| --- | --- | --- | --- |", *_goals(rows, subject)]
    lines.append(f"\nLoad average now {', '.join(f'{value:.1f}' for value in os.getloadavg())}; ")
    lines.append(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {', '.join(_versions())}")
    return "\n".join(lines)


def _goals(rows: dict[str, _Row], subject: _Row) -> Iterator[str]:
    """One row for each goal: met or missed, or why neither can be said."""
    own = rows.get(_OWN, {})
    peers = {name: row for name, row in rows.items() if name not in {*_OURS, "float"}}
    for name, row in ({} if subject.get("sizes_only") else peers).items():
        for column, what in (("kl", "divergence"), ("flips", "flips")):
            yield _goal(f"{what}, {name}", "at most", _number(row.get(column)), _number(own.get(column)))
    yield _goal("seconds over forward passes", "at most", _MOST_TIMES_FORWARD, own.get("times_forward"))
    yield _goal("peak RSS, GB", "at most", 2 * subject["float_mb"] / 1e3 + 1, own.get("rss_gb"))
    for column, engine in (("ort_ms", "ONNX Runtime"), ("openvino_ms", "OpenVINO")):
        times = {name: row[column] for name, row in peers.items() if isinstance(row.get(column), float)}
        fastest = min(times, key=times.__getitem__, default="no peer")
        found = own.get(column)
        yield _goal(f"int8 ms in {engine}, {fastest}", "at most", times.get(fastest), found)


def _goal(what: str, how: str, asked: float | None, found: float | str | None) -> str:
    if asked is None or not isinstance(found, int | float):
        return f"| {what} | {'' if asked is None else f'{how} {asked:.4g}'} | {found or ''} | not measured |"
    return f"| {what} | {how} {asked:.4g} | {found:.4g} | {'met' if found <= asked else '**missed**'} |"


def _number(value: float | str | None) -> float | None:
    """Flips stand as one number for each level; their sum is compared."""
    return float(sum(map(int, value.split("/")))) if isinstance(value, str) else value


def _versions() -> list[str]:
    from importlib.metadata import version

    return [f"{name} {version(name)}" for name in ("onnxruntime", "openvino", "onnx", "numpy")]


if __name__ == "__main__":
    main()
