"""Thousands of sub-folders, backlogs, folders that cannot be read: bounded work, bounded memory, nothing left out."""

import logging
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest

from hffnet.runtime.errors import RecordError
from hffnet.runtime.sources import FileStamp, Item, open_source, watch_folder
from hffnet.runtime.sources import folder_listing as listing_module
from hffnet.runtime.sources import folder_rounds as rounds_module
from hffnet.runtime.sources.folder_events import FolderEvents, Happened
from hffnet.runtime.sources.folder_listing import FolderListing
from tests.runtime.folder_stand import Watched, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def counting(monkeypatch: pytest.MonkeyPatch, method: str) -> Counter[Path]:
    """How often a method of a listing was called, by its folder."""
    num, whole = Counter[Path](), getattr(FolderListing, method)

    def counted(listing: FolderListing, now: float) -> object:
        num[listing.path] += 1
        return whole(listing, now)

    monkeypatch.setattr(FolderListing, method, counted)
    return num


def test_many_folders_take_turns_within_one_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        (folder / f"{n:02d}").mkdir()
    watched = Watched(folder, recursive=True)
    visits = counting(monkeypatch, "is_due")
    watched.look()
    assert len(visits) == 51  # the first pass reaches all of them
    seconds = iter(range(10**6))
    monkeypatch.setattr(rounds_module, "monotonic", lambda: next(seconds) * 1e-3)  # a visit takes 1 ms
    watched.look(after_s=60)  # now all are quiet
    visits.clear()
    for _ in range(100):
        watched.look()
    # 10 s, of which a twentieth is for quiet folders: about 500 visits, and every folder has had its share of them.
    assert 300 < sum(visits.values()) < 600
    assert max(visits.values()) - min(visits.values()) <= 1
    write(folder / "37" / "a.tif")
    assert [name for _ in range(20) for name in watched.names()] == ["37/a.tif"]


def test_a_folder_is_followed_once_and_anew_when_another_takes_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed, follow = Counter[Path](), FolderEvents.follow

    def counted(events: FolderEvents, path: Path) -> None:
        followed[path] += 1
        follow(events, path)

    monkeypatch.setattr(FolderEvents, "follow", counted)
    (folder / "sub").mkdir()
    found, stop = Queue[str](), Event()
    source = open_source(f"dir:{folder}?recursive=1&poll_s=0.01&settle_s=0.02")
    thread = Thread(target=lambda: [found.put(item.name) for item in source.items(stop) if isinstance(item, Item)])
    thread.start()
    try:
        for name in ("a.tif", "sub/b.tif", "c.tif"):
            write(folder / name)
            assert found.get(timeout=10) == name
        assert followed == {folder: 1, folder / "sub": 1}
        (folder / "sub").rename(folder.parent / "away")
        (folder / "sub").mkdir()
        write(folder / "sub" / "d.tif")
        assert found.get(timeout=10) == "sub/d.tif"
        assert followed == {folder: 1, folder / "sub": 2}
    finally:
        stop.set()
        thread.join()


def test_what_is_waited_for_is_bounded_over_all_folders_and_comes_oldest_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MOST_NEW", 10)
    monkeypatch.setattr(listing_module, "_CHUNK", 7)
    names = [f"{n % 5}/{n:03d}.tif" for n in range(150)]
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        os.utime(write(folder / name), (n, n))
    watched, came = Watched(folder, recursive=True), list[str]()
    for _ in range(40):
        came += watched.names()
        assert len(watched.source._pending) <= 10
    assert came == names
    assert watched.source._has_seen_all()


def test_files_of_one_age_and_files_that_events_told_of_find_room_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MOST_NEW", 10)
    names = {f"{n:03d}.tif" for n in range(60)}
    for name in names:
        os.utime(write(folder / name), (7, 7))
    watched, came = Watched(folder), list[str]()
    watched.look()
    write(folder / "told.tif")
    watched.source._happened({folder: Happened(came={"told.tif", "000.tif"})})
    assert len(watched.source._pending) <= 10
    came = [name for _ in range(20) for name in watched.names()]
    assert Counter(came) == Counter([*names, "told.tif"])


