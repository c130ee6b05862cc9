"""A training in a process of its own, for tests that kill it or start several: ``child.py PLAN.json OUT [N]``.

Prints the loss after each step. With N it stops at step N, where it waits to be killed.
"""

import json
import signal
import sys
from pathlib import Path

import torch

from hffnet.runtime.dataset import open_dataset
from hffnet.runtime.split import split_dataset
from hffnet.train.loop import train
from hffnet.train.plan import Plan
from hffnet.train.progress import Silence
from hffnet.train.recipes import Recipe


class _Speaker(Silence):
    def __init__(self, pause_at: int) -> None:
        self._num_steps = 0
        self._pause_at = pause_at

    def advance(self, done: int, note: str = "") -> None:
        if not note:
            return
        self._num_steps += 1
        print(done, note.split()[1], flush=True)
        if self._num_steps == self._pause_at:
            print("waiting", flush=True)
            signal.pause()


def main(document: Path, out: Path, pause_at: int) -> None:
    wanted = json.loads(document.read_text())
    dataset = split_dataset(open_dataset(Path(wanted["pictures"])), 0, (0.5, 0.25, 0.25))
    recipe = Recipe.model_validate_json(json.dumps(wanted["recipe"]))
    torch.set_num_threads(1)
    work = out.with_name(f"{out.name}.training")
    resume = (work / "state.safetensors").exists()
    train(Plan(dataset=dataset, recipe=recipe), out, device="cpu", resume=resume, watcher=_Speaker(pause_at))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
