"""`make bench`: every measurement in a process of its own, one page of results."""

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "startup": (),
    "overhead": (),
    "export_memory": (),
    "engines": (),
    # Short: nano alone, with frames enough for a p99; without arguments the paper-size network stands beside it.
    "streaming": ("--networks", "nano", "--frames", "700", "--live-seconds", "20"),
    "ray_scale": ("--frames", "200", "--rounds", "1"),
}
"""By name, the arguments each gets here."""


def main() -> None:
    """Run the named measurements (all by default) and print Markdown; with --out also write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", default=[*MEASUREMENTS], help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--out", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    page = [heading("make bench")]
    for name in options.names:
        print(f"measuring {name} …", file=sys.stderr)
        command = [sys.executable, "-m", f"tests.bench.{name}", *MEASUREMENTS.get(name, ())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        page.append(f"## {name}\n\n`python {' '.join(command[1:])}`\n\n{done.stdout}")
        if done.returncode:
            page.append(f"Failed with exit code {done.returncode}.")
    text = "\n".join(page)
    print(text)
    if options.out:
        options.out.write_text(text)


def heading(command: str) -> str:
    """What was run, when and on what."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    known = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]
    tools = ", ".join(f"{name} {_version(name)}" for name in ("hffnet", "torch", "onnxruntime", "openvino", "numpy"))
    return (
        f"# Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
        f"`{command}`; {cpu}, {os.cpu_count()} cores ({', '.join(known)}), {platform.platform()},"
        f" Python {platform.python_version()}; {tools}; load average at the start {os.getloadavg()[0]:.2f}.\n"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


if __name__ == "__main__":
    main()
