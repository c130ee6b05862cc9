"""Complete training configurations: one function per recipe, every number stated, nothing read from elsewhere."""

from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hffnet.runtime.errors import ConfigError
from hffnet.train.augment import AugmentConfig
from hffnet.train.loss import LossConfig
from hffnet.train.network import MODEL_NAMES, ModelConfig, ModelName, nano_config, paper_config, small_config

Freeze = Annotated[str, StringConstraints(pattern=r"^(none|trunk|stages:[1-4])$")]


class ComputeConfig(BaseModel):
    """How a step is computed; changes the result by rounding only, but for ``precision``.

    Attributes:
        precision: of matrix products and convolutions (autocast); weights and loss stay float32. ``fp16`` scales the
            loss so that small gradients do not vanish.
        accumulate: into how many parts a step's batch is divided that go through the network one after another: less
            memory for the same step. BatchNorm that is not frozen sees the parts, not the whole.
        channels_last: memory order of pictures; the faster one on GPUs with tensor cores, and on most CPUs.
        compile: through ``torch.compile``: minutes at the start, faster steps on a GPU.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    channels_last: bool = True
    compile: bool = False


class DistillConfig(BaseModel):
    """How much a student listens to its teacher (Hinton et al., arXiv:1503.02531, level by level).

    Attributes:
        weight: share of the teacher in the loss; the labels have the rest. 0.5, for a teacher that knows the frames.
        temperature: both distributions are softened by it. 2: these trees have few classes per level, so less is
            hidden in small probabilities than in the thousand of ImageNet.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0


