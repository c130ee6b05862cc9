"""``hffnet demo --view``: the demo's bundle on a folder into which frames come at a person's pace, looked at live."""

import logging
import shutil
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event, Thread

import numpy as np

from hffnet.runtime.errors import HffnetError

_log = logging.getLogger(__name__)

PACE_S = 2.0
"""Between two frames: somebody looks at each."""

_STOPPED_EVERY = 15
_MOST_FRAMES = 300
_FRAMES_AT_ONCE = 2


def check_view() -> None:
    """Know before the training that the page can be shown after it.

    Raises:
        MissingExtraError: the extra ``dashboard`` is not installed.
    """
    from importlib.util import find_spec

    from hffnet.runtime.errors import MissingExtraError

    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise MissingExtraError(f"--view needs {', '.join(missing)}: pip install 'hffnet[dashboard]'")


def show_live(bundle: Path, unseen: Path, folder: Path, *, seed: int, pace_s: float = PACE_S) -> None:
    """Run with a live view until Ctrl-C or SIGTERM; frames go into ``folder``, records beside it.

    Args:
        bundle: what classifies.
        unseen: labelled frames to begin with; after them new ones are drawn.
        folder: watched; its older frames are removed as new ones come.
        seed: of what is drawn.
        pace_s: seconds between two frames.
    """
    from hffnet.runtime.dashboard.settings import ViewChoice
    from hffnet.runtime.run_command import run_settings_through
    from hffnet.runtime.run_settings import RecordsChoice, RunSettings

    folder.mkdir(parents=True, exist_ok=True)
    records = RecordsChoice(file=folder.with_name(f"{folder.name}.sqlite"))
    settings = RunSettings(bundle=bundle, source=str(folder), records=records, view=ViewChoice(port=0))
    done = Event()
    feeder = Thread(target=_feed, args=(unseen, folder, seed, pace_s, done), name="feeder", daemon=True)
    feeder.start()
    try:
        run_settings_through(settings, as_json=False)
    finally:
        done.set()
        feeder.join(pace_s + 10.0)


def _feed(unseen: Path, folder: Path, seed: int, pace_s: float, done: Event) -> None:
    """Save frame after frame, every fifteenth as a scan that was stopped half way."""
    workshop, fed = folder.with_name(f".{folder.name}.drawn"), deque[Path]()
    try:
        for number, file in enumerate(_frames(unseen, workshop, seed), start=1):
            if done.wait(pace_s):
                return
            prepared = workshop.with_suffix(".tif")
            if number % _STOPPED_EVERY == 0:
                write_stopped(file, prepared)
            else:
                shutil.copyfile(file, prepared)
            fed.append(prepared.rename(folder / f"{number:05d}.{file.parent.name}.tif"))
            if len(fed) > _MOST_FRAMES:
                fed.popleft().unlink(missing_ok=True)
    except (OSError, HffnetError) as error:
        _log.warning("no more frames come: %s", error)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _frames(unseen: Path, workshop: Path, seed: int) -> Iterator[Path]:
    """The unseen ones, classes in turn; then newly drawn ones, without end."""
    from hffnet.train.synthetic import write_dataset

    yield from sorted(unseen.rglob("*.tif"), key=lambda path: (path.name, path.parent.name))
    for batch in count(2):  # the demo drew with seed and seed + 1
        shutil.rmtree(workshop, ignore_errors=True)
        write_dataset(workshop, frames_per_class=_FRAMES_AT_ONCE, seed=seed + batch, jobs=1)
        yield from sorted(workshop.rglob("*.tif"), key=lambda path: (path.name, path.parent.name))


def write_stopped(file: Path, out: Path) -> None:
    """Write a frame as it looks when the operator stops the scan: nothing below the last line."""
    import tifffile

    pixels = tifffile.imread(file)
    pixels[round(len(pixels) * 0.55) :] = np.zeros((), pixels.dtype)
    tifffile.imwrite(out, pixels)
