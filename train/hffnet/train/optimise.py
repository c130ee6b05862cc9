"""Which parameters learn, how fast, and when: freezing, learning rates, optimizer."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from hffnet.runtime.errors import ConfigError
from hffnet.train.network import Network, TrunkNetwork
from hffnet.train.recipes import Recipe


def frozen_modules(model: Network, freeze: str) -> tuple[nn.Module, ...]:
    """The parts that ``Recipe.freeze`` holds fast.

    Raises:
        ConfigError: the network has no trunk to freeze.
    """
    if freeze == "none":
        return ()
    if not isinstance(model, TrunkNetwork):
        raise ConfigError(f"{model.config.name} has no trunk that freeze {freeze!r} could mean; use --freeze none")
    trunk = model.trunk
    if freeze == "trunk":
        return (trunk,)
    stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    return (trunk.conv1, trunk.bn1, *stages[: int(freeze.removeprefix("stages:"))])


def set_training(model: Network, frozen: Iterable[nn.Module]) -> None:
    """Training mode, but for frozen parts: their BatchNorm would otherwise drift with every batch."""
    model.train()
    for module in frozen:
        module.eval().requires_grad_(requires_grad=False)


def learning_parameters(model: Network) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that get a gradient, in the model's order."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def build_optimizer(model: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; each group has ``lr_share``, its learning rate as a multiple of the schedule's."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learning_parameters(model):
        share = (recipe.trunk_lr if name.startswith("trunk.") else 1.0) * recipe.layer_decay ** _below_head(name, model)
        # Decaying biases, norms and embeddings gains nothing with AdamW; the paper's SGD is taken at its word.
        decays = recipe.optimizer == "sgd" or parameter.ndim in {2, 4}
        groups.setdefault((share, recipe.weight_decay if decays else 0.0), []).append(parameter)
    tables = [
        {"params": parameters, "lr": recipe.lr * share, "lr_share": share, "weight_decay": decay}
        for (share, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(tables, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(tables, lr=recipe.lr, betas=(recipe.momentum, 0.999))


def _below_head(name: str, model: Network) -> int:
    """Layers between a parameter and the head: stem, four stages, embeddings, encoder layers, head."""
    depth = model.config.depth
    parts = name.removeprefix("encoder.").split(".")
    match parts[0]:
        case "trunk":
            stage = int(parts[1].removeprefix("layer")) if parts[1].startswith("layer") else 0
            return depth + 6 - stage
        case "adapt" | "projection" | "pos_embedding" | "cls_token":
            return depth + 1
        case "transformer":
            return depth - int(parts[1])
        case _:
            return 0


def learning_rate(recipe: Recipe, epochs_done: float) -> float:
    """Half cosine from ``lr`` to 0 after a linear rise; ``epochs_done`` counts parts of epochs."""
    if epochs_done < recipe.warmup_epochs:
        return recipe.lr * max(epochs_done, 0.01) / recipe.warmup_epochs
    length = max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min((epochs_done - recipe.warmup_epochs) / length, 1.0)))


def tensors_from_optimizer(model: Network, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, as ``<parameter>:<slot>``: tensors only, so no pickle is needed."""
    return {
        f"{name}:{slot}": value
        for name, parameter in learning_parameters(model)
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: Network, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `tensors_from_optimizer` took."""
    parameters = dict(learning_parameters(model))
    for key, tensor in tensors.items():
        name, slot = key.rsplit(":", 1)
        # AdamW counts its steps in a tensor that stays on the CPU.
        device = tensor.device if slot == "step" else parameters[name].device
        optimizer.state[parameters[name]][slot] = tensor.to(device).clone()
