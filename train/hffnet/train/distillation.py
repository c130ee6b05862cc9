"""A student learns from a teacher, and the same student alone: what the teacher is worth, in one table.

The student's loss mixes the labels' with the divergence from the teacher's softened answer, level by level, on the same
variant of the same frame (`hffnet.train.loss.distillation_loss`).
"""

import shutil
from dataclasses import replace
from pathlib import Path

from hffnet.runtime.errors import ConfigError
from hffnet.train.ablation import check_finished
from hffnet.train.checkpoint import Checkpoint, open_checkpoint
from hffnet.train.comparison import Comparison, comparison_from_checkpoints, write_comparison
from hffnet.train.loop import train
from hffnet.train.plan import Plan, check_splits
from hffnet.train.progress import Silence, Watcher

ALONE, DISTILLED, CACHE = "alone", "distilled", "cache"


def train_student(
    plan: Plan,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Comparison:
    """Train the plan's network with and without its teacher; write both checkpoints, table and picture into ``out``.

    Args:
        plan: has a teacher, and a recipe that says how to learn from it.
        out: folder, which must not exist unless ``resume``.
        device: see ``train``, as the two below.
        threads: of torch and of the decoders.
        resume: keep what is finished and go on with what is not.
        watcher: is told how far the work is.

    Raises:
        ConfigError: no teacher, one for other frames, or ``out`` is in the way.
        HffnetError: as ``train`` raises.
    """
    if plan.teacher is None:
        raise ConfigError("a student needs a teacher; name the folder of its checkpoint")
    check_splits(plan)
    _check_same_frames(plan, plan.teacher)
    if out.exists() and not resume:
        raise ConfigError(f"{out} already exists; choose another output folder, or go on with --resume")
    out.mkdir(parents=True, exist_ok=True)
    alone = replace(plan, teacher=None, recipe=plan.recipe.model_copy(update={"distill": None}))
    for name, one in ((ALONE, alone), (DISTILLED, plan)):
        folder = out / name
        if folder.exists():
            check_finished(open_checkpoint(folder), one)
            continue
        (watcher or Silence()).stage(f"student {name}", 1)
        unfinished = folder.with_name(f"{name}.training").exists()
        train(one, folder, device=device, threads=threads, resume=unfinished, watcher=watcher, cache=out / CACHE)
    entries = {
        "teacher": [plan.teacher],
        "student alone": [open_checkpoint(out / ALONE)],
        "student distilled": [open_checkpoint(out / DISTILLED)],
    }
    comparison = comparison_from_checkpoints(f"Distillation into {plan.recipe.model.name}", entries)
    write_comparison(out, comparison)
    shutil.rmtree(out / CACHE, ignore_errors=True)
    return comparison


def _check_same_frames(plan: Plan, teacher: Checkpoint) -> None:
    its = {(frame.sha256, frame.split) for frame in teacher.config.frames}
    ours = {(frame.sha256, frame.split) for frame in plan.dataset.frames}
    if its != ours:
        raise ConfigError(
            f"the teacher {teacher.folder} was trained on other frames or another split ({len(its & ours)} of"
            f" {len(ours)} frames agree), so the three scores could not stand side by side; give the teacher's data,"
            f" --split-seed {teacher.config.seeds.split} and fractions"
        )
