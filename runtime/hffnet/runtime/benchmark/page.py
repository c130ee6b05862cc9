"""A report as one HTML file that needs nothing else: no network, no script."""

from pathlib import Path

from hffnet.runtime.benchmark import charts
from hffnet.runtime.benchmark.report import Report
from hffnet.runtime.benchmark.tables import sentences_from_report, tables_from_report
from hffnet.runtime.durable import whole_file


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    text = page_from_report(report)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_from_report(report: Report) -> str:
    """The page. Everything that comes from bundles and files is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        report=report,
        sentences=sentences_from_report(report),
        tables=[
            {
                "title": str(table.title or ""),
                "columns": [str(column.header) for column in table.columns],
                "rows": list(zip(*(column.cells for column in table.columns), strict=True)),
            }
            for table in tables_from_report(report)
        ],
        distribution=charts.distribution(report),
        timeline=charts.timeline(report),
        stages=charts.stage_bars(report),
        trade=charts.trade(report),
        width=charts.WIDTH,
        left=charts.LEFT,
        lane=charts.LANE,
        name_rise=charts.NAME_RISE,
    )
