"""Complete training configurations: one function per recipe, every number stated, nothing read from elsewhere."""

from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hffnet.runtime.errors import ConfigError
from hffnet.train.augment import AugmentConfig
from hffnet.train.loss import LossConfig
from hffnet.train.network import MODEL_NAMES, ModelConfig, ModelName, nano_config, paper_config, small_config

Freeze = Annotated[str, StringConstraints(pattern=r"^(none|trunk|stages:[1-4])$")]


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


def paper(num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe:
    """The paper's network and hyperparameters: SGD 1e-4, momentum 0.937, weight decay 5e-4, 16 frames, 200 epochs."""
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
    parameter.
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
    random start in that many.
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


class _RecipeFor(Protocol):
    def __call__(self, num_classes: tuple[int, ...], model: ModelName = "HFFNet_2D") -> Recipe: ...


RECIPES: dict[str, _RecipeFor] = {"nano": nano, "small": small, "paper": paper}


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
    recipe: Recipe, *, freeze: str | None = None, epochs: int | None = None, batch_size: int | None = None
) -> Recipe:
    """A recipe with some numbers of one's own; None keeps the recipe's.

    Raises:
        ConfigError: a number is out of range; the message names it.
    """
    changes = {"freeze": freeze, "epochs": epochs, "batch_size": batch_size}
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Recipe.model_validate({**dict(recipe), **given})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"{problem['loc'][0]} is {problem['input']!r}: {problem['msg']}; see `hffnet train --help`"
        ) from error
