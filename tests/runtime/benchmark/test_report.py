"""The document, its page and the comparison of two."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.benchmark.charts import WIDTH, trade
from hffnet.runtime.benchmark.compare import compare_reports
from hffnet.runtime.benchmark.page import page_from_report
from hffnet.runtime.benchmark.report import Column, Report, read_report, write_report
from hffnet.runtime.benchmark.tables import tables_from_report
from hffnet.runtime.errors import ConfigError
from tests.runtime.benchmark.drafts import RowName, draft_report

ORT: RowName = ("onnxruntime", "fp32")
OPENVINO: RowName = ("openvino", "int8")


def turns(median_ms: float, *, seed: int, num: int = 20, noise: float = 0.02) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return (median_ms * np.exp(noise * rng.normal(size=(num, 8)))).tolist()  # type: ignore[no-any-return]


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=200))
def test_a_column_comes_back_bit_for_bit(values: list[float]) -> None:
    assert Column.of(values).values().tolist() == values


def test_a_column_that_inflates_beyond_its_promise_is_refused() -> None:
    packed = Column.of([0.0] * 1_000_000)
    with pytest.raises(ConfigError, match="does not hold"):
        Column(num=3, zlib_float32=packed.zlib_float32).values()
    with pytest.raises(ConfigError, match="damaged"):
        Column(num=3, zlib_float32="AAAA").values()


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = draft_report({ORT: turns(10, seed=0)})
    write_report(report, tmp_path / "a.json")
    assert read_report(tmp_path / "a.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(None, "cannot be read", id="absent"),
        pytest.param("{}", "not a benchmark report", id="empty"),
        pytest.param('{"schema_version": 2}', "at schema_version", id="newer"),
        pytest.param("nonsense", "not a benchmark report", id="no-json"),
    ],
)
def test_foreign_reports_are_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_report(tmp_path / "a.json")


class _Tags(HTMLParser):
    """Every opened element is closed; attributes that fetch are collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open = list[str]()
        self.fetches = list[str]()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetches += [f"{tag} {name}" for name, _ in attributes if name in {"src", "href", "data", "srcset"}]
        if tag == "script":
            self.fetches.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        del tag, attributes


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    report = draft_report({ORT: turns(10, seed=0), OPENVINO: turns(5, seed=1)}, model="<script>alert(1)</script>")
    page = page_from_report(report)
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    assert not tags.fetches
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 4
    assert not re.search(r"nan|inf\b", re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL).split("<h2>Figures")[0])


def test_names_in_the_trade_do_not_hide_each_other() -> None:
    """Five rows of one score, at nearly one speed; the last ones would run out of the picture."""
    names: list[RowName] = [*(("onnxruntime", p) for p in ("fp32", "fp16", "int8")), ("openvino", "fp32"), OPENVINO]
    report = draft_report({name: turns(10.0 * 1.01**k, seed=0, noise=0.0) for k, name in enumerate(names)})
    same = report.rows[0].accuracy
    report = report.model_copy(update={"rows": tuple(row.model_copy(update={"accuracy": same}) for row in report.rows)})
    drawn = trade(report)
    assert drawn is not None
    for n, one in enumerate(drawn.points):
        assert one.label_x + 6.0 * len(one.label) < WIDTH
        assert 0 < one.label_y < drawn.height
        for other in drawn.points[:n]:
            is_beside = abs(one.label_x - other.label_x) > 6.0 * max(len(one.label), len(other.label))
            assert is_beside or abs(one.label_y - other.label_y) >= 12


def test_the_page_and_tables_of_a_run_that_measured_nothing() -> None:
    report = draft_report({ORT: turns(10, seed=0)})
    bare = report.rows[0].model_copy(
        update={"samples": None, "latency": None, "accuracy": None, "stages": {}, "status": "refused", "reason": "no"}
    )
    empty = report.model_copy(update={"rows": (bare,), "conditions": None, "partial": "interrupted"})
    assert page_from_report(empty).count("<svg") == 0
    assert [table.title for table in tables_from_report(empty)] == ["not measured"]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        pytest.param(0.9, "faster", id="faster"),
        pytest.param(1.0, "not distinguishable", id="same"),
        pytest.param(1.1, "slower", id="slower"),
    ],
)
def test_a_comparison_finds_the_true_ratio(factor: float, verdict: str) -> None:
    a = draft_report({ORT: turns(10, seed=1)})
    b = draft_report({ORT: turns(10 * factor, seed=2)})
    (found,) = compare_reports(a, b)
    assert found.verdict == verdict
    assert found.low is not None
    assert found.high is not None
    assert found.low <= factor <= found.high
    assert found.ratio == pytest.approx(factor, rel=0.01)


def test_the_interval_holds_as_often_as_it_says() -> None:
    """100 pairs of equal runs: of 95 % intervals about five miss; 14 or more would have a chance of 1 in 2000."""
    missed = 0
    for seed in range(100):
        pair = [draft_report({ORT: turns(10, seed=2 * seed + k, num=15)}) for k in (0, 1)]
        missed += compare_reports(*pair)[0].verdict != "not distinguishable"
    assert missed < 14


def test_a_reference_row_cancels_a_slower_machine() -> None:
    a = draft_report({ORT: turns(10, seed=1), OPENVINO: turns(5, seed=2)})
    b = draft_report({ORT: turns(30, seed=3), OPENVINO: turns(15, seed=4)})
    assert {c.verdict for c in compare_reports(a, b)} == {"slower"}
    (found,) = compare_reports(a, b, reference="single-stream onnxruntime fp32 b1")
    assert (found.label, found.verdict) == ("single-stream openvino int8 b1", "not distinguishable")


def test_few_turns_give_no_verdict_and_strangers_no_comparison() -> None:
    short, other = draft_report({ORT: turns(10, seed=1, num=3)}), draft_report({OPENVINO: turns(5, seed=1)})
    (found,) = compare_reports(short, short)
    assert (found.verdict, found.low) == ("too few turns", None)
    with pytest.raises(ConfigError, match="share no measured row"):
        compare_reports(short, other)
    with pytest.raises(ConfigError, match="first run has no measured row 'x'"):
        compare_reports(short, short, reference="x")


def test_the_schema_names_every_field() -> None:
    assert set(Report.model_json_schema()["properties"]) == set(Report.model_fields)
