"""Only an engine that this machine sealed is ever handed out; everything else costs a rebuild and one line."""

import hashlib
import multiprocessing
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hffnet.runtime.engines.builder import BuildOptions, BuiltEngine
from hffnet.runtime.engines.cache import EngineCache, EngineKey
from hffnet.runtime.engines.flavour import TENSORRT_RTX, is_installed
from hffnet.runtime.engines.sidecar import Audit, Sidecar
from tests.tiny import tiny_graph

ROOT = Path(__file__).parents[2]
KEY = EngineKey(
    onnx_sha256="a" * 64, library="tensorrt-rtx", library_version="1.7.1", gpu="A4000 sm86", options=BuildOptions()
)


class Builds:
    """Counts builds; each gives other bytes, as real builds do."""

    def __init__(self, size: int = 1000, version: str = "1.7.1") -> None:
        self.count = 0
        self._size = size
        self._version = version

    def __call__(self) -> BuiltEngine:
        self.count += 1
        engine = bytes([self.count]) * self._size
        sidecar = Sidecar(
            onnx_sha256=KEY.onnx_sha256,
            engine_sha256=hashlib.sha256(engine).hexdigest(),
            engine_bytes=len(engine),
            library="tensorrt-rtx",
            library_version=self._version,
            platform="linux-x86_64",
            architectures=("sm86",),
            gpu="A4000",
            batch=(1, 1, 1),
            workspace_bytes=0,
            audit=Audit(precision="fp16", convolutions={}, products={}, layers={}),
            inputs=(),
            outputs=(),
            build_seconds=1.0,
            total_seconds=1.0,
            peak_rss_bytes=0,
            created_utc="2026-11-23T00:00:00Z",
        )
        return BuiltEngine(engine=engine, sidecar=sidecar, timing_cache=b"")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def stored_file(cache: EngineCache) -> Path:
    (path,) = cache.folder.glob("*.sealed")
    return path


def test_a_stored_engine_is_not_built_again(cache: EngineCache) -> None:
    builds = Builds()
    first, sidecar = cache.engine(KEY, builds)
    again, same_sidecar = EngineCache(cache.folder).engine(KEY, builds)
    assert builds.count == 1
    assert bytes(first) == bytes(again)
    assert sidecar == same_sidecar
    assert not list(cache.folder.glob(".*.part"))
    assert stored_file(cache).stat().st_mode & 0o077 == 0


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"sm86"', b'"sm89"'))


def _plain_engine(path: Path) -> None:
    path.write_bytes(b"vtrt" + bytes(5000))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_flip, _cut, _header, _plain_engine, _empty])
