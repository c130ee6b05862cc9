"""The paper's ablation: all five networks under one recipe, on the same frames, in one table.

What cannot be equal is said in the table: HFFVT has no trunk, so it takes no public weights and is never frozen.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hffnet.runtime.dataset import dataset_sha256
from hffnet.runtime.errors import ConfigError
from hffnet.train.checkpoint import Checkpoint, open_checkpoint
from hffnet.train.comparison import MAX_RUNS, Comparison, comparison_from_checkpoints, write_comparison
from hffnet.train.loop import train
from hffnet.train.network import MODEL_NAMES, ModelName
from hffnet.train.plan import Plan
from hffnet.train.progress import Silence, Watcher
from hffnet.train.recipes import Recipe

CACHE = "cache"
"""Decoded frames and trunk features, shared by all trainings; removed at the end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What is trained.

    Attributes:
        plan: data, split and public weights; its recipe's network is the one replaced, its seed the first one.
        recipes: by network; see ``recipe_by_name``.
        num_seeds: trainings of each network, with consecutive seeds.
    """

    plan: Plan
    recipes: Mapping[ModelName, Recipe]
    num_seeds: int = 1


def train_ablation(
    ablation: Ablation,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Comparison:
    """Train every network with every seed and write one checkpoint for each, the table and the picture into ``out``.

    Args:
        ablation: what is trained.
        out: folder, which must not exist unless ``resume``.
        device: see ``train``, as the two below.
        threads: of torch and of the decoders.
        resume: keep finished trainings of the same plan and go on with the unfinished one.
        watcher: is told how far the work is.

    Raises:
        ConfigError: ``out`` exists, holds trainings of another plan, or ``num_seeds`` is out of range.
        HffnetError: as ``train`` raises.
    """
    if not 1 <= ablation.num_seeds <= MAX_RUNS:
        raise ConfigError(f"{ablation.num_seeds} seeds are asked for; 1 to {MAX_RUNS} are possible")
    if out.exists() and not resume:
        raise ConfigError(f"{out} already exists; choose another output folder, or go on with --resume")
    out.mkdir(parents=True, exist_ok=True)
    entries: dict[str, list[Checkpoint]] = {}
    for name in MODEL_NAMES:
        for seed in range(ablation.plan.seed, ablation.plan.seed + ablation.num_seeds):
            folder = out / (name if ablation.num_seeds == 1 else f"{name}-seed{seed}")
            plan = _plan_of(ablation, name, seed)
            if folder.exists():
                check_finished(open_checkpoint(folder), plan)
            else:
                _log.info("training %s, seed %d", name, seed)
                (watcher or Silence()).stage(f"{name}, seed {seed}", 1)
                work = folder.with_name(f"{folder.name}.training")
                train(
                    plan, folder, device=device, threads=threads, resume=work.exists(), watcher=watcher,
                    cache=out / CACHE,
                )  # fmt: skip
            entries.setdefault(name, []).append(open_checkpoint(folder))
    comparison = comparison_from_checkpoints(f"Ablation, recipe {ablation.plan.recipe.name}", entries)
    write_comparison(out, comparison)
    shutil.rmtree(out / CACHE, ignore_errors=True)
    return comparison


def _plan_of(ablation: Ablation, name: ModelName, seed: int) -> Plan:
    recipe = ablation.recipes[name]
    weights = None if name == "HFFVT" else ablation.plan.weights
    if weights is not ablation.plan.weights:
        _log.warning(
            "%s has no trunk: it is trained from random first weights, without %s", name, ablation.plan.weights
        )
    return replace(ablation.plan, recipe=recipe, weights=weights, seed=seed)


def check_finished(found: Checkpoint, plan: Plan) -> None:
    """Refuse a finished training that is not of this plan; raises ConfigError."""
    config = found.config
    same = (
        config.recipe == plan.recipe
        and config.seeds.training == plan.seed
        and config.data_sha256 == dataset_sha256(plan.dataset)
        and {(f.path, f.split) for f in config.frames}
        == {(plan.dataset.relative(f), f.split) for f in plan.dataset.frames}
    )
    if not same:
        raise ConfigError(
            f"{found.folder} holds a training of another recipe, seed, data or split than is asked for now; give the"
            " same options and data as before, or choose another output folder"
        )
