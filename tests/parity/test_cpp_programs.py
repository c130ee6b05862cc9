"""The C++ programs and the installed package: the same answers as Python's command."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.manifest import Novelty, Precision
from hffnet.runtime.result import prediction_json
from tests.parity.conftest import ROOT, CppRuntime, run
from tests.tiny import tiny_graph, tiny_manifest, tiny_taxonomy, write_tiny_bundle

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime

HEADER = ROOT / "runtime" / "cpp" / "include" / "hffnet" / "hffnet.h"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several kinds, one that a gate refuses, one that is no frame."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(3)
    paths = []
    for number, suffix in enumerate((".png", ".tif", ".bmp", ".png")):
        picture = cv2.GaussianBlur(rng.integers(0, 256, (90, 120), np.uint8), (0, 0), number + 1)
        paths.append(folder / f"{number}{suffix}")
        cv2.imwrite(str(paths[-1]), picture)
    cv2.imwrite(str(folder / "blank.png"), np.full((90, 120), 7, np.uint8))
    (folder / "text.tif").write_text("no frame")
    return [*paths, folder / "blank.png", folder / "text.tif"]


def outputs(program: Path, *words: object) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "timings_ms"}


def same(found: Any, expected: Any, place: str = "") -> None:
    """Equal keys in one order, equal text, numbers within 1e-6."""
    match expected:
        case dict():
            assert list(found) == list(expected), place
            for key, value in expected.items():
                same(found[key], value, f"{place}.{key}")
        case list():
            assert len(found) == len(expected), place
            for number, value in enumerate(expected):
                same(found[number], value, f"{place}.{number}")
        case bool() | str() | None:
            assert found == expected, place
        case _:
            assert found == pytest.approx(expected, abs=1e-6), place


def test_unit_tests(cpp: CppRuntime) -> None:
    run("ctest", "--test-dir", cpp.build, "--output-on-failure")


def test_classify_prints_what_python_prints(cpp: CppRuntime, bundle_path: Path, frames: list[Path]) -> None:
    code, documents, stderr = outputs(cpp.classify, bundle_path, *frames)
    assert code == 3
    assert documents[-1] == {"name": str(frames[-1]), "error": stderr.strip().removeprefix("hffnet: ")}
    with Classifier.open(bundle_path, engine="openvino") as classifier:
        taxonomy, sha256 = classifier.bundle.manifest.taxonomy, classifier.bundle.sha256
        for path, found in zip(frames[:-1], documents[:-1], strict=True):
            expected = prediction_json(classifier.classify(path), taxonomy, sha256)
            expected = json.loads(json.dumps(expected))
            assert list(found["timings_ms"]) == list(expected["timings_ms"])
            same(without_times(found), without_times(expected))
    assert documents[-2]["status"] == "not_classified"


@pytest.mark.parametrize("max_energy", [-1e6, 1e6], ids=["refused", "known"])
def test_both_ask_for_scale_and_novelty(
    cpp: CppRuntime, frames: list[Path], shared: Path, tmp_path: Path, max_energy: float
) -> None:
    novelty = Novelty(max_energy=max_energy, quantile=0.99, num_frames=100)
    changes = {"novelty": novelty, "pixel_size_um": (1e-4, 2e-4)}
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(update=changes)
    bundle = write_tiny_bundle(tmp_path / "gated.hffnet", manifest=manifest)
    scaled = sorted((shared / "data" / "vendor_tiff" / "fei").rglob("*.tif"))[:4]
    _, documents, _ = outputs(cpp.classify, bundle, *frames[:2], *scaled)
    with Classifier.open(bundle, engine="openvino") as classifier:
        for path, document in zip([*frames[:2], *scaled], documents, strict=True):
            expected = prediction_json(
                classifier.classify(path), classifier.bundle.manifest.taxonomy, classifier.bundle.sha256
            )
            same(without_times(document), without_times(json.loads(json.dumps(expected))))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_frames_take_the_paths_that_python_gives_them(
    cpp: CppRuntime, network_bundle_path: Path, shared: Path, precision: Precision
) -> None:
    """X-SDD through a whole network on the same engine; its weights are drawn, its frames are real."""
    frames = sorted((shared / "data" / "x_sdd").rglob("*.jpg"))[::20]
    assert len(frames) > 50
    _, documents, _ = outputs(cpp.classify, "--precision", precision, network_bundle_path, *frames)
    with Classifier.open(network_bundle_path, engine="openvino", precision=precision) as classifier:
        for path, document in zip(frames, documents, strict=True):
            expected = classifier.classify(path)
            assert tuple(document["class_path"]) == expected.path, path
            assert document["confidence"] == pytest.approx(
                expected.decision.confidence if expected.decision else (), abs=1e-3
            )


def test_benchmark_times_every_stage(cpp: CppRuntime, bundle_path: Path, frames: list[Path]) -> None:
    program = cpp.build / "runtime" / "cpp" / "hffnet-benchmark-cpp"
    code, (document,), _ = outputs(program, "--seconds", 0.05, bundle_path, *frames[:2])
    assert code == 0
    assert list(document["stages"]) == ["read", "gates", "preprocess", "infer", "decode", "outside_engine", "total"]
    assert document["num_samples"] % 2 == 0
    assert ("p99_ms" in document["stages"]["total"]) == (document["num_samples"] >= 662)


@pytest.mark.parametrize("at", [9.0, [0.0, 0.0, np.nan, 0.0, 0.0]], ids=["others", "one-that-is-no-number"])
def test_an_engine_with_wrong_answers_is_refused(
    cpp: CppRuntime, tmp_path: Path, frames: list[Path], at: float | list[float]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "other.hffnet", model=tiny_graph(np.full((1, 5), at)))
    code, documents, stderr = outputs(cpp.classify, bundle, frames[0])
    assert (code, documents) == (4, [])
    assert "test vectors with an error of" in stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--surprise", "1", "a", "b"], 2),
        (["--threads", "none", "a", "b"], 2),
        (["a"], 2),
        (["absent.hffnet", "b"], 3),
    ],
)
def test_wrong_use(cpp: CppRuntime, words: list[str], code: int) -> None:
    found, documents, stderr = outputs(cpp.classify, *words)
    assert (found, documents) == (code, [])
    assert stderr


def test_an_engine_that_is_not_built_is_named(cpp: CppRuntime, bundle_path: Path, frames: list[Path]) -> None:
    code, _, stderr = outputs(cpp.classify, "--engine", "onnxruntime", bundle_path, frames[0])
    assert code == 4
    assert re.search("it has: .*openvino", stderr)


def test_a_project_links_the_installed_package(
    cpp: CppRuntime, bundle_path: Path, frames: list[Path], tmp_path: Path
) -> None:
    """The program in the C header's first comment, as it stands there, and one in C++."""
    example = re.search(r"/\*.*?\n\n(#include.*?\n}\n)", HEADER.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.c").write_text(example[1])
    run("cmake", "--install", cpp.build, "--prefix", tmp_path / "prefix")
    consumer = ROOT / "tests" / "runtime" / "cpp" / "consumer"
    run(
        "cmake", "-S", consumer, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}",
        f"-DEXAMPLE_C={tmp_path / 'example.c'}",
    )  # fmt: skip
    run("cmake", "--build", tmp_path / "build")
    (document,) = outputs(tmp_path / "build" / "example-cpp", bundle_path, frames[0])[1]
    lines = run(tmp_path / "build" / "example-c", bundle_path, frames[0]).splitlines()
    assert [line.split()[0] for line in lines] == document["class_path"]
    assert [float(line.split()[1]) for line in lines] == pytest.approx(document["confidence"], abs=1e-3)


