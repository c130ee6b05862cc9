"""How long `hffnet --help` takes (goal: at most 0.3 s), and whether `import hffnet.runtime` loads torch or onnx."""

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

_RUNS = 15


def main() -> None:
    """Print a table."""
    command = [str(Path(sys.executable).with_name("hffnet")), "--help"]
    bare = [sys.executable, "-c", "pass"]
    seconds: dict[str, list[float]] = {"hffnet --help": [], "python -c pass": []}
    for turn in range(_RUNS + 1):
        for name, arguments in zip(seconds, (command, bare), strict=True):
            start = perf_counter()
            subprocess.run(arguments, check=True, capture_output=True)
            if turn:
                seconds[name].append(perf_counter() - start)
    print("| command | p50 s | max s |\n| --- | --- | --- |")
    for name, values in seconds.items():
        print(f"| `{name}` | {statistics.median(values):.3f} | {max(values):.3f} |")
    probe = "import sys, hffnet.runtime; print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.strip()
    print(f"\n`import hffnet.runtime` loads of torch and onnx: {loaded}")


if __name__ == "__main__":
    main()
