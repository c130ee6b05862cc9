"""Sources: what is offered, when, and how often. The watch folder is driven look by look, with a clock of the test."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest

from hffnet.runtime.errors import ConfigError, SourceAwayError
from hffnet.runtime.sources import FrameItem, Item, Notice, open_source, watch_folder
from hffnet.runtime.sources import folder_events as events_module
from hffnet.runtime.sources import folder_listing as listing_module
from hffnet.runtime.sources.folder_events import Happened
from tests.runtime.folder_stand import Watched, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_a_file_is_offered_at_the_second_look_and_once(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif")
    assert watched.names() == []
    assert watched.names() == ["a.tif"]
    assert watched.until_quiet() == []


def test_a_slow_copy_is_offered_only_when_complete(folder: Path) -> None:
    watched = Watched(folder)
    with (folder / "a.tif").open("wb") as file:
        for _ in range(5):
            file.write(b"chunk")
            file.flush()
            assert watched.names() == []
    assert watched.until_quiet() == ["a.tif"]


def test_a_stalled_copy_is_not_offered_while_its_writer_has_it_open(folder: Path) -> None:
    watched = Watched(folder, patience_s=5)
    with (folder / "a.tif").open("wb") as file:
        file.write(b"half")
        file.flush()
        if watch_folder.why_not_ready(folder / "a.tif") is None:
            pytest.skip("this file system grants no leases, so open files cannot be told")
        assert [watched.names() for _ in range(10)] == [[]] * 10
        file.write(b"rest")
    assert watched.until_quiet() == ["a.tif"]


def test_a_writer_that_never_closes_is_waited_for_with_patience(folder: Path) -> None:
    watched = Watched(folder, patience_s=5)
    with (folder / "a.tif").open("wb") as file:
        file.write(b"whole")
        file.flush()
        watched.until_quiet()
        (item,) = watched.look(after_s=6)
        assert item.final
        assert item.problem is None


@pytest.mark.parametrize("name", ["a.tif.part", ".a.tif", "a.tmp", "~a.tif", "a.tif~", "notes.txt", "a.part"])
def test_names_that_are_not_finished_frames_are_left_alone_until_renamed(folder: Path, name: str) -> None:
    watched = Watched(folder, pattern="*" if name != "notes.txt" else "*.tif")
    write(folder / name)
    assert watched.until_quiet() == []
    (folder / name).rename(folder / "b.TIF")
    assert watched.until_quiet() == ["b.TIF"]


def test_a_rename_while_settling_offers_the_new_name_only(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif")
    assert watched.names() == []
    (folder / "a.tif").rename(folder / "b.tif")
    assert watched.until_quiet() == ["b.tif"]


def test_a_rename_after_it_was_offered_is_not_a_new_frame(folder: Path) -> None:
    (folder / "done").mkdir()
    watched = Watched(folder, recursive=True)
    write(folder / "a.tif")
    assert watched.until_quiet() == ["a.tif"]
    (folder / "a.tif").rename(folder / "b.tif")
    assert watched.until_quiet() == []
    (folder / "b.tif").rename(folder / "done" / "b.tif")
    assert watched.until_quiet() == []


def test_equal_content_under_two_names_is_two_items(folder: Path) -> None:
    watched = Watched(folder)
    shutil.copy2(write(folder / "a.tif"), folder / "b.tif")
    assert watched.until_quiet() == ["a.tif", "b.tif"]


def test_a_rewritten_file_is_offered_again(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif", b"first")
    assert watched.until_quiet() == ["a.tif"]
    write(folder / "a.tif", b"second version")
    assert watched.until_quiet() == ["a.tif"]


def test_a_file_deleted_before_it_settled_is_forgotten(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif").unlink()
    write(folder / "b.tif")
    watched.look()
    (folder / "b.tif").unlink()
    assert watched.until_quiet() == []


def test_links_and_pipes_are_never_offered(folder: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif")
    (folder / "link.tif").symlink_to(secret)
    (folder / "sub").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.tif")
    assert Watched(folder, recursive=True).until_quiet() == []


def test_a_file_swapped_for_a_link_while_waiting_is_not_handed_over(folder: Path, tmp_path: Path) -> None:
    watched = Watched(folder)
    secret = write(tmp_path / "secret.tif")
    write(folder / "a.tif")
    watched.look()
    watched.now += 0.1
    (item,) = watched.source.scan()
    (folder / "a.tif").unlink()
    (folder / "a.tif").symlink_to(secret)
    assert not watched.source._hand_over(item)
    assert watched.until_quiet() == []


def test_files_that_are_there_already_come_oldest_first(folder: Path) -> None:
    for age, name in enumerate(("c.tif", "a.tif", "b.tif")):
        os.utime(write(folder / name), (100 + age, 100 + age))
    assert Watched(folder).until_quiet() == ["c.tif", "a.tif", "b.tif"]


def test_a_restart_goes_on_where_it_stopped(folder: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write(folder / name)
    done = (folder / "a.tif").lstat()
    watched = Watched(folder, is_done=lambda path, stamp: path.name == "a.tif" and stamp.size == done.st_size)
    assert watched.until_quiet() == ["b.tif"]


def test_more_files_than_one_look_takes_all_come_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MOST_NEW", 10)
    monkeypatch.setattr(listing_module, "_CHUNK", 7)
    names = [f"{n:03}.tif" for n in range(64)]
    for n, name in enumerate(names):
        os.utime(write(folder / name), (n, n))
    watched = Watched(folder)
    assert [name for _ in range(20) for name in watched.names()] == names


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, -1.8e9], ids=["1 h forward", "1 h back", "to 1970"])
def test_a_clock_that_is_set_neither_loses_nor_repeats_a_file(folder: Path, jump_s: float) -> None:
    wall = [1.8e9]
    watched = Watched(folder)
    watched.source._wall_clock = lambda: wall[0]
    os.utime(write(folder / "a.tif"), (wall[0], wall[0]))
    assert watched.until_quiet() == ["a.tif"]
    os.utime(write(folder / "b.tif"), (wall[0], wall[0]))
    assert watched.names() == []
    wall[0] += jump_s
    os.utime(write(folder / "c.tif"), (wall[0], wall[0]))
    found = watched.until_quiet()
    assert sorted(found) == ["b.tif", "c.tif"]
    assert watched.until_quiet() == []


def test_subfolders_are_watched_when_asked(folder: Path) -> None:
    (folder / "day1" / "deep").mkdir(parents=True)
    write(folder / "day1" / "deep" / "a.tif")
    assert Watched(folder).until_quiet() == []
    watched = Watched(folder, recursive=True)
    assert watched.until_quiet() == ["day1/deep/a.tif"]
    (folder / "day2").mkdir()
    write(folder / "day2" / "b.tif")
    assert watched.until_quiet() == ["day2/b.tif"]


def test_a_locked_file_is_retried_and_then_offered_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    watched = Watched(folder, patience_s=5)
    write(folder / "a.tif")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert watched.until_quiet() == []
        (item,) = watched.look(after_s=6)
    assert item.problem == "locked or not permitted: Permission denied"


def test_a_lock_that_is_released_leaves_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(folder)
    write(folder / "a.tif")
    with monkeypatch.context() as patch:
        patch.setattr(watch_folder, "why_not_ready", lambda _path: "locked")
        assert watched.until_quiet() == []
    (item,) = watched.look()
    assert item.problem is None


def test_an_unreadable_file_comes_again_when_it_changed_or_as_final(folder: Path) -> None:
    watched = Watched(folder, patience_s=5)
    write(folder / "a.tif", b"half")
    watched.look()
    (item,) = watched.look()
    assert watched.source.retry(item)
    assert watched.until_quiet() == []
    write(folder / "a.tif", b"half and more")
    watched.look()
    (item,) = watched.look()
    assert watched.source.retry(item)
    (item,) = watched.look(after_s=6)
    assert item.final
    assert not watched.source.retry(item)
    assert watched.until_quiet() == []


def test_a_folder_that_vanishes_and_returns_is_watched_again(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif")
    assert watched.until_quiet() == ["a.tif"]
    folder.rename(folder.with_name("away"))
    assert watched.until_quiet() == []
    folder.with_name("away").rename(folder)
    write(folder / "b.tif")
    assert watched.until_quiet() == ["b.tif"]


def test_stop_ends_the_waiting_at_once(folder: Path) -> None:
    stop, source = Event(), open_source(f"dir:{folder}?poll_s=3600")
    thread = Thread(target=lambda: list(source.items(stop)))
    thread.start()
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


class Followed:
    """A watched folder that looks by itself once in an hour: what comes sooner, events brought."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.items = Queue[str]()
        self.stop = Event()
        self.source = open_source(f"dir:{folder}?poll_s=3600&settle_s=0.01{options}")
        self.thread = Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        for item in self.source.items(self.stop):
            assert isinstance(item, Item)
            self.items.put(item.name)

    def close(self) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def followed(folder: Path) -> Iterator[Followed]:
    write(folder / "first.tif")
    opened = Followed(folder)
    assert opened.items.get(timeout=10) == "first.tif"
    yield opened
    opened.close()