def test_pkg_config_tells_how_to_link(cpp: CppRuntime, tmp_path: Path) -> None:
    example = re.search(r"/\*.*?\n\n(#include.*?\n}\n)", HEADER.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.c").write_text(example[1])
    run("cmake", "--install", cpp.build, "--prefix", tmp_path / "prefix")
    (package,) = (tmp_path / "prefix").rglob("hffnet.pc")
    flags = run("env", f"PKG_CONFIG_PATH={package.parent}", "pkg-config", "--cflags", "--libs", "hffnet").split()
    folder = package.parent.parent
    allowed = ["-Wl,--allow-shlib-undefined", f"-Wl,-rpath,{folder}"]
    run("cc", tmp_path / "example.c", "-o", tmp_path / "example", *flags, *allowed)
    done = subprocess.run([tmp_path / "example"], capture_output=True, check=False)
    assert done.returncode == 2


def test_only_our_names_leave_the_library(cpp: CppRuntime) -> None:
    table = run("nm", "-D", "--defined-only", "-C", cpp.build / "runtime" / "cpp" / "libhffnet.so")
    names = [line.split(maxsplit=2)[2] for line in table.splitlines()]
    foreign = [name for name in names if "hffnet" not in name]
    assert not [name for name in foreign if not name.startswith(("std::", "typeinfo", "vtable"))], foreign[:20]
    assert any(name.startswith("hffnet_open") for name in names)