def test_damaged_files_are_rebuilt_with_one_line(
    cache: EngineCache, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    builds = Builds()
    cache.engine(KEY, builds)
    damage(stored_file(cache))
    engine, _ = cache.engine(KEY, builds)
    assert builds.count == 2
    assert bytes(engine[:1]) == b"\2"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is not used and is built anew" in line
    cache.engine(KEY, builds)
    assert builds.count == 2


def test_an_engine_of_another_machine_is_not_loaded(
    cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other, builds = EngineCache(tmp_path / "other"), Builds()
    other.engine(KEY, builds)
    cache.engine(KEY, builds)
    shutil.copy(stored_file(other), stored_file(cache))
    engine, _ = cache.engine(KEY, builds)
    assert bytes(engine[:1]) == b"\3"
    assert "not written by this user on this machine" in caplog.text


def test_an_engine_under_another_name_is_not_loaded(cache: EngineCache) -> None:
    builds = Builds()
    cache.engine(KEY, builds)
    wanted = replace(KEY, gpu="A6000 sm86")
    stored_file(cache).rename(cache.folder / f"{wanted.stem}.sealed")
    cache.engine(wanted, builds)
    assert builds.count == 2


def test_a_stale_engine_is_replaced(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    builds = Builds()
    cache.engine(KEY, builds)
    cache.engine(replace(KEY, library_version="1.8.0"), builds)
    assert builds.count == 2
    assert "stale: built by tensorrt-rtx 1.7.1, this is 1.8.0" in caplog.text
    assert len(list(cache.folder.glob("*.sealed"))) == 1


@pytest.mark.parametrize(
    "change",
    [{"onnx_sha256": "b" * 64}, {"gpu": "H200 sm90"}, {"options": BuildOptions(batch=(1, 1, 8))}],
    ids=["graph", "gpu", "options"],
)
def test_each_part_of_the_key_counts(cache: EngineCache, change: dict[str, object]) -> None:
    builds = Builds()
    cache.engine(KEY, builds)
    cache.engine(replace(KEY, **change), builds)  # type: ignore[arg-type]
    cache.engine(KEY, builds)
    assert builds.count == 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache, builds = EngineCache(tmp_path, max_bytes=25_000), Builds(size=10_000)
    for name in ("one", "two", "three"):
        cache.engine(replace(KEY, gpu=name), builds)
    assert len(list(cache.folder.glob("*.sealed"))) == 2
    cache.engine(replace(KEY, gpu="three"), builds)
    assert builds.count == 3


def test_two_threads_build_once(cache: EngineCache) -> None:
    started, go_on, results = threading.Event(), threading.Event(), list[bytes]()
    builds = Builds()

    def slow() -> BuiltEngine:
        started.set()
        go_on.wait()
        return builds()

    first = threading.Thread(target=lambda: results.append(bytes(cache.engine(KEY, slow)[0])))
    second = threading.Thread(target=lambda: results.append(bytes(EngineCache(cache.folder).engine(KEY, slow)[0])))
    first.start()
    started.wait()
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert builds.count == 1
    assert results[0] == results[1]


def _build_for_ever(folder: Path, started: "multiprocessing.synchronize.Event") -> None:
    def build() -> BuiltEngine:
        started.set()
        threading.Event().wait()
        raise AssertionError

    EngineCache(folder).engine(KEY, build)


def test_a_process_killed_while_building_blocks_nobody(cache: EngineCache) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_build_for_ever, args=(cache.folder, started))
    process.start()
    assert started.wait(30)
    process.kill()
    process.join()
    builds = Builds()
    cache.engine(KEY, builds)
    assert builds.count == 1


_KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from hffnet.runtime.engines.builder import BuildOptions, engine_from_onnx
from hffnet.runtime.engines.cache import EngineCache, EngineKey
from hffnet.runtime.engines.flavour import TENSORRT_RTX

def die(progress):
    print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

options = BuildOptions(architectures=("sm89",))
key = EngineKey(onnx_sha256="a" * 64, library="tensorrt-rtx", library_version="1", gpu="x", options=options)
onnx = Path(sys.argv[2]).read_bytes()
EngineCache(Path(sys.argv[1])).engine(key, lambda: engine_from_onnx(onnx, TENSORRT_RTX, options, progress=die))
"""


@pytest.mark.tensorrt
@pytest.mark.skipif(not is_installed(TENSORRT_RTX), reason=f"no TensorRT-RTX: {TENSORRT_RTX.install}")
def test_a_kill_in_the_middle_of_a_real_build_leaves_no_file_and_no_process(cache: EngineCache, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_graph(np.ones((1, 5))).SerializeToString())
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_BUILD, cache.folder, tmp_path / "tiny.onnx"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert killed.returncode == -signal.SIGKILL
    try:
        builder = os.pidfd_open(int(killed.stdout))
        assert select.select([builder], [], [], 30)[0], "the build process outlived the one that asked for it"
        os.close(builder)
    except ProcessLookupError:
        pass  # it is gone already
    assert [path.name for path in cache.folder.iterdir() if path.suffix != ".lock"] == []


def test_a_full_disk_costs_only_the_next_build(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    builds, limits = Builds(size=200_000), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        engine, _ = cache.engine(KEY, builds)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(engine) == 200_000
    assert "could not be stored" in caplog.text
    assert not list(cache.folder.glob("*.sealed"))
    assert not list(cache.folder.glob(".*.part"))


def _file_in_the_way(folder: Path) -> None:
    folder.write_text("")


def _open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_file_in_the_way, "cache cannot be written: File exists; "),
        (_open_to_others, "cache cannot be used: others can write to its folder (mode 777); "),
    ],
    ids=["file in the way", "open to others"],
)
def test_an_unusable_folder_is_said_and_skipped(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(tmp_path / "cache")
    builds = Builds()
    engine, _ = EngineCache(tmp_path / "cache").engine(KEY, builds)
    assert len(engine) == 1000
    assert sentence in caplog.text
    assert "HFFNET_CACHE_DIR" in caplog.text


_ASKED = """
import logging, sys
from dataclasses import replace
from pathlib import Path
logging.basicConfig(level=logging.WARNING)
from hffnet.runtime.engines.cache import EngineCache
from tests.runtime.test_engine_cache import KEY, Builds

cache, builds = EngineCache(Path(sys.argv[1])), Builds(size=1000)
held, _ = cache.engine(KEY, builds)
print(builds.count, len(held))
builds = Builds(size=200_000)
other, _ = cache.engine(replace(KEY, gpu="another"), builds)
print(builds.count, len(other))
cache.write("timing", b"new")
print(cache.read("timing"))
print(*sorted(path.name for path in cache.folder.iterdir() if path.suffix in {".sealed", ".part"}))
"""


def _asked_on_a_mount(folder: Path, mount: str) -> subprocess.CompletedProcess[str]:
    """In a namespace of its own: permissions alone do not stop root, and no disk here is to be filled."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("unshare -Urm does not work here, so nothing can be mounted")
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", f'{mount} && exec "$0" -c "$2" "$1"', sys.executable, folder, _ASKED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in (str(ROOT), *sys.path) if path)},
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_read_only_folder_serves_what_it_holds_and_says_that_it_keeps_nothing(cache: EngineCache) -> None:
    cache.engine(KEY, Builds())
    cache.write("timing", b"old")
    before = {path.name: path.read_bytes() for path in cache.folder.iterdir()}
    done = _asked_on_a_mount(cache.folder, 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"')
    assert done.stdout.splitlines()[:3] == ["0 1000", "1 200000", "b'old'"]
    assert "cannot be written: it is read-only; what it cannot serve is built anew" in done.stderr
    assert "HFFNET_CACHE_DIR" in done.stderr
    assert {path.name: path.read_bytes() for path in cache.folder.iterdir()} == before


def test_a_disk_that_is_full_keeps_what_fits(cache: EngineCache) -> None:
    cache.folder.mkdir()
    done = _asked_on_a_mount(cache.folder, 'mount -t tmpfs -o size=100k,mode=700 none "$1"')
    *answers, names = done.stdout.splitlines()
    assert answers == ["1 1000", "1 200000", "b'new'"]
    assert len(names.split()) == 2, "the small engine and the blob; nothing half-written"
    assert ".sealed could not be stored (No space left on device); it is made anew" in done.stderr


def test_a_disk_without_any_room_costs_only_builds(cache: EngineCache) -> None:
    cache.folder.mkdir()
    fill = 'mount -t tmpfs -o size=8k,mode=700 none "$1" && head -c 8192 /dev/zero > "$1/other"'
    done = _asked_on_a_mount(cache.folder, fill)
    assert done.stdout.splitlines() == ["1 1000", "1 200000", "None", ""]
    assert "No space left on device" in done.stderr


def test_nothing_is_read_from_a_folder_that_others_can_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path / "cache")
    cache.write("timing", b"sealed")
    cache.engine(KEY, Builds())
    assert cache.read("timing") == b"sealed"
    assert cache.stored(KEY, lambda _: True) is not None
    cache.folder.chmod(0o777)
    assert cache.read("timing") is None
    assert cache.stored(KEY, lambda _: True) is None
    assert "others can write" in caplog.text


def test_a_folder_where_nothing_can_be_created(caplog: pytest.LogCaptureFixture) -> None:
    engine, _ = EngineCache(Path("/proc/hffnet")).engine(KEY, Builds())
    assert len(engine) == 1000
    assert "cannot be written: No such file or directory" in caplog.text


def test_blobs_are_sealed_too(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.read("timing") is None
    cache.write("timing", b"measured")
    assert cache.read("timing") == b"measured"
    _flip(stored_file(cache))
    assert cache.read("timing") is None
    assert "will be made anew" in caplog.text
