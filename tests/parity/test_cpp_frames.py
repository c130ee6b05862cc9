"""A frame is the same to Python and C++: pixels, crop, metadata, gates, network input, decision."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.errors import FrameError
from hffnet.runtime.gates import check_gates
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.read import read_frame
from hffnet.runtime.taxonomy import Taxonomy
from tests.hostile.test_hostile_frames import REFUSED, SMALL, WHOLE
from tests.parity.conftest import CppRuntime
from tests.runtime.test_read import TIFFS

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime


def differences(path: Path, answer: dict[str, Any], pixels: Path) -> list[str]:
    """How the C++ answer differs from Python's frame; empty where it does not."""
    frame = read_frame(path)
    if not answer["ok"]:
        return [f"{path.name}: refused by C++: {answer['sentence']}"]
    stored = np.frombuffer(pixels.read_bytes(), answer["dtype"]).reshape(answer["shape"])
    same: dict[str, bool] = {
        "dtype": stored.dtype == frame.pixels.dtype,
        "pixels": stored.shape == frame.pixels.shape and bool(np.allclose(stored, frame.pixels, rtol=1e-6, atol=0)),
        "crop": answer["crop"] == asdict(frame.crop),
        "acquisition": answer["acquisition"] == asdict(frame.acquisition),
        "sha256": answer["sha256"] == frame.sha256,
    }
    for expected, found in zip(check_gates(frame), answer["gates"], strict=True):
        same[f"gate {expected.name}"] = (
            found["passed"] == expected.passed
            and found["reason"] == expected.reason
            and found["value"] == pytest.approx(expected.value, abs=1e-9)
        )
    return [f"{path.name}: {what}" for what, good in same.items() if not good]


def compare(cpp: CppRuntime, paths: list[Path], out: Path) -> None:
    questions = [{"ask": "frame", "path": str(path), "out": str(out / f"{n}.bin")} for n, path in enumerate(paths)]
    answers = cpp.answers(questions)
    assert not [line for n, path in enumerate(paths) for line in differences(path, answers[n], out / f"{n}.bin")]


