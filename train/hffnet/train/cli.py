"""``hffnet train``: labelled frames to a checkpoint. Nothing heavy is imported before the command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hffnet.train.comparison import Comparison
    from hffnet.train.network import ModelName
    from hffnet.train.recipes import Recipe


def train(
    data: Annotated[Path, typer.Argument(help="Folders <level1>/<level2>/*, or a CSV: path, level1, level2, ...")],
    out: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint folder to write; must not exist.")],
    recipe: Annotated[
        str, typer.Option(help="nano (from scratch, minutes), small (frozen ResNet50), paper or modern (a GPU).")
    ] = "nano",
    model: Annotated[
        str, typer.Option("--model", help="HFFNet_2D, HFFVT, HFFCNN, HFF_CNN_VT or HFF_CNN_Conv_VT.")
    ] = "HFFNet_2D",
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Train all five networks under the recipe; OUT gets a table and a plot.")
    ] = False,
    num_seeds: Annotated[
        int, typer.Option(min=1, max=10, help="With --ablation: trainings per network, from --seed on.")
    ] = 1,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT", help="Learn from its soft answers too; OUT gets both students, a table and a plot."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Public ResNet weights for the trunk: .safetensors, .pth.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="none, stages:1 ... stages:4, or trunk; default: the recipe's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Frames per step; default: the recipe's.")] = None,
    sampling: Annotated[
        str | None, typer.Option(help="natural, or balanced: every class equally often; default: the recipe's.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End after so many epochs without a better one; default: the recipe's.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 arithmetic; default: the recipe's.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Parts of a step's frames that go through one after another.")
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; default: the recipe's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="First weights, order, variants.")] = 0,
    split_seed: Annotated[int, typer.Option(help="Who is in train, val and test.")] = 0,
    val_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of frames that choose the epoch.")
    ] = 0.15,
    test_fraction: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share held out for the score.")] = 0.15,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished training of the same options.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Result as one JSON document on stdout.")] = False,
) -> None:
    """Train a network on labelled frames and write a checkpoint.

    Ctrl-C stops after the current step; the same command with --resume goes on from there. Several GPUs:
    torchrun --nproc-per-node=N --no-python hffnet train ...
    """
    from rich.console import Console

    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.errors import ConfigError
    from hffnet.runtime.split import split_dataset
    from hffnet.train.ablation import Ablation, train_ablation
    from hffnet.train.checkpoint import open_checkpoint
    from hffnet.train.distillation import train_student
    from hffnet.train.distributed import world_from_environment
    from hffnet.train.loop import train as train_plan
    from hffnet.train.network import MODEL_NAMES
    from hffnet.train.plan import Plan
    from hffnet.train.progress import progress_on
    from hffnet.train.recipes import DistillConfig, altered, recipe_by_name

    console = Console(stderr=True)
    fractions = (1.0 - val_fraction - test_fraction, val_fraction, test_fraction)
    dataset = split_dataset(open_dataset(data), split_seed, fractions)

    def recipe_of(name: str) -> "Recipe":
        made = recipe_by_name(recipe, dataset.taxonomy.num_classes, name)
        # In an ablation the option is meant for the four networks that have a trunk.
        held = None if ablation and name == "HFFVT" else freeze
        made = altered(
            made,
            freeze=held,
            epochs=epochs,
            batch_size=batch_size,
            sampling=sampling,
            patience=patience,
            precision=precision,
            accumulate=accumulate,
            compiled=compiled,
        )
        return made if teacher is None else made.model_copy(update={"distill": DistillConfig()})

    world = world_from_environment()
    if world.size > 1 and (ablation or teacher is not None):
        raise ConfigError("under torchrun one network is trained at a time; leave --ablation and --teacher out")
    if ablation and teacher is not None:
        raise ConfigError("--ablation and --teacher are asked for at once; give one of them")
    plan = Plan(
        dataset=dataset,
        recipe=recipe_of(model),
        weights=weights,
        seed=seed,
        split_seed=split_seed,
        teacher=None if teacher is None else open_checkpoint(teacher),
    )
    with progress_on(console) as watcher:
        if ablation:
            recipes: dict[ModelName, Recipe] = {name: recipe_of(name) for name in MODEL_NAMES}
            task = Ablation(plan=plan, recipes=recipes, num_seeds=num_seeds)
            compared = train_ablation(task, out, device=device, threads=threads, resume=resume, watcher=watcher)
        elif teacher is not None:
            compared = train_student(plan, out, device=device, threads=threads, resume=resume, watcher=watcher)
        else:
            train_plan(plan, out, device=device, threads=threads, resume=resume, watcher=watcher)
    if not world.leads:
        return
    if ablation or teacher is not None:
        _show_comparison(out, compared, as_json=as_json)
    else:
        _show(out, as_json=as_json)


def _show(folder: Path, *, as_json: bool) -> None:
    import json

    from hffnet.train.checkpoint import checkpoint_sha256, open_checkpoint

    checkpoint = open_checkpoint(folder)
    metrics = checkpoint.metrics
    if as_json:
        document = {
            "schema_version": 1,
            "checkpoint": str(folder),
            "checkpoint_sha256": checkpoint_sha256(folder),
            "best_epoch": metrics.best_epoch + 1,
            "val": metrics.val.model_dump(),
            "test": None if metrics.test is None else metrics.test.model_dump(),
        }
        typer.echo(json.dumps(document))
        return
    for name, scores in (("val", metrics.val), ("test", metrics.test)):
        if scores is not None:
            levels = "  ".join(
                f"{level.name} {a:.4f}"
                for level, a in zip(checkpoint.taxonomy.levels, scores.level_accuracy, strict=True)
            )
            typer.echo(f"{name:4}  {scores.num_frames} frames  HF1 {scores.hf1:.4f}  FPA {scores.fpa:.4f}  {levels}")
    typer.echo(f"checkpoint {folder} (epoch {metrics.best_epoch + 1})")


def _show_comparison(folder: Path, comparison: "Comparison", *, as_json: bool) -> None:
    from hffnet.train.comparison import MARKDOWN

    if as_json:
        typer.echo(comparison.model_dump_json())
        return
    typer.echo((folder / MARKDOWN).read_text(encoding="utf-8"))
    typer.echo(f"table, picture and checkpoints in {folder}")
