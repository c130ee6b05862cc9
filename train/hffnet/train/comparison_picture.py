"""The comparison as a picture: scores with their intervals, and HF1 against speed. Text stays text in the SVG."""

from pathlib import Path
from typing import TYPE_CHECKING

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hffnet.train.comparison import Comparison

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def write_picture(path: Path, comparison: "Comparison") -> None:
    """Draw and write an SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the comparison's picture needs matplotlib: pip install 'hffnet[train]'") from error
    rows = len(comparison.rows)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hffnet", "font.size": 9}):
        figure = Figure(figsize=(11, 2.2 + 0.45 * rows), layout="constrained")
        scores, speed = figure.subplots(1, 2, width_ratios=(1.5, 1))
        _draw_scores(scores, comparison)
        _draw_speed(speed, comparison)
        figure.suptitle(f"{comparison.title} ({comparison.measured_on})")
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw_scores(axes: "Axes", comparison: "Comparison") -> None:
    names = {"hf1": "HF1", "fpa": "FPA", **{f"accuracy:{level}": level for level in comparison.levels}}
    step = 0.7 / len(names)
    for n, (key, label) in enumerate(names.items()):
        scores = [row.scores[key] for row in comparison.rows]
        axes.errorbar(
            [100 * score.mean for score in scores],
            [place + (n - (len(names) - 1) / 2) * step for place in range(len(scores))],
            xerr=[100 * (score.half_width or 0.0) for score in scores],
            fmt="o",
            markersize=4,
            color=_COLOURS[n % len(_COLOURS)],
            label=label,
        )
    axes.set_yticks(range(len(comparison.rows)), [row.name for row in comparison.rows])
    axes.invert_yaxis()
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))
    axes.grid(axis="x", alpha=0.3)
    seeds = len(comparison.rows[0].seeds)
    axes.set_xlabel("percent" if seeds == 1 else f"percent, mean and 95 % interval of {seeds} seeds")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4, frameon=False)


def _draw_speed(axes: "Axes", comparison: "Comparison") -> None:
    """Names stand in a legend: beside the points they lie over each other where networks are alike."""
    for n, row in enumerate(comparison.rows):
        axes.scatter(
            row.ms_per_frame,
            100 * row.scores["hf1"].mean,
            marker=_MARKERS[n % len(_MARKERS)],
            facecolors="none",
            edgecolors="black",
            s=45,
            label=f"{row.name}, {row.num_parameters / 1e6:.2f} M",
        )
    axes.margins(y=0.25)
    axes.set_xlim(0, 1.1 * max(row.ms_per_frame for row in comparison.rows))
    axes.set_xlabel("ms per frame (PyTorch, batch 1)")
    axes.set_ylabel("HF1, percent")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False, fontsize=8)
