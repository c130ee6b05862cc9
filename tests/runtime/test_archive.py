"""Archives: which frames are meant, one line for each, continued where it was interrupted; alone and with Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner, Result

from hffnet.runtime.archive import Document, classify_archive, documents_in_turn, frames_from_arguments
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.commands import classify
from hffnet.runtime.errors import ConfigError, EngineError, FrameError, HffnetError
from hffnet.runtime.frame import Frame
from hffnet.runtime.read import read_frame
from hffnet.runtime.run_settings import settings_of_run
from tests.receivers import free_port

ROOT = Path(__file__).parents[2]
SETTINGS = settings_of_run("onnxruntime", "auto")


def write_frames(folder: Path, num: int, first: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:03d}.tif" for n in range(first, first + num)]
    for n, path in enumerate(paths, start=first):
        tifffile.imwrite(path, np.random.default_rng(n).integers(20, 230, (96, 128), dtype=np.uint8))
    return paths


@pytest.fixture
def classifier(bundle_path: Path) -> Iterator[Classifier]:
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as opened:
        yield opened


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(classifier: Classifier, paths: Sequence[Path], out: Path, sha256: str | None = None) -> dict[str, int]:
    documents = documents_in_turn(classifier, SETTINGS)
    sha256 = sha256 or classifier.bundle.sha256
    summary = classify_archive(paths, out, documents, bundle_sha256=sha256, settings_sha256=SETTINGS)
    return {**summary.counts, "skipped": summary.num_skipped}


def test_a_defect_in_one_file_is_that_files_result_and_ends_nothing(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poisoned = write_frames(tmp_path / "in", 2)
    read = read_frame

    def read_or_break(path: Path) -> Frame:
        if path == poisoned:
            raise IndexError("index 9 is out of bounds")
        return read(path)

    monkeypatch.setattr("hffnet.runtime.read.read_frame", read_or_break)
    assert run(classifier, [poisoned, good], tmp_path / "out.jsonl") == {"failed": 1, "classified": 1, "skipped": 0}
    (failed, _) = lines(tmp_path / "out.jsonl")
    assert failed["reason"] == "classifying it ran into a defect: IndexError: index 9 is out of bounds"


def test_folders_patterns_lists_and_files_are_frames(tmp_path: Path) -> None:
    a, b = write_frames(tmp_path / "in", 2)
    (c,) = write_frames(tmp_path / "in" / "sub", 1, first=2)
    write_frames(tmp_path / "in" / ".hidden", 1)
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "list.csv").write_text("label,path\nx,in/001.tif\ny,in/000.tif\n")
    assert frames_from_arguments([tmp_path / "in"]) == [a, b, c]
    assert frames_from_arguments([tmp_path / "in" / "*.tif"]) == [a, b]
    assert frames_from_arguments([tmp_path / "in" / "**" / "*.tif"])[-1] == c
    assert frames_from_arguments([tmp_path / "list.csv", a, tmp_path / "absent.tif"]) == [b, a, tmp_path / "absent.tif"]


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        pytest.param(lambda p: p.mkdir(), FrameError, "holds no frame", id="empty-folder"),
        pytest.param(lambda p: p.write_text("a,b\n1,2\n"), ConfigError, "expected one called path", id="no-path"),
        pytest.param(lambda p: p.write_bytes(b"path\n\xff\xfe\n"), ConfigError, "cannot be read", id="not-text"),
        pytest.param(lambda _: None, ConfigError, "cannot be read", id="absent"),
    ],
)
def test_what_holds_no_frames_is_told(tmp_path: Path, make: Any, error: type[HffnetError], sentence: str) -> None:
    path = tmp_path / "list.csv" if error is ConfigError else tmp_path / "empty"
    make(path)
    with pytest.raises(error, match=sentence):
        frames_from_arguments([path])


def test_a_restart_does_what_is_left(tmp_path: Path, classifier: Classifier) -> None:
    paths, out = write_frames(tmp_path / "in", 3), tmp_path / "out.jsonl"
    assert run(classifier, paths[:1], out) == {"classified": 1, "skipped": 0}
    with out.open("a") as file:
        file.write('{"schema_version":1,"kind":"res')  # a crash in the middle of a line
    assert run(classifier, paths, out) == {"classified": 2, "skipped": 1}
    assert [line["name"] for line in lines(out)] == [str(path) for path in paths]
    write_frames(tmp_path / "in", 1, first=0)
    tifffile.imwrite(paths[0], np.zeros((40, 50), np.uint8))  # another version of the first
    assert run(classifier, paths, out) == {"not_classified": 1, "skipped": 2}


def test_a_failure_is_tried_again_and_told_once(tmp_path: Path, classifier: Classifier) -> None:
    (path,), out = write_frames(tmp_path / "in", 1), tmp_path / "out.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    absent = tmp_path / "absent.tif"
    for _ in range(2):
        assert run(classifier, [path, absent], out) == {"failed": 2, "skipped": 0}
        assert [line["status"] for line in lines(out)] == ["failed", "failed"]
    assert "absent.tif" in lines(out)[1]["reason"]
    path.write_bytes(whole)
    assert run(classifier, [path], out) == {"classified": 1, "skipped": 0}
    assert run(classifier, [path], out) == {"skipped": 1}


def test_a_stop_keeps_what_was_done(tmp_path: Path, classifier: Classifier) -> None:
    paths, out = write_frames(tmp_path / "in", 20), tmp_path / "out.jsonl"

    def interrupted(left: Sequence[Path]) -> Iterator[Document]:
        yield from documents_in_turn(classifier, SETTINGS)(left[:17])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify_archive(paths, out, interrupted, bundle_sha256=classifier.bundle.sha256, settings_sha256=SETTINGS)
    num = len(lines(out))
    assert num >= 16
    assert run(classifier, paths, out) == {"classified": 20 - num, "skipped": num}


def test_one_file_holds_the_answers_of_one_model(tmp_path: Path, classifier: Classifier) -> None:
    paths, out = write_frames(tmp_path / "in", 1), tmp_path / "out.jsonl"
    run(classifier, paths, out)
    with pytest.raises(ConfigError, match="result of another bundle"):
        run(classifier, paths, out, sha256="0" * 64)
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match="line 1 is not a result"):
        run(classifier, paths, other)
    assert other.read_text() == '{"a": 1}\n'


def invoked(*words: object) -> Result:
    app = typer.Typer()
    app.command()(classify)
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(["--ray", "local"], "needs --out", id="ray-without-out"),
        pytest.param(["--workers", "2", "--out", "x.jsonl"], "give --ray", id="workers-without-ray"),
    ],
)
def test_options_that_need_each_other(tmp_path: Path, bundle_path: Path, words: list[str], sentence: str) -> None:
    result = invoked(bundle_path, tmp_path / "a.tif", *words)
    assert isinstance(result.exception, ConfigError)
    assert sentence in str(result.exception)


def test_an_address_where_nobody_listens_is_told_at_once(tmp_path: Path, bundle_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'hffnet[ray]'")
    (path,) = write_frames(tmp_path / "in", 1)
    options = ("--engine", "onnxruntime", "--out", tmp_path / "out.jsonl", "--ray", f"127.0.0.1:{free_port()}")
    result = invoked(bundle_path, path, *options)
    assert isinstance(result.exception, EngineError)
    assert "no Ray cluster answers" in str(result.exception)


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "timings_ms"}


@pytest.mark.parametrize(("told", "then"), [((), None), (("--threads", 2), 2)], ids=["all-cores", "two-threads"])
def test_the_loop_asks_for_the_quickest_engine_as_ray_does(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, told: tuple[object, ...], then: int | None
) -> None:
    """With one thread unless told: what wins with all cores may be another engine than what wins with one."""
    opened, really = list[tuple[str, int | None]](), Classifier.open

    def noted(bundle: Path, **how: Any) -> Classifier:
        opened.append((how.get("engine", "auto"), how.get("threads")))
        return really(bundle, **how)

    monkeypatch.setattr(Classifier, "open", noted)
    write_frames(tmp_path / "in", 1)
    assert invoked(bundle_path, tmp_path / "in", "--out", tmp_path / "out.jsonl", *told).exit_code == 0
    assert [threads for engine, threads in opened if engine == "auto"] == [then or 1]
    assert opened[-1][1] == then
    assert (opened[-1][0] == "auto") == (then is not None)


@pytest.mark.slow
def test_ray_says_what_one_process_says(tmp_path: Path, bundle_path: Path) -> None:
    """In a process of its own, where nothing of Ray stays behind; one cluster, because starting one takes seconds."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'hffnet[ray]'")
    paths = write_frames(tmp_path / "in", 40)
    paths[5].write_bytes(b"II*\0 no frame")
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    common = ("--engine", "onnxruntime", "--threads", 1, "--json")
    assert invoked(bundle_path, tmp_path / "in", "--out", alone, *common).exit_code == 3
    assert invoked(bundle_path, *paths[:7], "--out", shared, *common).exit_code == 3
    command = "import typer; from hffnet.runtime.commands import classify as c; a = typer.Typer(); a.command()(c); a()"
    words = (bundle_path, tmp_path / "in", "--out", shared, "--ray", "local", "--workers", 2, *common)
    done = subprocess.run(
        [sys.executable, "-c", command, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert (document["counts"], document["num_skipped"]) == ({"failed": 1, "classified": 33}, 6)
    assert list(map(without_times, lines(shared))) == list(map(without_times, lines(alone)))
