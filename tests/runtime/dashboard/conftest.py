"""One run with its view for all tests that only look."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no fastapi: pip install 'hffnet[dashboard]'")

from tests.runtime.dashboard.stand import Stand


@pytest.fixture(scope="package")
def stand(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A running view; tests may add frames and decisions."""
    with Stand(tmp_path_factory.mktemp("stand"), bundle_path) as opened:
        opened.show("first.tif", 1)
        yield opened
