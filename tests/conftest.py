"""What every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real frames and weights, which are not part of the project."""
    folder = (ROOT / os.environ.get("HFFNET_SHARED", "../shared")).resolve()
    if not (folder / "data").is_dir():
        pytest.skip(f"no real frames: {folder}/data is absent (set HFFNET_SHARED)")
    return folder
