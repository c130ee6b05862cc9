"""An assessment as one HTML file that needs nothing else: plots with plotly's own bundled script, no network."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import plotly.graph_objects as go
import plotly.offline
from markupsafe import Markup

from hffnet.runtime.assessment import Assessment, LevelAssessment
from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import ConfigError
from hffnet.train.mistakes import Mistake, Thumbnail

_TEMPLATE = Path(__file__).with_name("html_report.html.j2")
_BLUE, _ORANGE, _GREY = "#0072b2", "#e66e00", "#888888"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """What the page shows beside the assessment.

    Attributes:
        title: the model.
        facts: what was judged by what, name and value.
        pictures: one for each of ``mistakes``.
        evidence_note: what the overlays are, or why there are none.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    mistakes: Sequence[Mistake]
    pictures: Sequence[Thumbnail]
    evidence_note: str


def check_report_path(path: Path) -> None:
    """Refuse an output path before the frames are judged.

    Raises:
        ConfigError: no such folder, or a folder in the way.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the report does not exist; create it first")
    if path.is_dir():
        raise ConfigError(f"the report {path} is a folder; name a file like report.html")


def write_report(path: Path, assessment: Assessment, page: ReportPage) -> None:
    """Write the page whole or not at all; every name in it is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["share"] = _share
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        a=assessment,
        page=page,
        mistakes=list(zip(page.mistakes, page.pictures, strict=True)),
        script=Markup(plotly.offline.get_plotlyjs()),  # noqa: S704 - plotly's own script
        levels=[(level, _embedded(_confusion(level)), _embedded(_reliability(level))) for level in assessment.levels],
        curve=_embedded(_curve(assessment)),
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _embedded(figure: go.Figure) -> Markup:
    figure.update_layout(template="plotly_white", font={"family": "system-ui, sans-serif", "size": 13})
    config = {"displaylogo": False, "responsive": True}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=config))  # noqa: S704 - names escaped


def _names(names: Sequence[str]) -> list[str]:
    """Class names for plotly, which reads tags in its labels."""
    return [html.escape(name) for name in names]


def _confusion(level: LevelAssessment) -> go.Figure:
    held_back = any(row[-1] for row in level.confusion)
    rows = level.confusion if held_back else [row[:-1] for row in level.confusion]
    shares = [[count / max(sum(row), 1) for count in row] for row in rows]
    said = [*_names(level.classes), *(["held back"] if held_back else [])]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=said,
            y=_names(level.classes),
            text=[[str(count) for count in row] for row in rows],
            texttemplate="%{text}",
            hovertemplate="true %{y}<br>said %{x}<br>%{text} frames, %{z:.1%} of the class<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
        )
    )
    size = 30 * len(level.classes) + 200  # the names below may be as long as the picture is high
    figure.update_layout(height=max(size, 320), margin={"t": 20, "b": 10}, xaxis_title="said", yaxis_title="true")
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(automargin=True)
    return figure


def _reliability(level: LevelAssessment) -> go.Figure:
    filled = [one for one in level.reliability if one.num_frames]
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": _GREY, "dash": "dash"}, name="perfect")
    figure.add_scatter(
        x=[one.confidence for one in filled],
        y=[one.accuracy for one in filled],
        mode="lines+markers",
        marker={"size": [6 + 24 * (one.num_frames / _total(level)) ** 0.5 for one in filled], "color": _BLUE},
        line={"color": _BLUE, "width": 1},
        customdata=[one.num_frames for one in filled],
        hovertemplate="confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{customdata} frames<extra></extra>",
        name="measured",
    )
    figure.update_layout(height=360, margin={"t": 20, "b": 10}, showlegend=False)
    figure.update_xaxes(title="confidence", range=[0, 1.02])
    figure.update_yaxes(title="accuracy", range=[-0.02, 1.05])
    return figure


def _total(level: LevelAssessment) -> int:
    return sum(one.num_frames for one in level.reliability)


def _curve(assessment: Assessment) -> go.Figure:
    points, here = assessment.curve, assessment.operating_point
    figure = go.Figure()
    figure.add_scatter(
        x=[one.coverage for one in points],
        y=[one.risk for one in points],
        customdata=[[one.threshold, one.complete] for one in points],
        mode="lines",
        line={"color": _BLUE},
        hovertemplate="coverage %{x:.3f}<br>risk %{y:.3f}<br>threshold %{customdata[0]:.4f}"
        "<br>%{customdata[1]:.1%} answered to the leaf<extra></extra>",
        name="thresholds",
    )
    figure.add_scatter(
        x=[here.coverage], y=[here.risk], mode="markers", marker={"size": 12, "color": _ORANGE}, name="as shipped"
    )
    figure.update_layout(height=360, margin={"t": 20, "b": 10}, legend={"x": 0.02, "y": 0.98})
    figure.update_xaxes(title="coverage: share of levels answered", range=[0, 1.02])
    figure.update_yaxes(title="risk: share of frames answered wrongly", rangemode="tozero")
    return figure
