"""What every test may use."""

import os
from pathlib import Path

import pytest

from tests.tiny import write_tiny_bundle

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real frames and weights, which are not part of the project."""
    folder = (ROOT / os.environ.get("HFFNET_SHARED", "../shared")).resolve()
    if not (folder / "data").is_dir():
        pytest.skip(f"no real frames: {folder}/data is absent (set HFFNET_SHARED)")
    return folder


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle with the smallest real graph: any engine runs it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.hffnet")
