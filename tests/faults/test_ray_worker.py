"""A Ray worker that is killed is replaced: every frame has one result, in order. Takes a cluster: `make soak`."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from hffnet.runtime.errors import EngineError
from tests.runtime.test_archive import ROOT, SETTINGS, write_frames


def worker_pids() -> list[int]:
    """Of Ray's workers on this machine that hold an engine."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # Ray's own; every other test fails on warnings
def test_a_worker_that_is_killed_is_replaced(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'hffnet[ray]'")
    from hffnet.runtime.ray_archive import LOCAL, WorkerPlan, cluster, documents_from_ray

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "runtime"))
    paths = write_frames(tmp_path / "in", 600)
    plan = WorkerPlan(
        engine="onnxruntime", precision="fp32", threads=1, num_workers=2, settings_sha256=SETTINGS, tiles=None
    )
    names = list[str]()
    with cluster(LOCAL, 2, 1) as num_cpus:
        for number, document in enumerate(documents_from_ray(paths, bundle_path, plan, num_cpus)):
            if number == 0:
                os.kill(worker_pids()[0], signal.SIGKILL)
            names.append(str(document["name"]))
        unfit = replace(plan, precision="fp16")  # the bundle has none
        with pytest.raises(EngineError, match=r"a Ray worker failed: .* holds fp32 .cpu., and no fp16 graph"):
            list(documents_from_ray(paths[:2], bundle_path, unfit, num_cpus))
    assert names == [str(path) for path in paths]
