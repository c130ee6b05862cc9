"""What the observers have seen so far, kept in a file: a calibration that was interrupted goes on where it stopped.

The file names what it belongs to (graph, frames, method); anything else is started anew. It is a plain .npz, read
without pickle.
"""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hffnet.calibration.observers import Observer, State
from hffnet.runtime.durable import whole_file

logger = logging.getLogger(__name__)

_SEPARATOR = "|"  # between the number of an observer and the name of its array


def save_progress(path: Path, identity: str, count: int, observers: Mapping[str, Observer]) -> None:
    """Write whole, or not at all, what ``observers`` have seen in ``count`` frames."""
    arrays = {
        f"{number}{_SEPARATOR}{key}": value
        for number, observer in enumerate(observers.values())
        for key, value in observer.state().items()
    }
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, identity=np.array(identity), count=np.array(count), **arrays)  # type: ignore[arg-type]


def restore_progress(path: Path, identity: str, observers: Mapping[str, Observer]) -> int:
    """Bring ``observers`` to where the file stopped; returns the frames they have seen, 0 to start anew."""
    if not path.exists():
        return 0
    fresh = [observer.state() for observer in observers.values()]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["identity"]) != identity:
                logger.warning("%s belongs to another graph, method or set of frames: calibrating anew", path)
                return 0
            states: list[State] = [{} for _ in observers]
            for name in set(kept.files) - {"identity", "count"}:
                number, _, key = name.partition(_SEPARATOR)
                states[int(number)][key] = kept[name]
            count = int(kept["count"])
        for observer, state in zip(observers.values(), states, strict=True):
            observer.restore(state)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be used (%s): calibrating anew", path, error)
        for observer, state in zip(observers.values(), fresh, strict=True):
            observer.restore(state)  # the first ones may have taken theirs before another's turned out to be broken
        return 0
    logger.info("going on after %d frames, kept in %s", count, path)
    return count
