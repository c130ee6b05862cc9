"""A training's curves for TensorBoard, written as it goes: ``tensorboard --logdir OUT.training``, later ``OUT``."""

from pathlib import Path

from tensorboardX import SummaryWriter

from hffnet.train.checkpoint import EpochRecord

FOLDER = "tensorboard"


class Curves:
    """Writes one file of events per start of the training; what a cut training wrote in vain is marked as void."""

    def __init__(self, folder: Path, next_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=next_step)

    def step(self, number: int, loss: float, rate: float) -> None:
        """One step's loss and learning rate; ``number`` counts over all epochs."""
        self._writer.add_scalar("step/loss", loss, number)
        self._writer.add_scalar("step/learning_rate", rate, number)

    def epoch(self, number: int, record: EpochRecord) -> None:
        """An epoch's figures, at the step that ended it."""
        for name, value in record.model_dump().items():
            self._writer.add_scalar(f"epoch/{name}", value, number)

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()