def test_kinds_of_files(cpp: CppRuntime, tmp_path: Path) -> None:
    paths = []
    for name, (stored, options, _) in TIFFS.items():
        paths.append(tmp_path / f"{name}.tif")
        tifffile.imwrite(paths[-1], stored, **({"photometric": "minisblack", "metadata": None} | options))
    for name, data in WHOLE.items():
        if name != "jpeg":  # decoders may round differently
            paths.append(tmp_path / f"whole {name}")
            paths[-1].write_bytes(data)
    compare(cpp, paths, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(cpp: CppRuntime, tmp_path: Path, name: str) -> None:
    path = tmp_path / "frame"
    path.write_bytes(REFUSED[name])
    question = {"ask": "frame", "path": str(path), "out": str(tmp_path / "out"), "limits": asdict(SMALL)}
    (answer,) = cpp.answers([question])
    with pytest.raises(FrameError):
        read_frame(path, limits=SMALL)
    assert not answer["ok"]
    assert answer["sentence"].startswith(f"{path}: ")


def test_truncated_files(cpp: CppRuntime, tmp_path: Path) -> None:
    paths = []
    for name, data in WHOLE.items():
        for share in (0.02, 0.3, 0.5, 0.9, 0.99):
            paths.append(tmp_path / f"{name} {share}")
            paths[-1].write_bytes(data[: int(len(data) * share)])
    answers = cpp.answers({"ask": "frame", "path": str(path), "out": str(tmp_path / "out")} for path in paths)
    assert [path.name for path, answer in zip(paths, answers, strict=True) if answer["ok"]] == []


def test_large_files_whose_hash_is_computed_beside(cpp: CppRuntime, tmp_path: Path) -> None:
    """From 256 KiB on another thread hashes, also where the file turns out to be no frame."""
    whole, text, cut = (tmp_path / name for name in ("large.tif", "text.tif", "cut.tif"))
    tifffile.imwrite(whole, np.random.default_rng(2).integers(0, 65536, (600, 900), np.uint16))
    text.write_bytes(REFUSED["text"] * 200)
    cut.write_bytes(whole.read_bytes()[:600_000])
    compare(cpp, [whole], tmp_path)
    answers = cpp.answers({"ask": "frame", "path": str(path), "out": str(tmp_path / "out")} for path in (text, cut))
    for path, answer in zip((text, cut), answers, strict=True):
        assert path.stat().st_size > 2**18
        with pytest.raises(FrameError):
            read_frame(path)
        assert not answer["ok"]
        assert answer["sentence"].startswith(f"{path}: ")


def test_vendor_frames(cpp: CppRuntime, shared: Path, tmp_path: Path) -> None:
    vendor = sorted(path for path in (shared / "data" / "vendor_tiff").glob("*/*.*") if path.parent.name != "broken")
    camera = sorted((shared / "data" / "x_sdd").glob("*/*.[jp][pn]g"))[::100]
    tiles = sorted((shared / "data" / "sem_thermal").glob("*/*.*"))[::30]
    compare(cpp, [*vendor, *camera, *tiles], tmp_path)


def test_a_frame_that_cannot_be_decoded(cpp: CppRuntime, shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "vendor_tiff" / "broken" / "undecodable_strip.tif"
    (answer,) = cpp.answers([{"ask": "frame", "path": str(path), "out": str(tmp_path / "out")}])
    assert not answer["ok"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_network_input_within_one_grey_level(cpp: CppRuntime, tmp_path: Path, dtype: type[np.generic]) -> None:
    """Shrinking, growing, one direction of each, odd and tiny sizes: both run OpenCV's INTER_AREA in float32."""
    rng, spec = np.random.default_rng(0), PreprocessSpec()
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    shapes = [(884, 1024), (224, 224), (448, 672), (128, 128), (100, 300), (301, 99), (225, 223), (1, 1), (7, 2000)]
    questions, expected = [], []
    for number, (height, width) in enumerate(shapes):
        smooth = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 7)) + rng.random((height, width))
        picture = ((smooth + 2) / 5 * full).astype(dtype)
        picture.tofile(tmp_path / f"{number}.in")
        questions.append(
            {
                "ask": "preprocess",
                "pixels": str(tmp_path / f"{number}.in"),
                "out": str(tmp_path / f"{number}.out"),
                "dtype": np.dtype(dtype).name,
                "height": height,
                "width": width,
                **spec.model_dump(include={"size", "low", "high", "min_span"}),
            }
        )
        expected.append(preprocess(picture, spec))
    assert all(answer["ok"] for answer in cpp.answers(questions))
    for number, reference in enumerate(expected):
        found = np.fromfile(tmp_path / f"{number}.out", np.uint8).reshape(reference.shape)
        assert np.abs(found.astype(int) - reference).max() <= 1, shapes[number]
        assert np.mean(found != reference) < 0.001, shapes[number]


@pytest.mark.parametrize("min_confidence", [None, 0.5, 0.9])
def test_decisions(cpp: CppRuntime, min_confidence: float | None) -> None:
    tree = Taxonomy.from_paths(
        [(a, f"{a}{b}", f"{a}{b}{c}") for a in "pqr" for b in "st" for c in "uvw"[: 1 + "pqr".index(a)]]
    )
    spec = DecodeSpec(temperatures=(0.7, 1.0, 2.5), min_confidence=min_confidence)
    logits = (np.random.default_rng(1).normal(size=(200, sum(tree.num_classes))) * 5).astype(np.float32)
    logits[0], logits[1] = 0, logits[1] * 1e30
    question = {
        "ask": "decode",
        "levels": [level.model_dump() for level in tree.levels],
        "temperatures": spec.temperatures,
        "min_confidence": min_confidence,
        "logits": logits.tolist(),
    }
    (answer,) = cpp.answers([question])
    for expected, found in zip(decode(logits, tree, spec), answer["decisions"], strict=True):
        assert tuple(found["path"]) == expected.path
        assert tuple(found["answer"]) == expected.answer
        assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
        for level, reference in zip(found["probabilities"], expected.probabilities, strict=True):
            np.testing.assert_allclose(level, reference, atol=1e-6)
