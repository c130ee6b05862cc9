"""Labelled, split frames to a checkpoint: the training loop, resumable at any step.

An unfinished training lives in ``<out>.training`` beside the checkpoint-to-be: decoded pixels, the state, the best
weights so far. The folder goes when the checkpoint is there.
"""

import importlib.metadata
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from hffnet.runtime.dataset import Dataset, dataset_sha256
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import ConfigError, HffnetError
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.train.checkpoint import CheckpointConfig, Seeds, SplitFrame, TrainingMetrics, write_checkpoint
from hffnet.train.distributed import World, processes_joined, world_from_environment
from hffnet.train.evaluate import score, temperatures_from_logits
from hffnet.train.feed import all_logits
from hffnet.train.interrupt import interrupts_held
from hffnet.train.plan import Plan, check_splits, torch_device, weights_sha256
from hffnet.train.prepare import prepare
from hffnet.train.progress import Silence, Watcher
from hffnet.train.tensorboard import FOLDER
from hffnet.train.training import BEST, STATE, Training

_log = logging.getLogger(__name__)


def train(
    plan: Plan,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
    cache: Path | None = None,
) -> Path:
    """Train, keep the epoch that is best on val, score it on test, write the checkpoint.

    Args:
        plan: data, recipe, weights, seeds.
        out: the checkpoint folder, which must not exist.
        device: ``auto``, ``cpu``, ``cuda`` or another torch device.
        threads: of torch and of the decoders; None leaves torch's choice.
        resume: go on with an unfinished training of the same plan.
        watcher: is told how far the work is.
        cache: where decoded frames and trunk features are kept for other trainings; None removes them at the end.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` exists, an unfinished training is in the way, or is of another plan.
        DatasetError: a frame without split, an empty split, an unreadable frame.
        CheckpointError: the weights do not fit.
        GateError: the loss is not finite any more.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    world = world_from_environment()
    with processes_joined(world, device):
        work = out.with_name(f"{out.name}.training")
        _check_folders(out, work, resume=resume)
        check_splits(plan)
        world.wait()  # all have looked before one writes
        work.mkdir(parents=True, exist_ok=True)
        threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or threads_before)
        try:
            # Seeds are set before each step; the caller's generators are given back as they were.
            with _alone(work, world), torch.random.fork_rng():
                training = prepare(
                    plan, work, _device(device, world), threads or 2, watcher or Silence(), cache or work, world
                )
                _run(training, out)
        except HffnetError:
            if world.leads and not (work / STATE).is_file():
                shutil.rmtree(work)  # bad input: nothing was learnt that could be gone on from
            raise
        finally:
            torch.set_num_threads(threads_before)
        world.wait()
        if world.leads:
            shutil.rmtree(work)
    return out


def _run(training: Training, out: Path) -> None:
    is_finished = False
    try:
        with interrupts_held() as asked:
            training.run(asked)
        is_finished = True
    finally:
        for curves in training.curves:
            curves.close(is_finished=is_finished)
    if training.world.leads:
        _finish(training, out)
        (training.work / FOLDER).rename(out / FOLDER)


@contextmanager
def _alone(work: Path, world: World) -> Iterator[None]:
    """One training at a time in a folder; the other processes of the same training rely on the first one's lock."""
    if not world.leads:
        yield
        return
    try:
        lock = FileLock(work / "lock", timeout=0).acquire()
    except Timeout as error:
        raise ConfigError(f"{work} is in use by another training; choose another output folder") from error
    with lock:
        yield


def _device(name: str, world: World) -> torch.device:
    device = torch_device(name)
    return torch.device("cuda", world.local_rank) if world.size > 1 and device.type == "cuda" else device


def _check_folders(out: Path, work: Path, *, resume: bool) -> None:
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another output folder or remove it")
    if resume and not (work / STATE).is_file():
        _log.warning("there is nothing to resume in %s; the training starts anew", work)
    if not resume and (work / STATE).is_file():
        raise ConfigError(f"an unfinished training lies in {work}; go on with --resume, or remove it to start anew")


def _finish(training: Training, out: Path) -> None:
    plan, position = training.plan, training.position
    taxonomy = plan.dataset.taxonomy
    training.load(load_file(training.work / BEST))
    val_logits = all_logits(training.model, training.feeds["val"], len(training.frames["val"]))
    temperatures = temperatures_from_logits(val_logits, training.labels["val"].numpy(), taxonomy)
    decode_spec = DecodeSpec(temperatures=temperatures)
    config = CheckpointConfig(
        recipe=plan.recipe,
        preprocess=PreprocessSpec(size=plan.recipe.model.img_size),
        decode=decode_spec,
        seeds=Seeds(training=plan.seed, split=plan.split_seed),
        data_sha256=dataset_sha256(plan.dataset),
        weights_sha256=None if plan.weights is None else weights_sha256(plan.weights),
        frames=_split_list(plan.dataset),
        pixel_size_um=training.pixel_size_um,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={name: importlib.metadata.version(name) for name in ("torch", "numpy", "opencv-python-headless")},
    )
    assert position.best_epoch is not None, "run() ends after at least one epoch"
    metrics = TrainingMetrics(
        best_epoch=position.best_epoch,
        val=score(val_logits, training.frames["val"], taxonomy, decode_spec)[0],
        test=_test_metrics(training, decode_spec),
        history=position.history,
    )
    write_checkpoint(out, training.model.state_dict(), config, taxonomy, metrics, training.work)


def _test_metrics(training: Training, spec: DecodeSpec) -> Metrics | None:
    frames = training.frames["test"]
    if not frames:
        return None
    logits = all_logits(training.model, training.feeds["test"], len(frames))
    return score(logits, frames, training.plan.dataset.taxonomy, spec)[0]


def _split_list(dataset: Dataset) -> tuple[SplitFrame, ...]:
    return tuple(
        SplitFrame(path=dataset.relative(frame), sha256=frame.sha256, classes=frame.classes, split=frame.split)
        for frame in dataset.frames
        if frame.split is not None
    )
