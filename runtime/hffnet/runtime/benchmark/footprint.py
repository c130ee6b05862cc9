"""Memory and opening time of one engine, in a process of its own: rows of a run share a process and hide both.

``python -m hffnet.runtime.benchmark.footprint BUNDLE ENGINE PRECISION BATCH THREADS`` prints one JSON line.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from pydantic import ValidationError

from hffnet.runtime.benchmark.report import Footprint
from hffnet.runtime.engines import EngineName
from hffnet.runtime.errors import EngineError
from hffnet.runtime.manifest import Precision

_LIMIT_S = 600.0


def footprint(bundle: Path, engine: EngineName, precision: Precision, *, batch: int, threads: int | None) -> Footprint:
    """Open the engine in a fresh process and answer one query.

    Raises:
        EngineError: the process failed; its last line says why.
    """
    arguments = [str(bundle), engine, precision, str(batch), str(threads or 0)]
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter and module
            [sys.executable, "-m", "hffnet.runtime.benchmark.footprint", *arguments],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=True,
        )
        return Footprint.model_validate_json(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EngineError(f"{engine} {precision} failed in a process of its own: {last}") from error
    except (subprocess.TimeoutExpired, IndexError, ValidationError) as error:
        raise EngineError(f"{engine} {precision} gave no figures in a process of its own: {error}") from error


def _main() -> None:
    path, engine, precision, batch, threads = sys.argv[1:]
    began = perf_counter()
    import numpy as np

    from hffnet.runtime.bundle import open_bundle
    from hffnet.runtime.engines import open_engine

    __import__({"openvino": "openvino", "onnxruntime": "onnxruntime"}.get(engine, "numpy"))
    imported = perf_counter()
    bundle = open_bundle(Path(path))
    frames_NHW, _ = bundle.vectors()
    before_kb, ready_to_open = _status_kb("VmRSS"), perf_counter()
    with open_engine(bundle, engine=engine, precision=precision, threads=int(threads) or None) as opened:  # type: ignore[arg-type]
        is_open = perf_counter()
        opened.infer(np.resize(frames_NHW, (int(batch), *frames_NHW.shape[1:])))
        answered = perf_counter()
        peak_kb = _status_kb("VmHWM")
        gpu_bytes = _gpu_bytes()
    found = Footprint(
        import_ms=(imported - began) * 1e3,
        open_ms=(is_open - ready_to_open) * 1e3,
        first_ms=(answered - is_open) * 1e3,
        peak_rss_mb=peak_kb * 1.024e-3,
        engine_rss_mb=(peak_kb - before_kb) * 1.024e-3,
        gpu_mb=None if math.isnan(gpu_bytes) else gpu_bytes / 1e6,
    )
    sys.stdout.write(json.dumps(found.model_dump()) + "\n")


def _gpu_bytes() -> float:
    from hffnet.runtime.benchmark.gpu import open_nvml

    nvml, _ = open_nvml()
    return math.nan if nvml is None else nvml.memory_of_process(os.getpid())


def _status_kb(name: str) -> int:
    """A line of /proc/self/status in KiB. Not ru_maxrss: that inherits the parent's peak through fork and exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    _main()
