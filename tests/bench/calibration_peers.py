"""One float graph and one set of frames through every int8 calibrator we know of, judged on the same held-out frames.

    python -m tests.bench.calibration_peers MODEL.onnx FRAMES.npz --work DIR [--calibrators hffnet nncf ...]

FRAMES.npz holds ``calibration`` and ``held_out``, uint8 (N, size, size), ready for the graph. Each calibrator runs in a
process of its own, in a virtual environment under DIR that this script makes once (the packages come from the index
that pip is configured for); one that cannot be installed or fails is named with the reason. Judged are fidelity to the
float graph (KL summed over levels given by --levels, cosine, changed highest logits per level), seconds and peak RSS
of the calibration, and milliseconds per frame in ONNX Runtime and OpenVINO, interleaved.

The part that runs in the foreign environments is this same file; so nothing of hffnet is imported at its top.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime as ort

_ORT = ("onnxruntime==1.32.0", "onnx==1.23.2", "numpy")
PACKAGES: dict[str, tuple[str, ...]] = {
    "hffnet": (),
    "ort-minmax": (*_ORT, "sympy"),
    "ort-entropy": (*_ORT, "sympy"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "numpy"),
    "modelopt-no-mha": ("nvidia-modelopt[onnx]==0.47.0", "numpy"),
    "nncf": ("nncf==3.4.0", "onnx", "onnxruntime", "numpy"),
}
_ENVIRONMENTS = {"ort-minmax": "ort", "ort-entropy": "ort", "modelopt-no-mha": "modelopt"}
_TURNS = 20


def main() -> None:
    """Print one Markdown table."""
    if sys.argv[1:2] == ["--calibrate"]:
        _calibrate(*sys.argv[2:6])
        return
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--levels", type=int, nargs="*", help="classes per level; one level where not given")
    parser.add_argument("--calibrators", nargs="*", default=list(PACKAGES), choices=list(PACKAGES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    made, rows = {}, {}
    for name in options.calibrators:
        out = options.work / f"{name}.onnx"
        rows[name] = _run(name, options.model, options.frames, out, options.work)
        if "failed" not in rows[name]:
            made[name] = out
    held_out = np.load(options.frames)["held_out"]
    reference = _logits(options.model, held_out)
    levels = options.levels or [reference.shape[1]]
    for name, path in made.items():
        try:
            rows[name] |= _fidelity(reference, _logits(path, held_out), levels)
        except Exception as error:  # noqa: BLE001 - a peer's graph that does not run is a result
            rows[name]["failed"] = f"its graph does not run: {str(error).splitlines()[0][:120]}"
    _add_latencies(
        {"float": options.model, **{n: p for n, p in made.items() if "failed" not in rows[n]}}, held_out, rows
    )
    print(_table(rows))


def _run(name: str, model: Path, frames: Path, out: Path, work: Path) -> dict[str, object]:
    try:
        python = _python(name, work)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["pip said nothing"]
        return {"failed": f"not installed: {last[0][:120]}"}
    began = time.monotonic()
    command = [str(python), str(Path(__file__).resolve()), "--calibrate", name, str(model), str(frames), str(out)]
    with (work / f"{name}.log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    found: dict[str, object] = {"seconds": time.monotonic() - began, "rss_gb": usage.ru_maxrss / 1e6}
    if child.returncode or not out.exists():
        last = (work / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        found["failed"] = f"exit code {child.returncode}: {last[0][:120]}"
    else:
        found["mb"] = out.stat().st_size / 1e6
    return found


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
    frames_NHW = np.load(frames)["calibration"]
    match name:
        case "hffnet":
            _by_hffnet(model, frames_NHW, out)
        case "ort-minmax" | "ort-entropy":
            _by_onnxruntime(name.partition("-")[2], model, frames_NHW, out)
        case "modelopt" | "modelopt-no-mha":
            _by_modelopt(model, frames_NHW, out, disable_mha=name != "modelopt")
        case _:
            _by_nncf(model, frames_NHW, out)


def _by_hffnet(model: str, frames_NHW: np.ndarray, out: str) -> None:
    from hffnet.calibration.int8 import int8_from_onnx

    quantized, _ = int8_from_onnx(Path(model), frames_NHW, activations="uint8")
    Path(out).write_bytes(quantized.SerializeToString())


def _by_onnxruntime(method: str, model: str, frames_NHW: np.ndarray, out: str) -> None:
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


def _logits(path: Path, frames_NHW: np.ndarray) -> np.ndarray:
    from hffnet.calibration.fidelity import logits_from_onnx

    return logits_from_onnx(path, frames_NHW)[0].astype(np.float64)


def _fidelity(a: np.ndarray, b: np.ndarray, levels: list[int]) -> dict[str, object]:
    divergence, flips, start = 0.0, [], 0
    for num in levels:
        p, q = (part[:, start : start + num] for part in (a, b))
        log_p, log_q = (x - x.max(1, keepdims=True) for x in (p, q))
        log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())
        flips.append(int((p.argmax(1) != q.argmax(1)).sum()))
        start += num
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"kl": divergence, "cosine": float(cosine.min()), "flips": "/".join(map(str, flips))}


def _add_latencies(models: dict[str, Path], frames_NHW: np.ndarray, rows: dict[str, dict[str, object]]) -> None:
    import onnxruntime as ort
    import openvino as ov

    runs: dict[tuple[str, str], Callable[[np.ndarray], object]] = {}
    core = ov.Core()
    for name, path in models.items():
        rows.setdefault(name, {})
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        runs[name, "ort_ms"] = _onnxruntime_run(session)
        try:
            compiled = core.compile_model(core.read_model(str(path)), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        except RuntimeError as error:
            rows[name]["openvino_ms"] = f"refused: {str(error).splitlines()[-1][:60]}"
            continue
        runs[name, "openvino_ms"] = compiled
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(_TURNS + 3):
        for key, run in runs.items():
            began = time.perf_counter()
            run(frames_NHW[turn % len(frames_NHW)][None])
            times[key].append(time.perf_counter() - began)
    for (name, column), seconds in times.items():
        rows[name][column] = 1000 * float(np.median(seconds[3:]))


def _onnxruntime_run(session: "ort.InferenceSession") -> Callable[[np.ndarray], object]:
    return lambda frame: session.run(None, {"frames": frame})


def _table(rows: dict[str, dict[str, object]]) -> str:
    columns = ("seconds", "rss_gb", "mb", "kl", "cosine", "flips", "ort_ms", "openvino_ms", "failed")
    formats = {"seconds": ".1f", "rss_gb": ".2f", "mb": ".1f", "kl": ".2e", "cosine": ".5f", "ort_ms": ".1f"}
    formats["openvino_ms"] = ".1f"
    lines = [f"| calibrator | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, row in rows.items():
        cells = [
            format(value, formats[column]) if isinstance(value, float) else str(value)
            for column, value in ((column, row.get(column, "")) for column in columns)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines.append(f"\nload average at the end: {load}; details: {json.dumps(sys.version.split()[0])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
