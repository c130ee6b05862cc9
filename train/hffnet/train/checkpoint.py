"""The folder that training writes: ``model.safetensors``, ``config.json``, ``taxonomy.json``, ``metrics.json``.

No pickle anywhere: opening a checkpoint runs none of its content as code.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hffnet.runtime.dataset import Split
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.durable import whole_folder
from hffnet.runtime.errors import CheckpointError, ConfigError
from hffnet.runtime.manifest import Metrics, Sha256
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.model import build_model
from hffnet.train.network import ModelConfig, Network
from hffnet.train.recipes import Recipe
from hffnet.train.tensor_file import save_tensors

MODEL, CONFIG, TAXONOMY, METRICS = "model.safetensors", "config.json", "taxonomy.json", "metrics.json"
_LARGEST_JSON = 64 << 20

Micrometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Document = TypeVar("Document", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class SplitFrame(_Strict):
    """One frame of the data set and the split it stood in, so that calibration can prove it uses train frames only.

    Attributes:
        path: below the data set's root, forward slashes.
        sha256: of the file's bytes.
    """

    path: str
    sha256: Sha256
    classes: tuple[str, ...]
    split: Split


class Seeds(_Strict):
    """``training`` decides weights, order and variants; ``split`` who is in train, val and test (None: given)."""

    training: int
    split: int | None


class CheckpointConfig(_Strict):
    """``config.json``: the network, how it was made, and how its input and output are to be treated.

    Attributes:
        pixel_size_um: smallest and largest micrometres per pixel of the train frames; None where no file tells, and in
            checkpoints that were written before this was kept.
    """

    format_version: Literal[1] = 1
    recipe: Recipe
    preprocess: PreprocessSpec
    decode: DecodeSpec
    seeds: Seeds
    data_sha256: Sha256
    weights_sha256: Sha256 | None
    frames: tuple[SplitFrame, ...]
    pixel_size_um: tuple[Micrometres, Micrometres] | None = None
    created_utc: str
    tools: dict[str, str]

    @property
    def model(self) -> ModelConfig:
        """The network."""
        return self.recipe.model


class EpochRecord(_Strict):
    """One finished epoch: mean training loss, loss and hierarchical F1 on val, frames per second of training."""

    loss: float
    val_loss: float
    val_hf1: float
    frames_per_second: float


class TrainingMetrics(_Strict):
    """``metrics.json``: how good the kept weights are. ``test`` is None where no test frames were set aside."""

    schema_version: Literal[1] = 1
    best_epoch: Annotated[int, Field(ge=0)]
    val: Metrics
    test: Metrics | None
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened, checked checkpoint; the weights stay on disk until `model_from_checkpoint`."""

    folder: Path
    config: CheckpointConfig
    taxonomy: Taxonomy
    metrics: TrainingMetrics


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: CheckpointConfig,
    taxonomy: Taxonomy,
    metrics: TrainingMetrics,
    staging: Path,
) -> None:
    """Write a checkpoint folder, which must not exist, whole or not at all; it is put together in ``staging``."""
    with whole_folder(folder, staging) as temporary:
        save_tensors(temporary / MODEL, tensors)
        for name, document in ((CONFIG, config), (TAXONOMY, taxonomy), (METRICS, metrics)):
            (temporary / name).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint and check that its four files are whole and fit each other.

    Raises:
        CheckpointError: a file is missing, unreadable, too large, of another version, or does not fit the others.
    """
    for name in (MODEL, CONFIG, TAXONOMY, METRICS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; expected a folder written by `hffnet train`")
    config = _document(folder / CONFIG, CheckpointConfig)
    metrics = _document(folder / METRICS, TrainingMetrics)
    try:
        taxonomy = Taxonomy.read(folder / TAXONOMY)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if taxonomy.num_classes != config.model.num_classes:
        raise CheckpointError(
            f"{folder}: {TAXONOMY} has {taxonomy.num_classes} classes per level but {CONFIG} a network for "
            f"{config.model.num_classes}; the files are not of one training"
        )
    if len(config.decode.temperatures) != taxonomy.depth or config.preprocess.size != config.model.img_size:
        raise CheckpointError(
            f"{folder / CONFIG} has {len(config.decode.temperatures)} temperatures for {taxonomy.depth} levels, and "
            f"frames of {config.preprocess.size} pixels for a network of {config.model.img_size}; they must agree"
        )
    _check_tensors(folder / MODEL, config.model)
    return Checkpoint(folder=folder, config=config, taxonomy=taxonomy, metrics=metrics)


def model_from_checkpoint(checkpoint: Checkpoint) -> Network:
    """The trained network in training form, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: a weight is not finite.
    """
    path = checkpoint.folder / MODEL
    tensors = load_file(path)
    if broken := [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]:
        raise CheckpointError(f"{path}: {broken[0]} holds infinities or NaN; finite numbers are expected")
    model = build_model(checkpoint.config.model)
    model.load_state_dict(tensors)
    return model.eval()


def checkpoint_sha256(folder: Path) -> str:
    """Identity of a checkpoint: SHA-256 over the names and SHA-256 of its four files."""
    whole = hashlib.sha256()
    for name in sorted((MODEL, CONFIG, TAXONOMY, METRICS)):
        with (folder / name).open("rb") as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _document(path: Path, kind: type[Document]) -> Document:
    if (size := path.stat().st_size) > _LARGEST_JSON:
        raise CheckpointError(f"{path} has {size} bytes; at most {_LARGEST_JSON} are expected")
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is not what this version of hffnet writes: {error}") from error


def _check_tensors(path: Path, config: ModelConfig) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build_model(config).state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}; train again") from error
    if wanted != found:
        odd = sorted(dict(wanted.items() ^ found.items()))
        raise CheckpointError(
            f"{path} does not fit the network of {CONFIG}: {len(odd)} tensors are missing, unexpected or of another "
            f"shape, the first is {odd[0]} (found {found.get(odd[0])}, expected {wanted.get(odd[0])})"
        )