def test_events_bring_the_look_forward(followed: Followed, folder: Path) -> None:
    write(folder / "a.tif")
    assert followed.items.get(timeout=10) == "a.tif"
    write(folder / ".b.part").rename(folder / "b.tif")
    assert followed.items.get(timeout=10) == "b.tif"
    write(folder / "a.tif", b"another")
    assert followed.items.get(timeout=10) == "a.tif"


def test_a_rewritten_file_that_an_event_told_of_is_offered_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "_LOOKED_AT_AGAIN", 0)  # as in a large folder: its turn comes later
    watched = Watched(folder)
    write(folder / "a.tif")
    assert watched.until_quiet() == ["a.tif"]
    write(folder / "a.tif", b"another")
    watched.source._happened({folder: Happened(came={"a.tif"})})
    assert watched.until_quiet() == ["a.tif"]
    monkeypatch.setattr(listing_module, "_LOOKED_AT_AGAIN", 256)
    assert watched.until_quiet() == []


def test_a_rename_told_by_an_event_is_no_new_frame(followed: Followed, folder: Path) -> None:
    (folder / "first.tif").rename(folder / "renamed.tif")
    write(folder / "next.tif")
    assert followed.items.get(timeout=10) == "next.tif"
    assert followed.items.empty()


def test_in_a_large_folder_events_do_without_looking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "_CHEAP", 0)
    monkeypatch.setattr(listing_module, "PAUSE", 1e9)
    monkeypatch.setattr(listing_module, "PAUSE_WHEN_CHANGED", 1e9)
    write(folder / "old.tif")
    followed = Followed(folder)
    try:
        assert followed.items.get(timeout=10) == "old.tif"
        write(folder / "a.tif")
        assert followed.items.get(timeout=10) == "a.tif"
        (folder / "a.tif").rename(folder / "b.tif")
        write(folder / "c.tif")
        assert followed.items.get(timeout=10) == "c.tif"
    finally:
        followed.close()


