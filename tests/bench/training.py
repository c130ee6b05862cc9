"""Training speed: the recipe's arithmetic against a plain fp32 loop, in turns; with --converge, what training reaches.

On a GPU the `paper` network, elsewhere `nano` with few steps, which shows only that the script runs.
"""

import argparse
import platform
import statistics
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.split import split_dataset
from hffnet.train.checkpoint import Checkpoint, open_checkpoint
from hffnet.train.comparison import comparison_from_checkpoints, markdown_from_comparison
from hffnet.train.distillation import DISTILLED, train_student
from hffnet.train.distributed import World
from hffnet.train.feed import PixelFeed
from hffnet.train.loop import train
from hffnet.train.optimise import frozen_modules, set_training
from hffnet.train.plan import Plan, torch_device
from hffnet.train.prepare import prepare
from hffnet.train.progress import Silence
from hffnet.train.recipes import ComputeConfig, DistillConfig, Recipe, recipe_by_name
from hffnet.train.synthetic import write_dataset
from hffnet.train.training import Training

PLAIN = ComputeConfig(precision="fp32", channels_last=False, compile=False)
FAST = ComputeConfig(precision="bf16", channels_last=True, compile=True)
WARM_UP, ROUND = 3, 10
"""Steps; compilation falls into the first ones. A row is measured in rounds, the rows in turns."""


@dataclass(slots=True)
class Row:
    """One way of computing: its training, and the seconds of each step."""

    name: str
    training: Training
    seconds: list[float]
    peak_bytes: int = 0
    done: int = 0
    waited_before_s: float = 0.0

    def steps(self, num: int, *, is_warm_up: bool = False) -> None:
        """Take steps of whole batches at a rate next to nothing: speed does not depend on what is learnt."""
        training, device = self.training, self.training.model.device
        num_frames, size = len(training.labels["train"]), training.plan.recipe.batch_size
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for _ in range(num):
            here, there = ((np.arange(size) + (self.done + k) * size) % num_frames for k in (0, 1))
            started = time.perf_counter()
            training.stepper.take(here, 0, self.done, 1e-6, there)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.done += 1
            if not is_warm_up:
                self.seconds.append(time.perf_counter() - started)
        if device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(device))
        if is_warm_up:
            self.waited_before_s = self._waited_s()

    def _waited_s(self) -> float:
        feed = self.training.feeds["train"]
        return feed.ahead.waited_s if isinstance(feed, PixelFeed) else 0.0

    def markdown(self, plain_s: float) -> str:
        """One line of the table."""
        median = statistics.median(self.seconds)
        size = self.training.plan.recipe.batch_size
        waiting = (self._waited_s() - self.waited_before_s) / sum(self.seconds)
        memory = f"{self.peak_bytes / 2**30:.1f} GiB" if self.peak_bytes else "–"
        return (
            f"| {self.name} | {size / median:.1f} | {1e3 * median:.1f} | {memory} | {plain_s / median:.2f} |"
            f" {100 * waiting:.1f} % |"
        )


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, help="labelled frames; default: drawn ones")
    parser.add_argument("--recipe", help="default: paper on a GPU, nano elsewhere")
    parser.add_argument("--steps", type=int, help="per row; default: 200 on a GPU, 4 elsewhere")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's on a GPU, 4 elsewhere")
    parser.add_argument("--converge", action="store_true", help="also train paper, small and a student, three seeds")
    parser.add_argument("--weights", type=Path, help="public ResNet50 weights, for --converge")
    options = parser.parse_args()
    device = torch_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{datetime.now(UTC):%Y-%m-%d}: {name}, {platform.machine()}, Python {platform.python_version()}, torch "
          f"{torch.__version__}\n")  # fmt: skip
    with TemporaryDirectory(prefix="hffnet-bench-") as folder:
        dataset = _dataset(options.data, Path(folder), frames_per_class=40 if device.type == "cuda" else 6)
        _speed(dataset, options, device, Path(folder))
        if options.converge and device.type != "cuda":
            print("\nTraining the paper's network to convergence needs a CUDA GPU: not run here.")
        elif options.converge and options.weights is None:
            parser.error("--converge needs --weights: the trunk of small is frozen, and random without them")
        elif options.converge:
            _converge(dataset, options.weights, Path(folder))


