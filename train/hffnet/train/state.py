"""Where an unfinished training stands, in one safetensors file: tensors, and the rest as JSON in its header.

One file means one moment: weights and step count cannot disagree after a kill, whenever it came.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hffnet.runtime.errors import CheckpointError
from hffnet.train.checkpoint import EpochRecord
from hffnet.train.tensor_file import save_tensors

Count = Annotated[int, Field(ge=0)]


class Position(BaseModel):
    """How far a training has come.

    Attributes:
        identity: of everything that decides the result: data, split, recipe, seed, first weights.
        epoch, step: the next step to take.
        loss_sum: of this epoch's steps so far.
        best_epoch: index in ``history`` of the epoch whose weights are kept; None before the first.
        history: finished epochs.
        scaler: state of the loss scale, for fp16 only.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    identity: str
    epoch: Count = 0
    step: Count = 0
    loss_sum: float = 0.0
    best_epoch: Count | None = None
    history: tuple[EpochRecord, ...] = ()
    scaler: dict[str, int | float] = {}


def save_state(path: Path, position: Position, tensors: Mapping[str, Tensor]) -> None:
    """Write the state, whole or not at all."""
    save_tensors(path, tensors, {"position": position.model_dump_json()})


def read_position(path: Path) -> Position:
    """How far the training in a state file has come.

    Raises:
        CheckpointError: not a state file of this version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return Position.model_validate_json((file.metadata() or {}).get("position", ""))
    except (OSError, SafetensorError, ValidationError) as error:
        raise CheckpointError(
            f"{path} is not a training state that this version can read: {error}; remove {path.parent} to start anew"
        ) from error
