"""The report as PDF: what was decided on a frame or in a session, by which model, and what the person decided.

All text from outside is escaped before it becomes part of a paragraph.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from reportlab.lib import colors
from reportlab.lib.enums import TA_LEFT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Image, KeepTogether, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table

from hffnet.runtime.annotate import bar_length_um
from hffnet.runtime.dashboard.report_fonts import BOLD, FONT, marked_up, plain_text, use_fonts
from hffnet.runtime.record import Json, Record, mapping_from

_WIDTH = A4[0] - 36 * mm
_MOST_LETTERS = 600
_PICTURE_HEIGHT = 62 * mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result in a report.

    Attributes:
        record: the result.
        overrides: what people decided on it, oldest first.
        pictures: JPEG bytes with (width, height): the frame, and the frame with evidence; empty where none is at hand.
        no_picture: why there is none.
    """

    record: Record
    overrides: Sequence[Record]
    pictures: Sequence[tuple[bytes, tuple[int, int]]] = ()
    no_picture: str | None = None


def frame_report(entry: Entry, version: str) -> bytes:
    """The report of one frame."""
    styles = _styles()
    story = _frame_story(entry, styles)
    return _document(story, f"Frame report, record {entry.record.seq}", version)


def session_report(entries: Sequence[Entry], version: str, *, with_frames: bool) -> bytes:
    """The report of several results: an overview, then a part for each where ``with_frames``."""
    styles = _styles()
    first, last = entries[0].record.seq, entries[-1].record.seq
    story = _session_story(entries, styles)
    if with_frames:
        for entry in entries:
            story += [PageBreak(), *_frame_story(entry, styles)]
    return _document(story, f"Session report, records {first} to {last}", version)


def _safe(value: object) -> str:
    text = str(value)
    text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}… ({len(text)} letters)"
    return marked_up(text)


def _styles() -> dict[str, ParagraphStyle]:
    use_fonts()
    text = ParagraphStyle("text", fontName=FONT, fontSize=8.5, leading=11.5, alignment=TA_LEFT, splitLongWords=True)
    return {
        "text": text,
        "small": ParagraphStyle("small", text, fontSize=7, leading=9, wordWrap="CJK"),
        "title": ParagraphStyle("title", text, fontName=BOLD, fontSize=15, leading=19, spaceAfter=4),
        "heading": ParagraphStyle("heading", text, fontName=BOLD, fontSize=10, leading=13, spaceBefore=8, spaceAfter=3),
        "decision": ParagraphStyle("decision", text, fontName=BOLD, fontSize=13, leading=17, spaceAfter=2),
    }


