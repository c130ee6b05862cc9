"""Seeds for the C++ fuzzers: the frames and bundles of the hostile tests, and whole ones, written to a folder.

``python -m tests.fuzz.cpp_seeds FOLDER`` writes ``FOLDER/frame`` and ``FOLDER/bundle``.
"""

import sys
from pathlib import Path

from tests.hostile.test_hostile_frames import REFUSED, WHOLE
from tests.tiny import write_tiny_bundle

_MOST_BYTES = 1 << 16


def write_seeds(folder: Path) -> int:
    """Write every seed that is small enough for a fuzzer; how many there are."""
    seeds = {"frame": {**WHOLE, **REFUSED}, "bundle": dict[str, bytes]()}
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_tiny_bundle(folder / "whole.hffnet")
    seeds["bundle"]["whole"] = whole.read_bytes()
    whole.unlink()
    num_seeds = 0
    for subject, contents in seeds.items():
        (folder / subject).mkdir(exist_ok=True)
        for name, content in contents.items():
            if len(content) <= _MOST_BYTES:
                (folder / subject / f"cpp-{''.join(c if c.isalnum() else '-' for c in name)}").write_bytes(content)
                num_seeds += 1
    return num_seeds


if __name__ == "__main__":
    sys.stderr.write(f"{write_seeds(Path(sys.argv[1]))} seeds\n")
