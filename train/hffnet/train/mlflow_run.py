"""A training's curves as a run of an MLflow tracking server (``MLFLOW_TRACKING_URI``).

The server is a convenience: where it does not answer, the training says so once and goes on without it.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hffnet.runtime.dataset import dataset_sha256
from hffnet.runtime.durable import whole_file
from hffnet.train.checkpoint import EpochRecord
from hffnet.train.plan import Plan

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

EXPERIMENT = "hffnet"
"""Name of the experiment where ``MLFLOW_EXPERIMENT_NAME`` does not say another."""

_RUN_FILE = "mlflow-run"
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # of one call, by MLflow's REST API
_log = logging.getLogger(__name__)


class MlflowRun:
    """One run.

    Steps are sent with the epoch they belong to: a slow server costs one call per epoch, and what a killed training
    has to do again was not sent before.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._held: list[Metric] = []
        self._is_reachable = True

    def step(self, number: int, loss: float, rate: float) -> None:
        """See `Curves`."""
        self._hold({"step/loss": loss, "step/learning_rate": rate}, number)

    def epoch(self, number: int, record: EpochRecord) -> None:
        """See `Curves`."""
        self._hold({f"epoch/{name}": value for name, value in record.model_dump().items()}, number)
        self._send()

    def close(self, *, is_finished: bool) -> None:
        """See `Curves`; a run that is not finished is left open, and gone on with by ``--resume``."""
        from mlflow.exceptions import MlflowException

        self._send()
        if is_finished and self._is_reachable:
            try:
                self._client.set_terminated(self.run_id)
            except MlflowException as error:
                self._give_up(error)

    def _hold(self, values: Mapping[str, float], number: int) -> None:
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        self._held += [Metric(name, value, now_ms, number) for name, value in values.items()]

    def _send(self) -> None:
        from mlflow.exceptions import MlflowException

        held, self._held = self._held, []
        for start in range(0, len(held), _MOST_METRICS):
            if not self._is_reachable:
                return
            try:
                self._client.log_batch(self.run_id, metrics=held[start : start + _MOST_METRICS])
            except MlflowException as error:
                self._give_up(error)

    def _give_up(self, error: "MlflowException") -> None:
        self._is_reachable = False
        _log.warning("MLflow does not answer (%s); the training goes on, its curves are in TensorBoard's files", error)


def open_mlflow_run(plan: Plan, work: Path) -> MlflowRun | None:
    """Begin a run, or go on with the one of an unfinished training; None, with a warning, where that fails."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    file = work / _RUN_FILE
    # MLflow's own seven attempts with growing pauses hold a training up for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        client = MlflowClient()
        if file.is_file():
            return MlflowRun(client, client.get_run(file.read_text("ascii").strip()).info.run_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = client.get_experiment_by_name(name)
        experiment_id = client.create_experiment(name) if found is None else found.experiment_id
        run_name = f"{plan.recipe.model.name} {plan.recipe.name}"
        run = MlflowRun(client, client.create_run(experiment_id, run_name=run_name).info.run_id)
        parameters = [Param(key, value) for key, value in _parameters(plan).items()]
        for start in range(0, len(parameters), _MOST_PARAMS):
            client.log_batch(run.run_id, params=parameters[start : start + _MOST_PARAMS])
    except MlflowException as error:
        _log.warning("MLflow is told nothing of this training: %s", error)
        return None
    with whole_file(file) as temporary:
        temporary.write_text(run.run_id, "ascii")
    return run


def _parameters(plan: Plan) -> dict[str, str]:
    """Every number of the recipe under its dotted name, and what it is trained on."""
    flat = {"data_sha256": dataset_sha256(plan.dataset), "seed": str(plan.seed), "split_seed": str(plan.split_seed)}
    if plan.weights is not None:
        flat["weights"] = plan.weights.name

    def flatten(prefix: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                flatten(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = str(value)

    flatten("", plan.recipe.model_dump(mode="json"))
    return flat