def test_files_that_wait_may_be_deleted_renamed_and_rewritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MOST_NEW", 4)
    for n in range(12):
        os.utime(write(folder / f"{n:02d}.tif"), (n, n))
    watched = Watched(folder)
    watched.look()
    (folder / "08.tif").unlink()
    (folder / "09.tif").rename(folder / "nine.tif")
    write(folder / "10.tif", b"another")
    came = [name for _ in range(12) for name in watched.names()]
    assert came == [*(f"{n:02d}.tif" for n in range(8)), "nine.tif", "11.tif", "10.tif"]


def test_a_backlog_is_not_asked_for_again_and_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MOST_NEW", 10)
    for n in range(200):
        os.utime(write(folder / f"{n:03d}.tif"), (n, n))
    asked, looks = Counter[str](), counting(monkeypatch, "look")

    def is_done(path: Path, _stamp: FileStamp) -> bool:
        asked[path.name] += 1
        return False

    watched = Watched(folder, is_done)
    came = [name for _ in range(60) for name in watched.names()]
    assert len(came) == 200
    assert max(asked.values()) <= 3  # at the first look, and when its turn comes
    assert looks[folder] <= 60


def refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], None]:
    """Nobody may read folders of that name; the result takes it back."""
    scandir = os.scandir

    def scan(path: Path) -> "Iterator[os.DirEntry[str]]":
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return lambda: monkeypatch.setattr(os, "scandir", scandir)


def test_a_sub_folder_that_cannot_be_read_is_told_once_and_hides_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "lost+found", "z"):
        (folder / name).mkdir()
        write(folder / name / "one.tif")
    permit = refusing(monkeypatch, "lost+found")
    watched = Watched(folder, recursive=True)
    with caplog.at_level(logging.WARNING):
        assert sorted(name for _ in range(10) for name in watched.names()) == ["a/one.tif", "z/one.tif"]
        write(folder / "new.tif")
        assert watched.until_quiet() == ["new.tif"]
    (said,) = caplog.messages
    assert "lost+found cannot be read" in said
    assert "Permission denied" in said
    assert watched.source._has_seen_all()  # a run that ends by itself does not wait for it
    permit()
    with caplog.at_level(logging.WARNING):
        assert watched.until_quiet() == ["lost+found/one.tif"]
    assert len(caplog.messages) == 2
    assert "can be read" in caplog.messages[1]


def test_a_sub_folder_that_may_not_be_read_any_more_keeps_what_was_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a").mkdir()
    write(folder / "a" / "one.tif")
    watched = Watched(folder, recursive=True)
    assert watched.until_quiet() == ["a/one.tif"]
    permit = refusing(monkeypatch, "a")
    write(folder / "a" / "two.tif")
    assert watched.until_quiet() == []
    permit()
    assert watched.until_quiet() == ["a/two.tif"]
    assert len(caplog.messages) == 2


def test_folders_may_be_nested_a_thousand_deep(folder: Path) -> None:
    place = folder
    try:
        for _ in range(1000):
            place /= "d"
            place.mkdir()
        write(place / "a.tif")
        watched = Watched(folder, recursive=True)
        (name,) = watched.until_quiet()
        assert name.count("/") == 1000
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # shutil and so pytest cannot go as deep


def test_records_that_cannot_be_asked_put_a_look_off_and_end_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_away = [True]

    def is_done(_path: Path, _stamp: FileStamp) -> bool:
        if is_away[0]:
            raise RecordError("records.sqlite cannot be read (disk I/O error)")
        return False

    watched = Watched(folder, is_done)
    write(folder / "a.tif")
    assert watched.until_quiet() == []
    is_away[0] = False
    assert watched.until_quiet() == ["a.tif"]
    is_away[0] = True
    write(folder / "b.tif")
    watched.source._happened({folder: Happened(came={"b.tif"})})
    is_away[0] = False
    assert watched.until_quiet() == ["b.tif"]
    assert "disk I/O error" in caplog.messages[0]


