"""A plan made ready to train: frames decoded, network built, weights loaded, everything where it was left."""

import logging
from pathlib import Path

import torch
from torch import nn

from hffnet.runtime.dataset import Split
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.split import SPLITS
from hffnet.train.checkpoint import model_from_checkpoint
from hffnet.train.curves import open_curves
from hffnet.train.distributed import World
from hffnet.train.features import open_features, teacher_logits
from hffnet.train.feed import FeatureFeed, Feed, PixelFeed, labels_of
from hffnet.train.model import build_model
from hffnet.train.network import Network, TrunkNetwork
from hffnet.train.optimise import build_optimizer, frozen_modules, set_training
from hffnet.train.pixels import open_pixels, pixel_size_range
from hffnet.train.plan import Plan, check_same, identity, weights_sha256
from hffnet.train.progress import Silence, Watcher
from hffnet.train.resnet import ResNetTrunk, load_trunk_weights
from hffnet.train.seeds import seed_from
from hffnet.train.state import Position, read_position
from hffnet.train.step import Stepper, entry_of
from hffnet.train.training import STATE, Training

_log = logging.getLogger(__name__)


def prepare(
    plan: Plan, work: Path, device: torch.device, threads: int, watcher: Watcher, cache: Path, world: World
) -> Training:
    """Decode the frames, build the network and put both where an unfinished training left them."""
    whole = identity(plan, None if plan.weights is None else weights_sha256(plan.weights))
    position = read_position(work / STATE) if (work / STATE).is_file() else Position(identity=whole)
    check_same(work, position.identity, whole)
    _check_shares(plan, world)
    model = _first_model(plan, device, world)
    frozen = frozen_modules(model, plan.recipe.freeze)
    set_training(model, frozen)
    frozen_tensors = {id(t) for module in frozen for t in module.state_dict(keep_vars=True).values()}
    fixed = frozenset(n for n, t in model.state_dict(keep_vars=True).items() if id(t) in frozen_tensors)
    frames = {split: plan.dataset.frames_of(split) for split in SPLITS}
    labels = {split: labels_of(frames[split], plan.dataset.taxonomy) for split in SPLITS}
    if not world.leads:
        world.wait()  # process 0 decodes; the others find its files
    feeds = {split: _feed(plan, model, cache, split, threads, watcher) for split in SPLITS if frames[split]}
    if world.leads:
        world.wait()
    optimizer = build_optimizer(model, plan.recipe)
    stepper = Stepper(
        model=model,
        entry=entry_of(model, feeds["train"], plan.recipe, world),
        optimizer=optimizer,
        feed=feeds["train"],
        labels=labels["train"],
        taxonomy=plan.dataset.taxonomy,
        recipe=plan.recipe,
        seed=plan.seed,
        world=world,
        # torch's own first scale, 65536, overflows: the first steps, of few, would be passed over until it has fallen.
        scaler=torch.amp.GradScaler(device.type, 2.0**10, enabled=plan.recipe.compute.precision == "fp16"),
    )
    if plan.recipe.ema:
        stepper.average = {n: tensor.clone() for n, tensor in model.state_dict().items() if n not in fixed}
    num_steps = -(-len(labels["train"]) // plan.recipe.batch_size)
    training = Training(
        plan=plan,
        work=work,
        model=model,
        optimizer=optimizer,
        stepper=stepper,
        feeds=feeds,
        frames=frames,
        labels=labels,
        pixel_size_um=pixel_size_range(frames["train"], PreprocessSpec(size=plan.recipe.model.img_size), cache),
        fixed=fixed,
        position=position,
        watcher=watcher if world.leads else Silence(),
        world=world,
        curves=open_curves(plan, work, position, num_steps) if world.leads else (),
    )
    if (work / STATE).is_file():
        training.restore(position)
    return training


def _check_shares(plan: Plan, world: World) -> None:
    """No process may be without a row in some part of some step: the others would wait for it."""
    num, recipe = len(plan.dataset.frames_of("train")), plan.recipe
    smallest = num // -(-num // recipe.batch_size)
    if smallest < world.size * recipe.compute.accumulate:
        raise ConfigError(
            f"a step of {smallest} frames cannot be divided among {world.size} processes with"
            f" {recipe.compute.accumulate} parts each; take a larger --batch-size, or fewer parts or processes"
        )


def _first_model(plan: Plan, device: torch.device, world: World) -> Network:
    torch.manual_seed(seed_from(plan.seed, "first weights"))
    model = build_model(plan.recipe.model)
    if plan.weights is not None:
        load_trunk_weights(_trunk_of(model), plan.weights)
    elif plan.recipe.freeze != "none":
        _log.warning("the trunk is frozen (%s) but has random weights; --weights is missing", plan.recipe.freeze)
    if world.size > 1 and plan.recipe.freeze != "trunk" and isinstance(model, TrunkNetwork):
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        else:
            _log.warning("on the CPU each of the %d processes normalises by its own rows of a batch", world.size)
    if plan.recipe.compute.channels_last:
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def _trunk_of(model: Network) -> ResNetTrunk:
    if isinstance(model, TrunkNetwork):
        return model.trunk
    raise ConfigError(f"{model.config.name} has no ResNet trunk, so no public weights fit it; leave --weights out")


def _feed(plan: Plan, model: Network, cache: Path, split: Split, threads: int, watcher: Watcher) -> Feed:
    frames, recipe = plan.dataset.frames_of(split), plan.recipe
    spec = PreprocessSpec(size=recipe.model.img_size)
    watcher.stage(f"decoding {split} frames", len(frames))
    pixels = open_pixels(frames, spec, cache, threads=threads, advance=watcher.advance)
    teacher = None
    if plan.teacher is not None and split == "train":
        teacher = model_from_checkpoint(plan.teacher).to(model.device).requires_grad_(requires_grad=False)
    if recipe.freeze != "trunk" or not recipe.feature_views or not isinstance(model, TrunkNetwork):
        return PixelFeed(pixels, recipe, teacher)
    views = recipe.feature_views if split == "train" else 1
    watcher.stage(f"{split} frames through the trunk", len(frames) * views)
    advance = watcher.advance
    path = cache / f"features-{split}"
    features = open_features(model, pixels, recipe, plan.seed, path, num_views=views, advance=advance)
    if teacher is None:
        return FeatureFeed(features)
    watcher.stage("train frames through the teacher", len(frames) * views)
    return FeatureFeed(features, teacher_logits(teacher, pixels, recipe, plan.seed, num_views=views, advance=advance))
