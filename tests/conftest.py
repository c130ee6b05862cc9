"""What every test may use."""

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def network_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle around the nano network at 64 × 64, in every precision and for both families of engines."""
    pytest.importorskip("torch", reason="no torch: pip install 'hffnet[train]'")
    from hffnet.train.model import nano_config
    from tests.networks import write_network_bundle

    config = nano_config((2, 3)).model_copy(update={"img_size": 64, "depth": 1})
    return write_network_bundle(tmp_path_factory.mktemp("network") / "nano.hffnet", config)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's cache of engines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFFNET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