def _frame_story(entry: Entry, styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    record = entry.record
    story: list[Flowable] = [
        Paragraph(f"Frame report: {_safe(record.name)}", styles["title"]),
        Paragraph(_decision_line(record), styles["decision"]),
        Paragraph(f"record {record.seq}, {_safe(record.created_utc[:19])} UTC", styles["text"]),
    ]
    if record.reason:
        story.append(Paragraph(_safe(record.reason), styles["text"]))
    story += _pictures(entry, styles)
    story += _probabilities(record, styles)
    story += _reviews(entry, styles)
    story += _pairs("Gates", [(str(g["name"]), _gate_text(g)) for g in record.gates], styles)
    story += _identities(record, styles)
    return story


def _decision_line(record: Record) -> str:
    if record.status != "classified":
        return "Not classified" if record.status == "not_classified" else "Failed"
    if not record.answer:
        return f"Unsure; most probable: {_safe(' / '.join(record.class_path))}"
    share = record.confidence[len(record.answer) - 1]
    return f"{_safe(' / '.join(record.answer))}, probability {share:.3f}"


def _gate_text(gate: Any) -> str:  # noqa: ANN401 - a mapping of a record
    if gate["passed"]:
        return f"passed (value {gate['value']:.4g}, limit {gate['limit']:.4g})"
    return f"{'refused' if gate.get('refuses', True) else 'flagged'}: {gate['reason']}"


def _pictures(entry: Entry, styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    if not entry.pictures:
        return [Paragraph(f"No picture: {_safe(entry.no_picture or 'none is at hand')}", styles["text"])]
    cells = list[list[Flowable]]()
    width_um = _width_um(record := entry.record)
    for data, (width, height) in entry.pictures:
        shrink = min((_WIDTH / 2 - 4 * mm) / width, _PICTURE_HEIGHT / height)
        scale: Flowable = Paragraph("scale not known", styles["small"])
        if width_um is not None:
            scale = ScaleBar(width * shrink, width_um)
        cells.append([Image(io.BytesIO(data), width * shrink, height * shrink, hAlign="LEFT"), scale])
    table = Table([cells], colWidths=[_WIDTH / 2] * len(cells), hAlign="LEFT")
    table.setStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")])
    told = mapping_from((record.details or {}).get("evidence")).get("class")
    right = f" Right: evidence for {_safe(told)} laid over it." if told else ""
    note = f"Left: the frame as analysed, reduced to 8 bits for print; the decision was made on the original.{right}"
    return [Spacer(1, 2 * mm), table, Paragraph(note, styles["small"])]


def _width_um(record: Record) -> float | None:
    size, width = (record.acquisition or {}).get("pixel_size_um"), (record.crop or {}).get("width")
    return float(str(size)) * float(str(width)) if size and width else None


class ScaleBar(Flowable):  # type: ignore[misc]
    """A bar of a round length under a picture.

    Args:
        width: of the picture on paper.
        width_um: what it shows, micrometres.
    """

    def __init__(self, width: float, width_um: float) -> None:
        super().__init__()
        self.width, self.height = width, 4 * mm
        self._length_um = bar_length_um(1, width_um)
        self._length = width * self._length_um / width_um

    def draw(self) -> None:
        """On the page, by reportlab."""
        label = f"{self._length_um:g} µm" if self._length_um >= 1 else f"{self._length_um * 1000:g} nm"
        self.canv.setFont(FONT, 7)
        self.canv.rect(0, 1.2 * mm, self._length, 0.8 * mm, stroke=0, fill=1)
        self.canv.drawString(self._length + 1.5 * mm, 0.8 * mm, label)


def _probabilities(record: Record, styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    story = list[Flowable]()
    for level, shares in record.probabilities.items():
        rows = [(name, f"{share:.4f}") for name, share in sorted(shares.items(), key=lambda pair: -pair[1])]
        story += _pairs(f"Calibrated probabilities, {level}", rows, styles)
    return story


def _reviews(entry: Entry, styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    if not entry.overrides:
        return _pairs("Decision of a person", [("none", "no person has decided on this record")], styles)
    rows = []
    for row in entry.overrides:
        said = str((row.details or {}).get("decision", "decided"))
        why = f"; reason: {row.reason}" if row.reason else ""
        rows.append(
            (f"record {row.seq}, {row.created_utc[:19]} UTC", f"{row.person} {said} {'/'.join(row.answer)}{why}")
        )
    return _pairs("Decision of a person (the last one counts)", rows, styles)


def _identities(record: Record, styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    acquired = {name: value for name, value in (record.acquisition or {}).items() if value is not None}
    engine = {name: value for name, value in (record.engine or {}).items() if name != "self_test"}
    self_test = (record.engine or {}).get("self_test")
    rows: list[tuple[str, Json]] = [
        ("record", f"{record.seq}, {record.created_utc} UTC, hffnet {record.hffnet_version}"),
        ("hash of the record", record.hash),
        ("hash of the record before", record.prev_hash),
        ("input", record.input_path or record.name),
        ("sha256 of the input", record.input_sha256),
        ("crop", _flat(record.crop)),
        ("acquisition", _flat(acquired)),
        ("sha256 of the model", record.bundle_sha256),
        ("engine", _flat(engine)),
        ("self-test of the engine", _flat(self_test)),
        ("sha256 of the settings", record.settings_sha256),
        ("milliseconds by stage", _flat({name: round(ms, 2) for name, ms in record.timings_ms.items()})),
    ]
    return _pairs("Identity of input, model and engine", [(name, value) for name, value in rows if value], styles)


def _flat(value: object) -> str:
    return ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else str(value or "")


def _pairs(heading: str, rows: Sequence[tuple[str, object]], styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    if not rows:
        return []
    cells = [[Paragraph(_safe(name), styles["text"]), Paragraph(_safe(value), styles["small"])] for name, value in rows]
    table = Table(cells, colWidths=[_WIDTH * 0.3, _WIDTH * 0.7], hAlign="LEFT")
    table.setStyle(_GRID)
    title = Paragraph(_safe(heading), styles["heading"])
    return [KeepTogether([title, table])] if len(rows) <= 12 else [title, table]


_GRID = [
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("LINEBELOW", (0, 0), (-1, -1), 0.25, colors.Color(0.8, 0.8, 0.8)),
    ("TOPPADDING", (0, 0), (-1, -1), 1.5),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
]


def _session_story(entries: Sequence[Entry], styles: dict[str, ParagraphStyle]) -> list[Flowable]:
    records = [entry.record for entry in entries]
    answers = Counter("/".join(r.answer) or "unsure" if r.status == "classified" else str(r.status) for r in records)
    told = [f"{said} by a person" for entry in entries if entry.overrides for said in [_last_said(entry)]]
    models = Counter(record.bundle_sha256 or "none" for record in records)
    story: list[Flowable] = [
        Paragraph(f"Session report: records {records[0].seq} to {records[-1].seq}", styles["title"]),
        Paragraph(_safe(f"{records[0].created_utc[:19]} to {records[-1].created_utc[:19]} UTC"), styles["text"]),
    ]
    story += _pairs("Answers", [(name, f"{num} of {len(records)}") for name, num in answers.most_common()], styles)
    story += _pairs("Decisions of people", [(name, str(num)) for name, num in Counter(told).most_common()], styles)
    story += _pairs("Models (sha256)", [(f"{num} records", name) for name, num in models.most_common()], styles)
    story.append(Paragraph("Results", styles["heading"]))
    head = [Paragraph(text, styles["small"]) for text in ("record", "time (UTC)", "frame", "decision", "person")]
    rows = [head] + [
        [
            Paragraph(_safe(text), styles["small"])
            for text in (
                entry.record.seq,
                entry.record.created_utc[:19],
                entry.record.name,
                _short_decision(entry.record),
                _last_decision(entry),
            )
        ]
        for entry in entries
    ]
    widths = [_WIDTH * share for share in (0.08, 0.18, 0.26, 0.28, 0.2)]
    table = Table(rows, colWidths=widths, repeatRows=1, hAlign="LEFT")
    table.setStyle(_GRID)
    return [*story, table]


def _short_decision(record: Record) -> str:
    if record.status != "classified":
        return str(record.status).replace("_", " ")
    return f"{'/'.join(record.answer)} {record.confidence[len(record.answer) - 1]:.3f}" if record.answer else "unsure"


def _last_said(entry: Entry) -> str:
    return str((entry.overrides[-1].details or {}).get("decision", "decided"))


def _last_decision(entry: Entry) -> str:
    if not entry.overrides:
        return ""
    last = entry.overrides[-1]
    return f"{last.person} {_last_said(entry)} {'/'.join(last.answer)}"


def _document(story: list[Flowable], title: str, version: str) -> bytes:
    number = uuid4().hex
    made = datetime.now(UTC).isoformat(timespec="seconds")

    class NumberedCanvas(Canvas):  # type: ignore[misc]
        """Knows how many pages there are only at the end, so pages wait until then."""

        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - reportlab's own
            super().__init__(*arguments, **options)
            self._waiting: list[dict[str, Any]] = []

        def showPage(self) -> None:  # noqa: N802 - reportlab's own name
            self._waiting.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for page, state in enumerate(self._waiting, start=1):
                self.__dict__.update(state)
                self.setFont(FONT, 6.5)
                self.drawString(18 * mm, 10 * mm, f"report {number}, made {made}, hffnet {plain_text(version)}")
                self.drawRightString(A4[0] - 18 * mm, 10 * mm, f"page {page} of {len(self._waiting)}")
                super().showPage()
            super().save()

    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=18 * mm,
        rightMargin=18 * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title=title,
        author="hffnet",
        subject=f"report {number}",
    )
    document.build(story, canvasmaker=NumberedCanvas)
    return out.getvalue()
