"""Every network of an ablation through the product: exported with int8, classified by both CPU engines.

Run: ``python -m tests.bench.five_networks ABLATION DATA`` with the folder that ``hffnet train --ablation`` wrote. The
first seed of each network is taken. Decisions do not depend on the machine's load; no time is measured here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hffnet.runtime.dataset import open_dataset
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.train.checkpoint import open_checkpoint
from tests.bench.run import heading

_HFFNET = str(Path(sys.executable).with_name("hffnet"))
_ENGINES = tuple((engine, precision) for precision in ("fp32", "int8") for engine in ("openvino", "onnxruntime"))
Answers = list[tuple[str, ...]]


def main() -> None:
    """Print a Markdown table, one row per network, engine and precision."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ablation", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    print(heading(f"python -m tests.bench.five_networks {options.ablation.name} {options.data.name}"))
    print("| network | precision | engine | frames | level accuracies | HF1 | as row 1 | self-test's cosine |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        for checkpoint in sorted(path for path in options.ablation.glob("*-seed0") if path.is_dir()):
            _network(checkpoint, options.data, Path(folder) / f"{checkpoint.name}.hffnet")


def _network(checkpoint: Path, data: Path, bundle: Path) -> None:
    _said("export", "--int8", "--calibration-data", data, checkpoint, "-o", bundle)
    opened = open_checkpoint(checkpoint)
    tested = {frame.sha256 for frame in opened.config.frames if frame.split == "test"}
    frames = [frame for frame in open_dataset(data, opened.taxonomy).frames if frame.sha256 in tested]
    name, truths, reference = opened.config.recipe.model.name, [frame.classes for frame in frames], Answers()
    for engine, precision in _ENGINES:
        choice = ("--engine", engine, "--precision", precision)
        document = _said("classify", bundle, *(frame.path for frame in frames), *choice)
        answers = [tuple(result["class_path"]) for result in document["results"]]
        reference = reference or answers
        metrics = metrics_from_paths(truths, answers, opened.taxonomy)
        levels = " / ".join(f"{100 * share:.1f}" for share in metrics.level_accuracy)
        alike = sum(one == other for one, other in zip(answers, reference, strict=True))
        cosine = document["results"][0]["engine"]["self_test"]["cosine"]
        row = f"{name} | {precision} | {engine} | {len(frames)} | {levels} | {100 * metrics.hf1:.2f}"
        print(f"| {row} | {alike} | {cosine:.6f} |", flush=True)


def _said(*arguments: object) -> dict[str, Any]:
    command = [_HFFNET, *(str(argument) for argument in arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    main()