def _dataset(data: Path | None, folder: Path, *, frames_per_class: int) -> Dataset:
    if data is None:
        data = folder / "drawn"
        write_dataset(data, frames_per_class=frames_per_class, seed=0)
    return split_dataset(open_dataset(data), 0)


def _speed(dataset: Dataset, options: argparse.Namespace, device: torch.device, folder: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is meant by its name
    name = options.recipe or ("paper" if device.type == "cuda" else "nano")
    num_steps = options.steps or (200 if device.type == "cuda" else 4)
    recipe = recipe_by_name(name, dataset.taxonomy.num_classes).model_copy(update={"feature_views": 0})
    size = options.batch_size or (recipe.batch_size if device.type == "cuda" else 4)
    recipe = recipe.model_copy(update={"batch_size": size})
    rows = [
        _row(label, dataset, recipe.model_copy(update={"compute": compute}), device, folder)
        for label, compute in (
            ("plain: fp32, contiguous, eager", PLAIN),
            ("channels_last", PLAIN.model_copy(update={"channels_last": True})),
            ("channels_last, bf16", FAST.model_copy(update={"compile": False})),
            ("channels_last, bf16, torch.compile", FAST),
        )
    ]
    for row in rows:
        row.steps(WARM_UP, is_warm_up=True)
    for _ in range(-(-num_steps // ROUND)):
        for row in rows:
            row.steps(min(ROUND, num_steps))
    plain_s = statistics.median(rows[0].seconds)
    print(f"Recipe `{name}`, batch {recipe.batch_size}, {len(rows[0].seconds)} steps per row in turns.\n")
    print("| loop | images/s | ms per step | peak memory | times plain | waiting for data |\n" + "| --- " * 6 + "|")
    print("\n".join(row.markdown(plain_s) for row in rows))


def _row(label: str, dataset: Dataset, recipe: Recipe, device: torch.device, folder: Path) -> Row:
    work = folder / label.replace(" ", "-").replace(",", "").replace(":", "")
    work.mkdir()
    training = prepare(Plan(dataset=dataset, recipe=recipe), work, device, 2, Silence(), folder / "cache", World())
    set_training(training.model, frozen_modules(training.model, recipe.freeze))
    return Row(label, training, [])


def _converge(dataset: Dataset, weights: Path | None, folder: Path) -> None:
    """`paper` (in the fast arithmetic), `small`, and `small` taught by `paper`: three seeds each."""
    entries: dict[str, list[Checkpoint]] = {"paper": [], "small": [], "small distilled": []}
    num_classes = dataset.taxonomy.num_classes
    for seed in range(3):
        plan = Plan(
            dataset=dataset, recipe=recipe_by_name("paper", num_classes), weights=weights, seed=seed, split_seed=0
        )
        fast = plan.recipe.model_copy(update={"compute": FAST})
        teacher = open_checkpoint(train(replace(plan, recipe=fast), folder / f"paper-{seed}"))
        entries["paper"].append(teacher)
        student = recipe_by_name("small", num_classes).model_copy(update={"distill": DistillConfig()})
        pair = folder / f"student-{seed}"
        train_student(replace(plan, recipe=student, teacher=teacher), pair)
        entries["small"].append(open_checkpoint(pair / "alone"))
        entries["small distilled"].append(open_checkpoint(pair / DISTILLED))
    print("\n" + markdown_from_comparison(comparison_from_checkpoints("Trained to convergence", entries)))


if __name__ == "__main__":
    main()
