"""What a frame costs outside the engine: 1024×884 8-bit TIFF, from a settled file to a committed record.

Goal: read, gates, preprocess, decode and record together at most 15 ms p50.
"""

import os
import tempfile
from pathlib import Path
from threading import Event

import numpy as np

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.pipeline import RunSummary, run_pipeline
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import open_source
from hffnet.train.fei_tiff import Settings, write_fei_tiff
from hffnet.train.model import nano_config
from hffnet.train.synthetic import draw_frame, six_class_taxonomy
from tests.networks import write_network_bundle
from tests.tiny import tiny_taxonomy

_NUM_FRAMES, _ROWS, _COLUMNS = 700, 884, 1024
_OUTSIDE = ("read", "gates", "preprocess", "decode", "record")


def main() -> None:
    """Print a table of stages."""
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as name:
        folder = Path(name)
        os.environ["HFFNET_CACHE_DIR"] = f"{folder}/cache"
        bundle = write_network_bundle(folder / "nano.hffnet", nano_config(tiny_taxonomy().num_classes))
        _write_frames(folder / "frames")
        with Classifier.open(bundle) as classifier, RecordStore.open(folder / "records.sqlite") as store:
            source = open_source(f"glob:{folder}/frames/*.tif")
            summary = run_pipeline(source, classifier, store, [], settings_sha256="0" * 64, stop=Event())
    _print(summary)


def _write_frames(folder: Path) -> None:
    """Six drawn pictures, each rolled by another number of rows for every file, so that no two files are equal."""
    folder.mkdir()
    tree, rng = six_class_taxonomy(), np.random.default_rng(0)
    drawn = [draw_frame(tree.path_of_leaf(k)[-1], rng, height=_ROWS, width=_COLUMNS) for k in range(tree.num_leaves)]
    for n in range(_NUM_FRAMES):
        picture = np.roll(drawn[n % len(drawn)], n, axis=0)
        settings = Settings.draw(rng, pixel_size_um=0.1, number=n)
        write_fei_tiff(folder / f"frame_{n:04}.tif", picture, settings, 8)


def _print(summary: RunSummary) -> None:
    print(
        f"{summary.counts} in {summary.seconds:.1f} s ({_NUM_FRAMES / summary.seconds:.0f} frames/s), back to back.\n"
    )
    print("| stage | n | p50 ms | p90 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
    for stage, figures in summary.stages_ms.items():
        cells = (f"{figures[key]:.2f}" if key in figures else "–" for key in ("p50", "p90", "p99"))
        print(f"| {stage} | {figures['num']:.0f} | {' | '.join(cells)} |")
    outside = sum(summary.stages_ms[stage]["p50"] for stage in _OUTSIDE)
    print(f"\nSum of the p50 of {', '.join(_OUTSIDE)}: **{outside:.2f} ms**")


if __name__ == "__main__":
    main()
