"""Every saved input of the fuzzers ends in a result or in a sentence, within its memory."""

import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, MEMORY, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_saved_inputs_break_nothing(name: str) -> None:
    inputs = sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
    assert len(inputs) >= 10, f"{CORPUS / name} lacks its saved inputs"
    findings = list[str]()
    tracemalloc.start()
    try:
        for path in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            _replay(name, path, findings)
            taken = tracemalloc.get_traced_memory()[1] - before
            if taken > MEMORY:
                findings.append(f"{path.name} takes {taken} bytes")
    finally:
        tracemalloc.stop()
    assert not findings


def _replay(name: str, path: Path, findings: list[str]) -> None:
    try:
        TARGETS[name](path.read_bytes())
    except Exception as error:  # noqa: BLE001 - all findings in one go
        findings.append(f"{path.name}: {error!r}")
