"""Paper-size network, batch 1, two threads: every engine and precision against eager torch fp32, interleaved.

Goal: int8 through the auto-chosen CPU engine at least 7 times faster than eager torch on a CPU with bf16, 5.5 without.
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.engines import open_engine
from hffnet.train.model import build_model, normalise, paper_config
from tests.networks import write_network_bundle
from tests.tiny import tiny_taxonomy

_TURNS = 25
_THREADS = 2


def main() -> None:
    """Print a table of medians and ratios."""
    torch.set_num_threads(_THREADS)
    config = paper_config(tiny_taxonomy().num_classes)
    model = build_model(config).eval()
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        os.environ["HFFNET_CACHE_DIR"] = f"{folder}/cache"  # the choice of engine is measured here, not remembered
        bundle = open_bundle(write_network_bundle(Path(folder) / "paper.hffnet", config))
        frames_NHW = bundle.vectors()[0].copy()  # torch warns of arrays it may not write to
        auto = open_engine(bundle, threads=_THREADS)
        rows: dict[str, Callable[[int], object]] = {
            "eager torch, training form, fp32": lambda n: _eager(model, frames_NHW[n : n + 1]),
            f"auto: {auto.identity.name} {auto.identity.precision} ({auto.identity.arithmetic})": (
                lambda n: auto.infer(frames_NHW[n : n + 1])
            ),
        }
        for name in ("openvino", "onnxruntime"):
            for precision in ("fp32", "int8"):
                engine = open_engine(bundle, engine=name, precision=precision, threads=_THREADS)
                label = f"{name} {engine.identity.precision} ({engine.identity.arithmetic})"
                rows[label] = lambda n, engine=engine: engine.infer(frames_NHW[n : n + 1])  # type: ignore[misc]
        samples = _interleaved(rows, len(frames_NHW))
    reference = statistics.median(next(iter(samples.values())))
    print(f"{_TURNS} turns, {_THREADS} threads, batch 1, one frame of each row in turn.\n")
    print("| row | p50 ms | min ms | times eager torch |\n| --- | --- | --- | --- |")
    for label, values in samples.items():
        median = statistics.median(values)
        print(f"| {label} | {median:.1f} | {min(values):.1f} | {reference / median:.2f} |")


@torch.inference_mode()
def _eager(model: torch.nn.Module, frames_NHW: object) -> object:
    return model(normalise(torch.as_tensor(frames_NHW), model.config)).numpy()  # type: ignore[arg-type]


def _interleaved(rows: dict[str, Callable[[int], object]], num_frames: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {label: [] for label in rows}
    for turn in range(-2, _TURNS):
        for label, infer in rows.items():
            start = perf_counter()
            infer(turn % num_frames)
            if turn >= 0:
                samples[label].append((perf_counter() - start) * 1e3)
    return samples


if __name__ == "__main__":
    main()
