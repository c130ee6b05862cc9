"""A training's curves for TensorBoard, written as it goes: ``tensorboard --logdir OUT.training``, later ``OUT``."""

from pathlib import Path

from tensorboardX import SummaryWriter

from hffnet.train.checkpoint import EpochRecord

FOLDER = "tensorboard"


class TensorBoard:
    """Writes one file of events per start of the training; what a cut training wrote in vain is marked as void."""

    def __init__(self, folder: Path, next_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=next_step)

    def step(self, number: int, loss: float, rate: float) -> None:
        """See `Curves`."""
        self._writer.add_scalar("step/loss", loss, number)
        self._writer.add_scalar("step/learning_rate", rate, number)

    def epoch(self, number: int, record: EpochRecord) -> None:
        """See `Curves`."""
        for name, value in record.model_dump().items():
            self._writer.add_scalar(f"epoch/{name}", value, number)

    def close(self, *, is_finished: bool) -> None:
        """See `Curves`; a file of events knows no end."""
        del is_finished
        self._writer.close()
