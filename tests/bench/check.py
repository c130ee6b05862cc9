"""`make bench-check`: the engines against a stored baseline, as ratios to ONNX Runtime fp32 of the same run.

Ratios of one interleaved run carry over between machines of a kind; milliseconds do not. The network is nano with
random weights: speed does not depend on their values. `python -m tests.bench.check --store` replaces the baseline.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from threading import Event

from hffnet.runtime.benchmark.compare import Comparison, compare_reports, doubts
from hffnet.runtime.benchmark.report import Report, read_report, write_report
from hffnet.runtime.benchmark.run import BenchmarkOptions, benchmark_bundle
from hffnet.train.model import nano_config
from tests.networks import write_network_bundle
from tests.tiny import tiny_taxonomy

BASELINE = Path(__file__).with_name("baseline.json")
REFERENCE = "single-stream onnxruntime fp32 b1 t1"
MOST_SLOWER = 1.15
_SECONDS = 10.0


def main() -> None:
    """Measure, then compare or store; exit code 1 where a row is slower than the baseline beyond doubt."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--store", action="store_true", help="make this run the baseline")
    options = parser.parse_args()
    report = _measured()
    for reason in report.invalid_because:
        print(f"this run: {reason}", file=sys.stderr)
    if options.store or not BASELINE.exists():
        write_report(report, BASELINE)
        print(f"stored as {BASELINE}")
        return
    baseline = read_report(BASELINE)
    for doubt in doubts(baseline, report):
        print(doubt, file=sys.stderr)
    found = compare_reports(baseline, report, reference=REFERENCE, confidence=0.99)
    for row in found:
        print(_line(row))
    if any(row.low is not None and row.low > MOST_SLOWER for row in found):
        print(
            f"slower than the baseline by more than a factor of {MOST_SLOWER}: find the change, or --store",
            file=sys.stderr,
        )
        sys.exit(1)


def _measured() -> Report:
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        bundle = write_network_bundle(Path(folder) / "nano.hffnet", nano_config(tiny_taxonomy().num_classes))
        # One thread: what a second core shares with others would be measured too.
        options = BenchmarkOptions(threads=(1,), seconds=_SECONDS, engines=("openvino", "onnxruntime"))
        return benchmark_bundle(bundle, options, stop=Event())


def _line(row: Comparison) -> str:
    interval = "" if row.low is None or row.high is None else f" ({row.low:.3f} to {row.high:.3f})"
    return f"{row.label}: {row.ratio:.3f} of the baseline's ratio{interval}: {row.verdict}"


if __name__ == "__main__":
    main()
