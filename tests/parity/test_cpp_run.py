"""``hffnet-run-cpp``: the rows that ``hffnet run --jsonl -`` writes, each frame once, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.record import GENESIS, JSON_FIELDS, RECORD_FIELDS, Json, canonical_json
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_chain import why_broken
from hffnet.runtime.run_settings import settings_of_run
from hffnet.runtime.sinks.jsonl_sink import JsonlSink
from hffnet.runtime.sources import Item, open_source
from tests.parity.conftest import CppRuntime
from tests.parity.test_cpp_programs import same

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime

OWN = {"seq", "created_utc", "timings_ms", "hffnet_version", "prev_hash", "hash"}
"""What two runs have of their own."""

FAST = "poll_s=0.02&settle_s=0.01&patience_s=0.3"


def picture(seed: int) -> GreyPixels:
    noise = np.random.default_rng(seed).integers(0, 256, (90, 120), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1 + seed % 3), np.uint8)


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(seed))
    return path


def rows_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def names_in(text: str) -> list[str]:
    return [row["name"] for row in rows_in(text)]


def assert_chain(rows: list[dict[str, Any]]) -> None:
    """Python's own reader finds every row sound and in its place."""
    head = GENESIS
    for seq, document in enumerate(rows, start=1):
        stored: dict[str, Json] = {
            name: canonical_json(document[name])
            if name in JSON_FIELDS and document[name] is not None
            else document[name]
            for name in RECORD_FIELDS
        }
        assert why_broken(stored, seq, head) is None
        head = document["hash"]


@pytest.fixture(scope="module")
def program(cpp: CppRuntime) -> Path:
    return cpp.build / "runtime" / "cpp" / "hffnet-run-cpp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


