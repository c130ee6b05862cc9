"""``make fuzz SECONDS=60``: look for inputs that break a reader, with atheris where it is installed.

``python -m tests.fuzz.run --seconds 60 [frame|metadata|bundle …]``. atheris (libFuzzer, guided by coverage) has wheels
for x86_64 only; elsewhere inputs are changed blindly, which finds less and says so. New inputs go to ``build/fuzz``; an
input that is a finding is named, exits with 1, and belongs into ``corpus/`` once it is fixed.
"""

import argparse
import logging
import random
import subprocess
import sys
import time
import traceback
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("frame", "metadata", "bundle")
_LONGEST = 1 << 16
_LONGEST_S = 10.0


def guided(name: str, seconds: int, found: Path) -> None:
    """libFuzzer on one target; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["hffnet.runtime", "tifffile"]):
        from tests.fuzz.targets import CORPUS, TARGETS

    words = [str(found), str(CORPUS / name), f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=10"]
    words += ["-rss_limit_mb=2048", f"-artifact_prefix={found.parent}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *words], TARGETS[name])
    atheris.Fuzz()


def blind(name: str, seconds: int, found: Path) -> None:
    """Saved inputs, changed at random, for so long."""
    from tests.fuzz.targets import CORPUS, MEMORY, TARGETS

    chance = random.Random()
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    end, num = time.monotonic() + seconds, 0
    tracemalloc.start()
    while time.monotonic() < end:
        data, num = mutated(chance, seeds), num + 1
        began = time.monotonic()
        tracemalloc.reset_peak()
        try:
            TARGETS[name](data)
            taken, lasted = tracemalloc.get_traced_memory()[1], time.monotonic() - began
            assert taken <= MEMORY, f"{taken} bytes"
            assert lasted <= _LONGEST_S, f"{lasted} seconds"
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            path = found.parent / f"{name}-crash-blind"
            path.write_bytes(data)
            traceback.print_exc()
            sys.exit(f"finding: {path}")
    print(f"{name}: {num} inputs, changed blindly (atheris is not installed: pip install 'hffnet[fuzz]')")


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One seed with some bytes flipped, cut out, doubled, or replaced by a piece of another seed."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        span = chance.randint(1, 16)
        match chance.randrange(4):
            case 0 if data:
                data[at % len(data)] ^= chance.randint(1, 255)
            case 1:
                del data[at : at + span]
            case 2:
                data[at:at] = data[at : at + span]
            case _:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at : at + span] = other[start : start + span]
    return bytes(data[:_LONGEST])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="targets; all where none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        (name,) = told.names
        found = ROOT / "build" / "fuzz" / name
        found.mkdir(parents=True, exist_ok=True)
        logging.getLogger("hffnet").addHandler(logging.NullHandler())
        logging.getLogger("hffnet").propagate = False  # a refused input is no news
        (guided if find_spec("atheris") else blind)(name, told.seconds, found)
        return
    codes = []
    for name in told.names or NAMES:  # each in a process of its own: libFuzzer ends its process
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--seconds", str(told.seconds), name]
        codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