def test_without_events_the_folder_is_looked_at_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_CLOSE_WRITE", 1 << 31)  # not an event: the system refuses to follow
    monkeypatch.setattr(events_module, "_MOVED_TO", 0)
    monkeypatch.setattr(events_module, "_MOVED_FROM", 0)
    source, stop = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0"), Event()
    items = source.items(stop)
    write(folder / "a.tif")
    assert next(items).name == "a.tif"  # type: ignore[union-attr]
    write(folder / "b.tif")
    assert next(items).name == "b.tif"  # type: ignore[union-attr]


def test_idle_exit_ends_after_everything_was_offered(folder: Path) -> None:
    write(folder / "a.tif")
    source = open_source(f"dir:{folder}?poll_s=0.01&settle_s=0", idle_exit_s=0.0)
    assert offered(source.items(Event())) == ["a.tif"]


def offered(items: Iterator[Item | FrameItem | Notice]) -> list[str]:
    return [item.path.name for item in items if isinstance(item, Item)]


def test_a_glob_is_finite_sorted_and_skips_what_is_done(folder: Path) -> None:
    for name in ("b.tif", "a.tif", "c.png"):
        write(folder / name)
    (folder / "link.tif").symlink_to(folder / "a.tif")
    assert offered(open_source(f"glob:{folder}/*.tif").items(Event())) == ["a.tif", "b.tif"]
    source = open_source(f"glob:{folder}/*.tif", is_done=lambda path, _stamp: path.name == "a.tif")
    assert offered(source.items(Event())) == ["b.tif"]


def test_one_file_is_a_source_whatever_its_name(folder: Path) -> None:
    write(folder / "odd[1]*.tif")
    assert offered(open_source(str(folder / "odd[1]*.tif")).items(Event())) == ["odd[1]*.tif"]


@pytest.mark.parametrize(
    ("uri", "error", "sentence"),
    [
        pytest.param("rtps://camera", ConfigError, "expected dir:FOLDER", id="unknown scheme"),
        pytest.param("dir:{}?patern=*.tif", ConfigError, "it takes pattern", id="unknown option"),
        pytest.param("dir:{}?poll_s=0", ConfigError, "poll_s", id="option out of range"),
        pytest.param("dir:{}?pattern=,", ConfigError, "is empty", id="empty pattern"),
        pytest.param("dir:{}/absent", SourceAwayError, "create or mount it", id="absent folder"),
        pytest.param("{}/absent.tif", SourceAwayError, "neither a folder nor a file", id="absent file"),
        pytest.param("glob:{}/*.tif", SourceAwayError, "no file matches", id="nothing matches"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(folder: Path, uri: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        open_source(uri.format(folder))


def test_a_frame_waits_for_its_late_sidecar_and_not_for_ever(folder: Path) -> None:
    watched = Watched(folder, sidecar_s=5)
    write(folder / "a.tif")
    write(folder / "b.tif")
    assert [watched.names() for _ in range(10)] == [[]] * 10
    write(folder / "a.txt", b"$CM_MAG 100")
    assert watched.names() == []
    write(folder / "a.txt", b"$CM_MAG 100\n$$SM_MICRON_BAR 100")
    assert watched.names() == []
    assert watched.names() == ["a.tif"]
    assert [name for _ in range(60) for name in watched.names()] == ["b.tif"]


def test_where_one_frame_had_a_sidecar_the_next_waits_for_its_own(folder: Path) -> None:
    watched = Watched(folder)
    write(folder / "a.tif")
    assert watched.until_quiet() == ["a.tif"]  # no text was ever seen here
    write(folder / "b.txt", b"$CM_MAG 100")
    write(folder / "b.tif")
    assert watched.until_quiet() == ["b.tif"]
    write(folder / "c.tif")
    assert [watched.names() for _ in range(10)] == [[]] * 10
    write(folder / "c.txt", b"$CM_MAG 100")
    assert [watched.names(), watched.names()] == [[], ["c.tif"]]
    write(folder / "d.tif")
    assert [name for _ in range(30) for name in watched.names()] == ["d.tif"]  # not for ever