def test_what_the_records_hold_is_not_offered_again_however_it_comes_back(folder: Path) -> None:
    done = set[tuple[Path, int, int]]()
    watched = Watched(folder, lambda path, stamp: (path, stamp.size, stamp.mtime_ns) in done, recursive=True)

    def take() -> list[str]:
        items = [item for _ in range(4) for item in watched.look()]
        done.update((item.path, item.stamp.size, item.stamp.mtime_ns) for item in items)
        return sorted(item.name for item in items)

    (folder / "sub").mkdir()
    for name in ("a.tif", "sub/b.tif", "c.tif"):
        write(folder / name)
    assert take() == ["a.tif", "c.tif", "sub/b.tif"]
    # A share that was away: an empty mount point for a while, then all names again.
    away = folder.with_name("away")
    folder.rename(away)
    folder.mkdir()
    watched.look()
    watched.now += 60
    assert take() == []
    folder.rmdir()
    away.rename(folder)
    assert take() == []
    # Another inode, as network shares give after they were mounted again, and a file that was out and is back.
    shutil.copy2(folder / "a.tif", folder / ".a")
    (folder / ".a").rename(folder / "a.tif")
    (folder / "c.tif").rename(folder.parent / "c.tif")
    assert take() == []
    watched.now += 60
    assert take() == []
    (folder.parent / "c.tif").rename(folder / "c.tif")
    watched.source._happened({folder: Happened(came={"a.tif", "c.tif"})})
    assert take() == []
    write(folder / "a.tif", b"another")
    assert take() == ["a.tif"]


# At a start, files that are old by their times have waited already; the clock that wrote the times may be a server's.
_LATER_S = 3600.0


@pytest.mark.parametrize("content", [b"", b"frame"], ids=["empty", "locked"])
def test_what_cannot_be_read_and_is_old_at_the_start_is_final_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(watch_folder, "why_not_ready", lambda _path: "locked or not permitted: Permission denied")
    path = write(folder / "a.tif", content)
    watched = Watched(folder, wall=path.stat().st_ctime + _LATER_S)
    assert watched.names() == []
    (item,) = watched.look()
    assert item.final


def test_a_file_that_comes_later_has_not_waited_whatever_its_times_say(folder: Path) -> None:
    watched = Watched(folder, wall=folder.stat().st_ctime + _LATER_S)
    watched.look()
    write(folder / "a.tif", b"")
    assert watched.until_quiet() == []
    assert watched.names(after_s=11) == ["a.tif"]


def test_a_clock_that_is_wrong_does_not_shorten_the_settling_of_a_copy(folder: Path) -> None:
    """A copy under way at the start, on a server whose clock is an hour behind: two looks 10 ms apart say nothing."""
    path = write(folder / "a.tif", b"half")
    watched = Watched(folder, wall=path.stat().st_ctime + _LATER_S)
    assert [watched.names(after_s=0.01) for _ in range(5)] == [[]] * 5
    write(path, b"half and more")
    assert [watched.names(after_s=0.01) for _ in range(5)] == [[]] * 5
    (item,) = watched.look()
    assert not item.final  # it changed since, so that it cannot be read may pass
    assert watched.source.retry(item)
    assert watched.until_quiet() == []


def test_a_file_that_is_seen_open_for_writing_is_waited_for_whatever_its_times_say(folder: Path) -> None:
    with (folder / "a.tif").open("wb") as file:
        file.write(b"half")
        file.flush()
        if watch_folder.why_not_ready(folder / "a.tif") is None:
            pytest.skip("this file system grants no leases, so open files cannot be told")
        watched = Watched(folder, wall=(folder / "a.tif").stat().st_ctime + _LATER_S)
        assert watched.until_quiet() == []


def test_content_that_is_young_speaks_against_having_waited(folder: Path) -> None:
    """FAT keeps when a file was made, not when its state changed."""
    path = write(folder / "a.tif", b"")
    changed = path.stat().st_ctime
    os.utime(path, (changed + _LATER_S, changed + _LATER_S))
    assert Watched(folder, wall=changed + _LATER_S).until_quiet() == []
