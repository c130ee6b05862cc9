"""Where a training's curves go as it runs: TensorBoard always, MLflow where it is installed and told a server."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from hffnet.train.checkpoint import EpochRecord
from hffnet.train.plan import Plan
from hffnet.train.state import Position
from hffnet.train.tensorboard import FOLDER, TensorBoard


class Curves(Protocol):
    """One place that keeps curves."""

    def step(self, number: int, loss: float, rate: float) -> None:
        """One step's loss and learning rate; ``number`` counts over all epochs, from 1."""
        ...

    def epoch(self, number: int, record: EpochRecord) -> None:
        """An epoch's figures, at the step that ended it."""
        ...

    def close(self, *, is_finished: bool) -> None:
        """Write what is still held back; a training that is not finished may go on later."""
        ...


def open_curves(plan: Plan, work: Path, position: Position, num_steps: int) -> tuple[Curves, ...]:
    """Every place that curves of this training go to.

    MLflow's own default is a database in the folder one happens to stand in: without ``MLFLOW_TRACKING_URI`` nothing is
    written there.

    Args:
        plan: what is trained.
        work: folder of the unfinished training.
        position: where the training goes on.
        num_steps: of an epoch.
    """
    board = TensorBoard(work / FOLDER, position.epoch * num_steps + position.step + 1)
    if find_spec("mlflow") is None or not os.environ.get("MLFLOW_TRACKING_URI"):
        return (board,)
    from hffnet.train.mlflow_run import open_mlflow_run

    run = open_mlflow_run(plan, work)
    return (board,) if run is None else (board, run)
