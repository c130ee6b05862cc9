"""Peak resident memory of exporting the paper-size network. Goal: at most 8 GB."""

import resource
import tempfile
from pathlib import Path
from time import perf_counter

from hffnet.export.deploy_form import deploy_form
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.train.model import build_model, paper_config
from tests.tiny import tiny_taxonomy


def main() -> None:
    """Export once and print a table."""
    model = build_model(paper_config(tiny_taxonomy().num_classes)).eval()
    before = _peak_gb()
    start = perf_counter()
    with tempfile.TemporaryDirectory(prefix="hffnet-bench-") as folder:
        path = Path(folder) / "fp32.onnx"
        onnx_from_deploy_form(deploy_form(model), path)
        size = path.stat().st_size
    seconds = perf_counter() - start
    parameters = sum(p.numel() for p in model.parameters())
    print("| parameters | graph MB | export s | peak RSS GB, network in memory | peak RSS GB, exported |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| {parameters:,} | {size / 1e6:.0f} | {seconds:.1f} | {before:.2f} | {_peak_gb():.2f} |")


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
