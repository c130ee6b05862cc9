"""``hffnet demo --view`` after the training: frames keep coming, some are refused, Ctrl-C ends it well."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from hffnet.export.demo_view import check_view
from hffnet.runtime.errors import MissingExtraError
from hffnet.runtime.records import RecordStore
from hffnet.train.synthetic import write_dataset

ROOT = Path(__file__).parents[2]
_COMMAND = """
import sys
from pathlib import Path
from hffnet.export.demo_view import show_live
show_live(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), seed=0, pace_s=0.02)
"""


def test_frames_come_until_ctrl_c_and_stopped_scans_are_refused(tmp_path: Path, bundle_path: Path) -> None:
    pytest.importorskip("fastapi", reason="no fastapi: pip install 'hffnet[dashboard]'")
    write_dataset(tmp_path / "unseen", frames_per_class=3, seed=1, size=(64, 64))
    live = tmp_path / "live"
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(bundle_path), str(tmp_path / "unseen"), str(live)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / station) for station in _STATIONS)},
    ) as process:
        assert process.stderr is not None
        address = next(line for line in process.stderr if "live view at" in line)
        assert "http://127.0.0.1:" in address
        # All that were unseen, and one that was drawn since.
        while process.poll() is None and len(statuses(tmp_path / "live.sqlite")) <= 18:
            Event().wait(0.1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "not_classified" in statuses(tmp_path / "live.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


_STATIONS = ("runtime", "calibration", "train", "export")


def statuses(file: Path) -> list[str | None]:
    if not file.exists():
        return []
    with RecordStore.open(file, create=False) as store:
        return [record.status for record in store.iterate() if record.kind == "result"]


def test_a_missing_extra_is_told_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hffnet\[dashboard\]'"):
        check_view()
