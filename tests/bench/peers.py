"""The same trained network in hffnet and as other tools would run it, in turns of one run, on the same frames.

``python -m tests.bench.peers BUNDLE CHECKPOINT FRAMES`` prints Markdown. ``--ultralytics PYTHON`` adds Ultralytics from
an environment of its own, PYTHON being its interpreter (see ``peer_ultralytics``). What the peers leave out stands
beside each figure: end to end they read and shrink the whole picture with OpenCV, info bar and all.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from hffnet.runtime.benchmark.clock import SystemClock
from hffnet.runtime.benchmark.conditions import ConditionsWatch
from hffnet.runtime.benchmark.interleave import Measured, measure_interleaved
from hffnet.runtime.benchmark.machine import machine_facts
from hffnet.runtime.benchmark.matrix import InferWork, JourneyWork
from hffnet.runtime.benchmark.percentiles import percentiles_from_samples
from hffnet.runtime.benchmark.scenarios import ScenarioSettings, Stream, Work
from hffnet.runtime.benchmark.validity import reasons_against
from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.engines import open_engine
from hffnet.runtime.preprocess import preprocess
from hffnet.runtime.read import read_frame
from hffnet.runtime.records import RecordStore
from hffnet.train.checkpoint import model_from_checkpoint, open_checkpoint
from hffnet.train.model import normalise
from hffnet.train.network import Network

Infer = Callable[[npt.NDArray[np.uint8]], object]
_LEAVES_OUT = "gates, info-bar crop, metadata, self-test, class path, record"
_HFFNET = "-"


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool: a function of (1, size, size) uint8 frames, and what it leaves out end to end."""

    name: str
    infer: Infer
    leaves_out: str