class Recipe(BaseModel):
    """How a network is trained; stands in the checkpoint's ``config.json``.

    Attributes:
        name: of the recipe it started from.
        model: the network.
        augment: random variants of training frames.
        loss: the loss's open numbers.
        optimizer: ``sgd`` (with momentum, as the paper) or ``adamw``.
        lr: highest learning rate; falls to 0 along a half cosine over all steps (CosineAnnealingLR, taken per step).
        momentum: of SGD; the first beta of AdamW.
        weight_decay: on every parameter for ``sgd``, as the paper; on matrices only for ``adamw``.
        batch_size: frames per step; the last ones are spread, so no batch is a tiny remainder.
        epochs: how often every training frame is seen.
        warmup_epochs: linear rise of the learning rate at the start.
        clip: greatest norm of the gradient; None leaves it alone.
        freeze: ``none``; ``stages:n`` for the stem and the first n of the trunk's four stages; ``trunk``. What is
            frozen gets no gradient and stays in evaluation mode.
        trunk_lr: learning rate of the trunk, as a multiple of ``lr``.
        feature_views: with a frozen trunk only: how many variants of each training frame (the first one unaltered)
            are taken through the trunk once and reused in all epochs. 0 computes the trunk anew for every step, with
            fresh variants each time.
        sampling: ``natural``: every train frame once per epoch; ``balanced``: every class of the last level equally
            often, in as many frames per epoch.
        patience: epochs without a better one on val after which training ends; None trains all epochs.
        ema: decay per step of the running average of all weights, which then is what is scored and kept; 0: none.
        layer_decay: each layer's learning rate as a multiple of the next one's towards the head.
        compute: how a step is computed.
        distill: what a student does with its teacher; None without one.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    model: ModelConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0.0, le=10.0)]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    clip: Annotated[float, Field(gt=0.0)] | None = None
    freeze: Freeze = "none"
    trunk_lr: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    feature_views: Annotated[int, Field(ge=0, le=64)] = 0
    sampling: Literal["natural", "balanced"] = "natural"
    patience: Annotated[int, Field(ge=1)] | None = None
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    compute: ComputeConfig = ComputeConfig()
    distill: DistillConfig | None = None


def paper(num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe:
    """The paper's network and hyperparameters: SGD 1e-4, momentum 0.937, weight decay 5e-4, 16 frames, 200 epochs.

    For a GPU. Not measured yet: `python -m tests.bench.training --converge` does it where there is one.
    """
    return Recipe(
        name="paper",
        model=paper_config(num_classes, model),
        optimizer="sgd",
        lr=1e-4,
        momentum=0.937,
        weight_decay=5e-4,
        batch_size=16,
        epochs=200,
    )


def small(num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe:
    """Pre-trained ResNet50, frozen, under a light transformer: minutes on a desktop without a GPU.

    The frozen trunk costs far more than what is trained, so its features of a few variants are computed once.
    AdamW, because the paper's SGD rate is made for 200 epochs and a transformer trained for 12 needs a rate per
    parameter. Measured (docs/results/2026-11-23-ablation.md), mean of three seeds: HF1 99.8 ± 0.6 on X-SDD, 92.4 ± 4.0
    on 295 SEM tiles; about 9 minutes of one core for 952 train frames.
    """
    return Recipe(
        name="small",
        model=small_config(num_classes, model),
        optimizer="adamw",
        lr=1e-3,
        momentum=0.9,
        weight_decay=0.05,
        batch_size=32,
        epochs=12,
        warmup_epochs=1.0,
        clip=1.0,
        freeze="none" if model == "HFFVT" else "trunk",  # it has no trunk and is trained whole, from scratch
        feature_views=3,
    )


def nano(num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe:
    """A small network from scratch, in about two minutes on two cores.

    AdamW with warm-up at a high rate: there are only some hundreds of steps, and the paper's rate would not leave the
    random start in that many. Measured, one seed: HF1 96 to 97 on the demo's drawn frames (462 train, 96 test), 98.3 on
    X-SDD (952 train, 202 test; docs/results/2026-11-23-ablation.md) in about 6 minutes of one core.
    """
    return Recipe(
        name="nano",
        model=nano_config(num_classes, model),
        optimizer="adamw",
        lr=1e-3,
        momentum=0.9,
        weight_decay=0.02,
        batch_size=16,
        epochs=20,
        warmup_epochs=1.0,
        clip=1.0,
    )


def modern(num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe:
    """The small network with everything learning, for a GPU: what has become usual since the paper's choices.

    AdamW with warm-up, layer-wise learning rates (the pre-trained stem hardly moves), a running average of the weights,
    longer training under wider variants, bfloat16. Not measured yet: no score is promised here.
    """
    return Recipe(
        name="modern",
        model=small_config(num_classes, model),
        augment=AugmentConfig(crop_area=(0.35, 1.0), degrees=15.0, erase=0.4),
        optimizer="adamw",
        lr=5e-4,
        momentum=0.9,
        weight_decay=0.05,
        batch_size=32,
        epochs=100,
        warmup_epochs=5.0,
        clip=1.0,
        layer_decay=0.7,
        ema=0.998,
        compute=ComputeConfig(precision="bf16"),
    )


class _RecipeFor(Protocol):
    def __call__(self, num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe: ...


RECIPES: dict[str, _RecipeFor] = {"nano": nano, "small": small, "paper": paper, "modern": modern}


def recipe_by_name(name: str, num_classes: tuple[int, ...], model: str = "HFFNet_2D") -> Recipe:
    """A recipe for a class tree and one of the five networks.

    Raises:
        ConfigError: no recipe or no network has that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    for known in MODEL_NAMES:
        if known == model:
            return RECIPES[name](num_classes, known)
    raise ConfigError(f"there is no network {model!r}; expected one of {', '.join(MODEL_NAMES)}")


def altered(
    recipe: Recipe,
    *,
    freeze: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    sampling: str | None = None,
    patience: int | None = None,
    precision: str | None = None,
    accumulate: int | None = None,
    compiled: bool | None = None,
) -> Recipe:
    """A recipe with some numbers of one's own; None keeps the recipe's.

    Raises:
        ConfigError: a number is out of range; the message names it.
    """
    changes = {
        "freeze": freeze, "epochs": epochs, "batch_size": batch_size, "sampling": sampling, "patience": patience,
    }  # fmt: skip
    compute = {"precision": precision, "accumulate": accumulate, "compile": compiled}
    given: dict[str, object] = {name: value for name, value in changes.items() if value is not None}
    try:
        computed = {name: value for name, value in compute.items() if value is not None}
        given["compute"] = ComputeConfig.model_validate({**dict(recipe.compute), **computed})
        return Recipe.model_validate({**dict(recipe), **given})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"{problem['loc'][0]} is {problem['input']!r}: {problem['msg']}; see `hffnet train --help`"
        ) from error