def run_once(program: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [program, "--once", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done


@contextmanager
def running(program: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_row(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    row: dict[str, Any] = json.loads(line)
    return row


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_rows_are_those_of_python(program: Path, bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    """A fine frame, one in a sub-folder, one a gate refuses, one that is no frame, a name that is not UTF-8."""
    write(folder / "a.tif", 1)
    write(folder / "below" / "b.png", 2)
    cv2.imwrite(str(folder / "c blank.png"), np.full((90, 120), 7, np.uint8))
    (folder / "d.tif").write_text("no frame")
    shutil.copy(os.fsencode(folder / "a.tif"), os.fsencode(folder) + b"/e\xff\xe9.tif")
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        os.utime(path, (1e9 + number, 1e9 + number))
    uri = f"dir:{folder}?recursive=1&{FAST}"
    found = rows_in(run_once(program, bundle_path, uri).stdout)
    with Classifier.open(bundle_path, engine="openvino") as classifier, RecordStore.open(tmp_path / "r") as store:
        source = open_source(uri, idle_exit_s=0.0)
        settings, sink = settings_of_run("auto", "auto"), JsonlSink(tmp_path / "rows.jsonl")
        run_pipeline(source, classifier, store, [sink], settings_sha256=settings, stop=Event())
    expected = rows_in((tmp_path / "rows.jsonl").read_text())
    assert [row["status"] for row in found].count("classified") == 3
    assert len(found) == len(expected) == 5
    # What cannot be read comes after a wait, and where that is depends on how long ago the test wrote it.
    for row, reference in zip(*(sorted(rows, key=itemgetter("name")) for rows in (found, expected)), strict=True):
        assert list(row) == list(reference)
        assert list(row["timings_ms"]) == list(reference["timings_ms"])
        if row["status"] == "failed":
            reference["reason"] = row["reason"]  # the sentence is each decoder's own
            assert "d.tif" in row["reason"]
        # Which earlier row has the same bytes takes a records file, which the C++ program does not keep.
        same_as = (reference["details"] or {}).pop("same_as", None)
        assert (same_as is not None) == row["name"].startswith("e")
        own = [{key: value for key, value in one.items() if key not in OWN} for one in (row, reference)]
        same(own[0], own[1])
    assert_chain(found)


def test_a_restarted_run_goes_on_where_it_stopped(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    rows, uri = tmp_path / "rows.jsonl", f"dir:{folder}?{FAST}"
    write(folder / "a.png", 1)
    run_once(program, "--jsonl", rows, bundle_path, uri)
    write(folder / "b.png", 2)
    with rows.open("a") as file:
        file.write('{"schema_version":1,"torn')  # a crash in mid-line
    run_once(program, "--jsonl", rows, bundle_path, uri)
    write(folder / "a.png", 3)  # a new version of a file that was done
    run_once(program, "--jsonl", rows, bundle_path, uri)
    assert names_in(rows.read_text()) == ["a.png", "b.png", "a.png"]
    assert_chain(rows_in(rows.read_text()))


def test_a_name_that_is_not_utf8_is_known_again(program: Path, bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    frame = write(tmp_path / "frame.tif", 1)
    shutil.copy(os.fsencode(frame), os.fsencode(folder) + b"/e\xff\xe9.tif")
    words = ("--jsonl", tmp_path / "rows.jsonl", bundle_path, f"dir:{folder}?{FAST}")
    run_once(program, *words)
    assert "no frames" in run_once(program, *words).stderr
    assert names_in((tmp_path / "rows.jsonl").read_text()) == ["e\\xff\\xe9.tif"]


def test_two_dots_behind_a_link_are_taken_as_python_takes_them(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "far" / "below").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "far" / "below")
    write(tmp_path / "far" / "a.png")
    uri = f"dir:{folder}/./link/..?{FAST}"
    (row,) = rows_in(run_once(program, bundle_path, uri).stdout)
    (item,) = open_source(uri, idle_exit_s=0.0).items(Event())
    assert isinstance(item, Item)
    assert row["input_path"] == str(item.path)


def test_a_closed_standard_output_is_told_and_nothing_is_written_elsewhere(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    write(folder / "a.png")
    shell = ["sh", "-c", 'exec "$0" "$@" <&- >&-', str(program), "--once"]
    done = subprocess.run([*shell, str(bundle_path), str(folder)], stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 3
    assert b"standard output is closed" in done.stderr
    words = ["--jsonl", str(tmp_path / "rows"), str(bundle_path), f"dir:{folder}?{FAST}"]
    subprocess.run([*shell, *words], check=True, timeout=60)
    assert names_in((tmp_path / "rows").read_text()) == ["a.png"]


def test_rows_go_into_a_named_pipe(program: Path, bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    write(folder / "a.png")
    os.mkfifo(tmp_path / "rows")
    with running(program, "--once", "--jsonl", tmp_path / "rows", bundle_path, f"dir:{folder}?{FAST}") as process:
        assert names_in((tmp_path / "rows").read_text()) == ["a.png"]
        assert process.wait(10) == 0


def test_stdout_kept_in_a_file_is_gone_on_with_too(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    rows, uri = tmp_path / "rows.jsonl", f"dir:{folder}?{FAST}"
    write(folder / "a.png", 1)
    rows.touch()
    for name in ("b.png", "c.png"):
        with rows.open("a") as file:
            words = [str(program), "--once", "--done", str(rows), str(bundle_path), uri]
            subprocess.run(words, stdout=file, stderr=subprocess.DEVNULL, check=True, timeout=60)
        with rows.open("a") as file:
            file.write('{"torn')
        write(folder / name, 2)
    assert names_in(run_once(program, "--done", rows, bundle_path, uri).stdout) == ["c.png"]
    lines = rows.read_text().splitlines()[:-1]
    assert [json.loads(line)["name"] for line in lines] == ["a.png", "b.png"]
    assert_chain([json.loads(line) for line in lines])


def test_killed_again_and_again_it_loses_and_repeats_nothing(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    rows, uri = tmp_path / "rows.jsonl", f"dir:{folder}?{FAST}"
    for number in range(30):
        write(folder / f"{number}.png", number)
    rows.touch()
    for lines in (3, 9, 16):
        with running(program, "--jsonl", rows, bundle_path, uri) as process:
            until(lambda lines=lines: rows.read_bytes().count(b"\n") >= lines)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
    run_once(program, "--jsonl", rows, bundle_path, uri)
    assert sorted(names_in(rows.read_text())) == sorted(f"{number}.png" for number in range(30))
    assert_chain(rows_in(rows.read_text()))


def test_a_second_run_does_not_write_to_the_same_file(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    write(folder / "a.png")
    with running(program, "--jsonl", rows, bundle_path, f"dir:{folder}?{FAST}"):
        until(lambda: rows.exists() and rows.stat().st_size > 0)
        assert "another run" in run_once(program, "--jsonl", rows, bundle_path, folder, code=3).stderr


def test_a_slow_copy_is_classified_when_it_is_complete_and_once(
    program: Path, bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    """In pieces, renamed at the end, pre-allocated: never early. A writer that is gone half way: with its reason."""
    data = write(tmp_path / "whole.tif", 4).read_bytes()
    with running(program, bundle_path, f"dir:{folder}?poll_s=0.02&settle_s=0.01&patience_s=1") as process:
        with (folder / "slow.tif").open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                write(folder / f"mark{start}.png", start)  # its row shows that slow.tif was looked at meanwhile
                assert next_row(process)["name"] == f"mark{start}.png"
        assert next_row(process)["name"] == "slow.tif"
        (folder / "copied.tif.part").write_bytes(data)
        (folder / "copied.tif.part").rename(folder / "copied.tif")
        row = next_row(process)
        assert (row["name"], row["status"]) == ("copied.tif", "classified")
        (folder / "zeros.tif").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
        (folder / "half.tif").write_bytes(data[: len(data) // 2])
        found = {row["name"]: row for row in (next_row(process), next_row(process))}
        assert found["half.tif"]["status"] == "failed"
        assert "half.tif" in found["half.tif"]["reason"]
        assert found["zeros.tif"]["status"] != "classified"


def test_a_signal_finishes_what_is_in_hand(program: Path, bundle_path: Path, folder: Path) -> None:
    write(folder / "a.png")
    with running(program, bundle_path, f"dir:{folder}?{FAST}") as process:
        assert next_row(process)["name"] == "a.png"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_second_signal_ends_a_run_that_hangs_at_once(program: Path, bundle_path: Path, folder: Path) -> None:
    os.mkfifo(folder / "rows")  # nobody reads it: opening it waits for ever
    with running(program, "--jsonl", folder / "rows", bundle_path, f"dir:{folder}?{FAST}") as process:
        until(lambda: has_handler(process.pid))
        process.send_signal(signal.SIGTERM)
        until(lambda: not pending_signals(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 5
        assert process.stderr is not None
        assert "second signal" in process.stderr.read()


def has_handler(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def pending_signals(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("ShdPnd", "SigPnd")))


def test_a_reader_that_closes_the_pipe_ends_the_run(program: Path, bundle_path: Path, folder: Path) -> None:
    for number in range(3):
        write(folder / f"{number}.png", number)
    process = subprocess.Popen(
        [program, bundle_path, f"dir:{folder}?{FAST}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 5
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["BUNDLE"], 2, "usage"),
        (["--surprise", "1", "BUNDLE", "."], 2, "--surprise"),
        (["--seconds", "1", "BUNDLE", "."], 2, "--seconds"),
        (["--idle-exit", "-1", "BUNDLE", "."], 2, "--idle-exit"),
        (["BUNDLE", "dir:.?colour=1"], 2, "pattern, poll_s"),
        (["BUNDLE", "dir:.?poll_s=0"], 2, "poll_s"),
        (["BUNDLE", "dir:.?pattern=,"], 2, "pattern"),
        (["BUNDLE", "dir:.?events=maybe"], 2, "events"),
        (["--done", "/tmp", "BUNDLE", "."], 3, "cannot be read to its end"),
        (["BUNDLE", "ftp://host"], 2, "v4l2:"),
        (["BUNDLE", "absent"], 2, "is not a folder"),
        (["BUNDLE", "dir:absent"], 3, "create it"),
        (["absent.hffnet", "."], 3, "absent.hffnet"),
        (["--jsonl", "absent/rows", "BUNDLE", "."], 3, "cannot be opened"),
        (["--done", "/etc/passwd", "BUNDLE", "."], 3, "line 1"),
        (["--engine", "abacus", "BUNDLE", "."], 4, "abacus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_told(program: Path, bundle_path: Path, words: list[str], code: int, sentence: str) -> None:
    words = [str(bundle_path) if word == "BUNDLE" else word for word in words]
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr


@pytest.fixture(scope="module")
def live(program: Path) -> Path:
    capture = program.with_name("hffnet-capture-cpp")
    if not capture.exists():
        pytest.skip("no live sources in this build: libgstreamer-plugins-base1.0-dev is not installed")
    if (
        shutil.which("gst-inspect-1.0")
        and subprocess.run(["gst-inspect-1.0", "videotestsrc"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no gstreamer1.0-plugins-base: no test pictures")
    return program


def snow(fps: int = 50, depth: str = "GRAY8") -> str:
    caps = f"video/x-raw,format={depth},width=160,height=120,framerate={fps}/1"
    return f"gst:videotestsrc is-live=true pattern=snow ! {caps}"


@pytest.mark.parametrize("depth", ["GRAY8", "GRAY16_LE", "BGR"])
def test_live_frames_are_classified_newest_first(live: Path, bundle_path: Path, depth: str) -> None:
    with running(live, bundle_path, snow(depth=depth)) as process:
        rows = [next_row(process) for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert_chain(rows)
    assert [row["details"]["live"]["index"] for row in rows] == [1, 2, 3, 4]
    assert all(row["details"]["live"]["age_ms"] < 500 for row in rows)
    assert all(row["input_path"] is None and len(row["input_sha256"]) == 64 for row in rows)
    assert {row["status"] for row in rows} <= {"classified", "not_classified"}
    assert rows[0]["status"] == "classified", rows[0]["reason"]


def test_a_source_that_repeats_its_picture_is_frozen(live: Path, bundle_path: Path) -> None:
    uri = (
        "gst:videotestsrc is-live=true pattern=circular ! video/x-raw,format=GRAY8,width=160,height=120,framerate=50/1"
    )
    with running(live, bundle_path, uri) as process:
        rows = [next_row(process) for _ in range(2)]
    assert rows[0]["status"] == "classified"
    assert "last one again" in rows[1]["reason"]


def capture_of(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return next((int(word) for child in children for word in child.read_text().split()), 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_lost_source_comes_back_and_both_are_rows(live: Path, bundle_path: Path, number: signal.Signals) -> None:
    with running(live, bundle_path, f"{snow()}#read_timeout_s=0.5&stall_s=0.2") as process:
        next_row(process)
        lost = capture_of(process)
        os.kill(lost, number)
        events: list[dict[str, Any]] = []
        while len(events) < 2:
            row = next_row(process)
            events += [row] if row["kind"] == "event" else []
        assert next_row(process)["kind"] == "result"
        assert capture_of(process) != lost
    assert [row["name"] for row in events] == ["source_lost", "source_back"]
    assert events[1]["details"]["restarts"] == 1


def test_how_a_capture_ended_is_told_to_a_run_whose_starter_ignores_children(live: Path, bundle_path: Path) -> None:
    words = ["sh", "-c", 'trap "" CHLD; exec "$0" "$@"', str(live), str(bundle_path), snow()]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    try:
        next_row(process)
        os.kill(capture_of(process), signal.SIGKILL)
        while (row := next_row(process))["kind"] != "event":
            pass
        assert "signal 9" in row["reason"]
    finally:
        process.kill()
        process.communicate()


def test_the_capture_ends_with_the_program(live: Path, bundle_path: Path) -> None:
    with running(live, bundle_path, snow()) as process:
        next_row(process)
        capture = capture_of(process)
    until(lambda: not Path(f"/proc/{capture}").exists() or "Z" in Path(f"/proc/{capture}/stat").read_text().split()[2])


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("gst:nosuchelement", "nosuchelement"),
        ("v4l2:/dev/absent", "gave no frame"),
        ("gst:fakesrc is-live=true ! identity drop-probability=1#open_timeout_s=0.3", "gave no frame"),
    ],
)
def test_a_source_that_never_gives_a_frame_is_an_error(live: Path, bundle_path: Path, uri: str, sentence: str) -> None:
    done = subprocess.run([live, bundle_path, uri], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence in done.stderr


def test_a_build_without_live_sources_says_so(program: Path, bundle_path: Path, tmp_path: Path) -> None:
    alone = tmp_path / "hffnet-run-cpp"
    shutil.copy(program, alone)
    done = subprocess.run(
        [alone, bundle_path, "v4l2:/dev/video0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "libgstreamer1.0-dev" in done.stderr