class PeerJourney:
    """A file read and shrunk with OpenCV, through the network, best class of each level."""

    def __init__(self, peer: Peer, files: list[Path], size: int) -> None:
        self._peer, self._files, self._size = peer, files, size

    def __call__(self, turn: int, _num_frames: int) -> Mapping[str, float]:
        picture = cv2.imread(str(self._files[turn % len(self._files)]), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        small = cv2.resize(picture, (self._size, self._size), interpolation=cv2.INTER_AREA)
        np.argmax(np.asarray(self._peer.infer(small[None].astype(np.uint8))))
        return {}


class PeerInfer:
    """Preprocessed frames through the network alone."""

    def __init__(self, peer: Peer, frames_NHW: npt.NDArray[np.uint8]) -> None:
        self._peer, self._frames_NHW = peer, frames_NHW

    def __call__(self, turn: int, _num_frames: int) -> Mapping[str, float]:
        at = turn % len(self._frames_NHW)
        self._peer.infer(self._frames_NHW[at : at + 1])
        return {}


class UltralyticsProcess:
    """Ultralytics' ResNet50 classifier in its own environment, one file per query; the pipe costs some 0.1 ms.

    Its two figures come from one query: the whole of ``predict`` as the latency, inference as a stage of it.
    """

    leaves_out = f"{_LEAVES_OUT}; a flat ResNet50 without transformer"

    def __init__(self, python: Path, form: str, files: list[Path], size: int, threads: int) -> None:
        script = Path(__file__).with_name("peer_ultralytics.py")
        command = [str(python), str(script), form, str(size), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._files = files
        self.name = f"{self._answer()}, {form} fp32"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"Ultralytics ended with {self._process.wait()}; run its script by hand to see why")
        return line

    def __call__(self, turn: int, _num_frames: int) -> Mapping[str, float]:
        """See ``Work``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._files[turn % len(self._files)].resolve()}\n")  # it works elsewhere
        self._process.stdin.flush()
        inference_ms, _ = map(float, self._answer().split())
        return {"inference": inference_ms}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("bundle", "checkpoint", "frames"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ultralytics", type=Path, metavar="PYTHON", help="interpreter of its environment")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # A line for each of the private TIFF tags that microscopes write would bury the table.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    bundle = open_bundle(options.bundle)
    files = sorted(p for p in options.frames.rglob("*") if p.suffix in {".tif", ".png", ".jpg", ".bmp"})
    clock = SystemClock(Event())
    with ExitStack() as stack:
        works, leaves_out = _works(bundle, options.checkpoint, files, options.threads, stack)
        for form in ("torch", "onnx", "openvino") if options.ultralytics else ():
            size = bundle.manifest.preprocess.size
            peer = UltralyticsProcess(options.ultralytics, form, files, size, options.threads)
            stack.callback(peer.close)
            works[peer.name, "end to end"] = peer
            leaves_out[peer.name] = peer.leaves_out
        streams = {
            key: Stream(work, "end-to-end", settings=ScenarioSettings(), batch=1, clock=clock)
            for key, work in works.items()
        }
        began_s = clock.now()
        with ConditionsWatch(clock.now, began_s) as watch:
            found = measure_interleaved(streams, seconds=options.seconds, block_s=0.25, began_s=began_s, stop=Event())
    # Ultralytics works in processes of its own, which count as other ones here.
    reasons = reasons_against(watch.conditions(), {f"{a} {b}": m for (a, b), m in found.items()}, 1e-7)
    print(_page(found, leaves_out, reasons, options.threads))
    print(_benchmark_app(bundle, options.seconds, options.threads))


def _works(
    bundle: Bundle, checkpoint: Path, files: list[Path], threads: int, stack: ExitStack
) -> tuple[dict[tuple[str, str], Work], dict[str, str]]:
    frames_NHW = np.stack([preprocess(read_frame(path).picture, bundle.manifest.preprocess) for path in files[:16]])
    works, leaves_out = dict[tuple[str, str], Work](), dict[str, str]()
    for precision in ("int8", "fp32"):
        engine = stack.enter_context(open_engine(bundle, precision=precision, threads=threads))
        name = f"hffnet, {engine.identity.name} {precision} ({engine.identity.arithmetic})"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hffnet-peers-")))
        store = stack.enter_context(RecordStore.open(folder / "records.sqlite"))
        works[name, "inference"] = InferWork(engine, frames_NHW, 1)
        works[name, "end to end"] = JourneyWork(Classifier(bundle, engine), files, store)
        leaves_out[name] = _HFFNET
    for peer in _peers(bundle, model_from_checkpoint(open_checkpoint(checkpoint)).eval(), threads):
        works[peer.name, "inference"] = PeerInfer(peer, frames_NHW)
        works[peer.name, "end to end"] = PeerJourney(peer, files, bundle.manifest.preprocess.size)
        leaves_out[peer.name] = peer.leaves_out
    return works, leaves_out


def _peers(bundle: Bundle, model: Network, threads: int) -> list[Peer]:
    peers = [Peer("PyTorch eager, training form, fp32", _torch_infer(model, model), _LEAVES_OUT)]
    if shutil.which("g++"):
        compiled = torch.compile(model)
        peers.append(Peer("torch.compile, training form, fp32", _torch_infer(model, compiled), _LEAVES_OUT))
    for graph in bundle.manifest.graphs:
        if graph.family == "cpu":
            session = _session(bundle.member(graph.member), threads)
            name = f"ONNX Runtime alone, {graph.precision}"
            peers.append(Peer(name, _onnxruntime_infer(session), _LEAVES_OUT))
    return peers


def _torch_infer(model: Network, network: Callable[..., torch.Tensor]) -> Infer:
    @torch.inference_mode()
    def infer(frames_NHW: npt.NDArray[np.uint8]) -> object:
        return network(normalise(torch.from_numpy(frames_NHW), model.config)).numpy()

    return infer


def _onnxruntime_infer(session: onnxruntime.InferenceSession) -> Infer:
    return lambda frames_NHW: session.run(["logits"], {"frames": frames_NHW})[0]


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _page(
    found: dict[tuple[str, str], Measured], leaves_out: dict[str, str], reasons: tuple[str, ...], threads: int
) -> str:
    machine = machine_facts()
    tools = ", ".join(f"{name} {machine[name]}" for name in ("hffnet", "onnxruntime", "openvino") if name in machine)
    about = f"{machine['cpu']}, {machine['cpus']} CPUs, {threads} threads; torch {torch.__version__}, {tools}"
    lines = [
        f"{about}; load {machine['load_average']}.",
        *(f"Not to be believed as absolute figures: {reason}." for reason in reasons),
        "",
        "| tool | inference p50 ms | p90 | end to end p50 ms | p90 | n | end to end leaves out |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, missing in leaves_out.items():
        whole = found[name, "end to end"]
        alone_ms = found[name, "inference"].latency_ms if (name, "inference") in found else whole.stages_ms["inference"]
        infer, journey = percentiles_from_samples(alone_ms), percentiles_from_samples(whole.latency_ms)
        cells = [_ms(infer.p50_ms), _ms(infer.p90_ms), _ms(journey.p50_ms), _ms(journey.p90_ms)]
        lines.append(f"| {name} | {' | '.join(cells)} | {infer.num_samples}, {journey.num_samples} | {missing} |")
    return "\n".join(lines)


def _benchmark_app(bundle: Bundle, seconds: float, threads: int) -> str:
    """OpenVINO's own tool, in its own process and after the others: it cannot take turns."""
    lines, app = list[str](), Path(sys.executable).with_name("benchmark_app")
    size = bundle.manifest.preprocess.size
    for graph in bundle.manifest.graphs:
        if graph.family != "cpu" or not app.exists():
            continue
        with tempfile.TemporaryDirectory(prefix="hffnet-peers-") as folder:
            path = Path(folder) / "graph.onnx"
            path.write_bytes(bundle.member(graph.member))
            command = [str(app), "-m", str(path), "-shape", f"frames[1,{size},{size}]", "-d", "CPU", "-api", "sync"]
            command += ["-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-t", str(max(int(seconds), 1))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        median = re.search(r"Median:\s+([0-9.]+) ms", done.stdout)
        shown = f"{median.group(1)} | - | - | - | -" if median else f"failed: {done.stdout.strip()[-200:]} | | | |"
        left_out = "everything but inference; random input, taken after the others and not in turns"
        lines.append(f"| OpenVINO benchmark_app, {graph.precision} | {shown} | {left_out} |")
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
