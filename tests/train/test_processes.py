"""A training that is killed goes on as if nothing had been; one that is shared by two processes is the same."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hffnet.runtime.dataset import Dataset
from hffnet.train.checkpoint import MODEL, open_checkpoint
from hffnet.train.loop import train
from hffnet.train.plan import Plan
from hffnet.train.progress import Silence
from hffnet.train.recipes import ComputeConfig, Recipe


class _Losses(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def advance(self, done: int, note: str = "") -> None:
        if note:
            self.lines.append(f"{done} {note.split()[1]}")


_ROOT = Path(__file__).parents[2]


def _start(document: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(_ROOT / one) for one in ("runtime", "train")] + [str(_ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.child", str(document), str(out), *more],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _document(folder: Path, pictures: Path, recipe: Recipe) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps({"pictures": str(pictures), "recipe": recipe.model_dump(mode="json")}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="plain"),
        pytest.param({"ema": 0.9, "sampling": "balanced", "compute": ComputeConfig(precision="fp16")}, id="all-states"),
    ],
)
def test_after_kill_9_every_loss_is_the_same(
    tmp_path: Path, pictures: Path, dataset: Dataset, recipe: Recipe, change: dict[str, object]
) -> None:
    recipe = recipe.model_copy(update=change)
    document = _document(tmp_path, pictures, recipe)
    with _start(document, tmp_path / "cut", "5") as child:
        assert child.stdout is not None
        before = list(iter(child.stdout.readline, "waiting\n"))
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert [line.split()[0] for line in before] == ["1", "2", "3", "4", "5"]
    after, errors = _start(document, tmp_path / "cut").communicate()
    assert (tmp_path / "cut").is_dir(), errors
    whole = _Losses()
    train(Plan(dataset=dataset, recipe=recipe), tmp_path / "whole", watcher=whole)
    # Three steps per epoch: the state after the first epoch is the last one saved, so steps 4 and 5 are taken again.
    assert after.splitlines() == whole.lines[3:], errors
    assert [line.strip() for line in before] == whole.lines[:5]
    assert (tmp_path / "cut" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"network": "HFFNet_2D", "freeze": "trunk", "feature_views": 2}, id="kept-features"),
        pytest.param({"network": "HFFVT", "compute": ComputeConfig(accumulate=2)}, id="pixels-in-parts"),
    ],
)
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, pictures: Path, dataset: Dataset, recipe: Recipe, change: dict[str, object]
) -> None:
    # Without dropout, whose draws are each process's own; batches of 5 or 4 frames do not divide evenly.
    model = recipe.model.model_copy(update={"dropout": 0.0, "name": change.pop("network")})
    recipe = recipe.model_copy(update={"model": model, "optimizer": "sgd", "lr": 0.05, "batch_size": 5, **change})
    document, port = _document(tmp_path, pictures, recipe), str(_free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [_start(document, tmp_path / "two", RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert said[1][0] == "", "process 1 is silent"
    plain = recipe.model_copy(update={"compute": ComputeConfig()})
    train(Plan(dataset=dataset, recipe=plain), tmp_path / "one")
    two, one = (open_checkpoint(tmp_path / name).metrics for name in ("two", "one"))
    assert len(one.history) == 3
    for ours, alone in zip(two.history, one.history, strict=True):
        assert ours.loss == pytest.approx(alone.loss, rel=1e-4)
        assert ours.val_loss == pytest.approx(alone.val_loss, rel=1e-4)
    assert two.test == one.test
