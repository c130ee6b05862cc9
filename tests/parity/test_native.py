"""The compiled preprocess and decode give what Python's give, and are used only where they are built and wanted."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hffnet.runtime import native
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.doctor import diagnose
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.taxonomy import Taxonomy
from tests.parity.conftest import ROOT

pytestmark = pytest.mark.timeout(600)  # the first test that runs builds the extension

NEEDED = ("cmake", "ninja", "c++")
TREES = {
    "two levels": Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")]),
    "three levels": Taxonomy.from_paths(
        [(a, f"{a}{b}", f"{a}{b}{c}") for a in "pqr" for b in "st" for c in "uvw"[: 1 + "pqr".index(a)]]
    ),
    "names": Taxonomy.from_paths([("Bruch – spröde", "x y"), ("Bruch – zäh", "Wabenbruch")]),
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``HFFNET_NATIVE=1 pip wheel .`` makes, built once under build/."""
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"the extension is not built, missing: {', '.join(lacking)}")
    for package in ("scikit_build_core", "nanobind"):
        pytest.importorskip(package, reason=f"the extension is not built, missing: {package}")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    words = [*command, "-w", str(folder), str(ROOT)]
    # Where there is a CUDA toolkit, compiled once: for the oldest GPU, and as PTX, which newer ones compile themselves.
    building = {**os.environ, "HFFNET_NATIVE": "1", "CUDAARCHS": "75"}
    done = subprocess.run(words, env=building, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = folder.glob("hffnet-*.whl")
    return wheel


def module_in(wheel: Path, name: str) -> ModuleType | None:
    """The module out of a wheel, loaded; None where it is not in there."""
    with zipfile.ZipFile(wheel) as archive:
        begin = f"hffnet/runtime/{name}."
        members = [member for member in archive.namelist() if member.startswith(begin) and member.endswith(".so")]
        if not members:
            return None
        library = Path(archive.extract(members[0], wheel.parent))
    spec = importlib.util.spec_from_file_location(f"hffnet.runtime.{name}", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert native.INTERFACE == module.INTERFACE
    return module


@pytest.fixture(scope="session")
def extension(wheel: Path) -> ModuleType:
    module = module_in(wheel, "_native")
    assert module is not None
    return module


@pytest.fixture(scope="session")
def kernel_extension(wheel: Path) -> ModuleType:
    module = module_in(wheel, "_native_cuda")
    if module is None:
        pytest.skip("the kernel is not built, missing: a CUDA toolkit")
    return module


@pytest.fixture
def both(extension: ModuleType) -> Iterator[ModuleType]:
    """The extension, switched off by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MODULE", None)
        yield extension
    native.decoder.cache_clear()


def compiled(extension: ModuleType, picture: GreyPixels, spec: PreprocessSpec) -> npt.NDArray[np.uint8]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MODULE", extension)
        return preprocess(picture, spec)


PICTURES = st.sampled_from(["uint8", "uint16", "float32"]).flatmap(
    lambda name: hnp.arrays(
        np.dtype(name),
        st.tuples(st.integers(1, 120), st.integers(1, 120)),
        elements=st.floats(0, 1, width=32) if name == "float32" else None,
        fill=st.nothing() if name == "float32" else None,
    )
)


@given(picture=PICTURES, size=st.integers(32, 96), cut=st.integers(0, 3))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_network_input_is_within_one_grey_level(
    extension: ModuleType, picture: GreyPixels, size: int, cut: int
) -> None:
    """Any size, growing and shrinking; a crop is a view into a wider frame."""
    spec = PreprocessSpec(size=size)
    view = picture[:, cut:] if picture.shape[1] > cut else picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MODULE", None)
        expected = preprocess(view, spec)
    found = compiled(extension, view, spec)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == (expected.shape, expected.dtype, True)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.transpose, lambda p: p[::2, ::3]], ids=range(4))
def test_any_view_is_taken(both: ModuleType, turn: object) -> None:
    assert callable(turn)
    picture = turn(np.random.default_rng(0).integers(0, 65536, (150, 170), np.uint16))
    spec = PreprocessSpec(size=64)
    assert np.abs(compiled(both, picture, spec).astype(int) - preprocess(picture, spec)).max() <= 1


@given(
    name=st.sampled_from(sorted(TREES)),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 8.0, 1e4, 1e30]),
    temperature=st.floats(0.05, 20),
    min_confidence=st.none() | st.floats(0.05, 0.99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_decisions_are_equal(
    extension: ModuleType, name: str, seed: int, scale: float, temperature: float, min_confidence: float | None
) -> None:
    tree = TREES[name]
    spec = DecodeSpec(temperatures=(temperature, *(1.0,) * (tree.depth - 1)), min_confidence=min_confidence)
    logits = (np.random.default_rng(seed).normal(size=(5, sum(tree.num_classes))) * scale).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MODULE", None)
        expected = decode(logits, tree, spec)
        patch.setattr(native, "MODULE", extension)
        found = decode(logits, tree, spec)
    for one, other in zip(found, expected, strict=True):
        assert one.path == other.path
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
        for level, reference in zip(one.probabilities, other.probabilities, strict=True):
            assert level.dtype == reference.dtype
            np.testing.assert_allclose(level, reference, atol=1e-6)
        near = min_confidence is not None and np.isclose(other.confidence, min_confidence, atol=1e-9).any()
        assert near or one.answer == other.answer


def test_what_is_no_number_is_left_to_python(both: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = TREES["two levels"]
    logits = np.full((1, 5), np.nan, np.float32)
    monkeypatch.setattr(native, "MODULE", both)
    with np.errstate(all="ignore"):
        (decision,) = decode(logits, tree, DecodeSpec.plain(tree))
    assert np.isnan(decision.confidence).all()


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [(np.zeros((4, 4), np.float64), "uint8"), (np.zeros((4, 0), np.uint8), "picture")],
    ids=["depth", "empty"],
)
def test_the_extension_itself_refuses_what_it_cannot_read(
    both: ModuleType, picture: npt.NDArray[np.generic], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        both.preprocess(picture, 64, 0.001, 0.999, 1 / 64)


def test_the_kernel_without_a_gpu_says_what_is_missing(kernel_extension: ModuleType) -> None:
    """It loads everywhere: only a driver is needed, and only where it runs."""
    if kernel_extension.why_no_gpu() is None:
        pytest.skip("this machine has a GPU")
    assert "there is no GPU on this machine that CUDA can use" in kernel_extension.why_no_gpu()
    with pytest.raises(RuntimeError, match="use the CPU"):
        kernel_extension.GpuPreprocessor(64, 0.001, 0.999, 1 / 64)


@pytest.mark.gpu
@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_the_kernels_input_is_within_one_grey_level(kernel_extension: ModuleType, depth: str) -> None:
    if reason := kernel_extension.why_no_gpu():
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    picture = (rng.random((150, 170)) * (1 if depth == "float32" else np.iinfo(depth).max)).astype(depth)[:, 3:]
    kernel = kernel_extension.GpuPreprocessor(64, 0.001, 0.999, 1 / 64)
    expected = preprocess(picture, PreprocessSpec(size=64))
    assert np.abs(kernel.preprocess(picture).astype(int) - expected).max() <= 1


def test_it_is_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFNET_NATIVE", "0")
    assert native.find_native() == (None, "switched off by HFFNET_NATIVE=0")


def test_one_that_is_absent_is_said_not_to_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFFNET_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "hffnet.runtime._native", None)
    monkeypatch.delattr("hffnet.runtime._native", raising=False)
    assert native.find_native() == (None, "not built")


def test_one_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFFNET_NATIVE", raising=False)
    stranger = ModuleType("hffnet.runtime._native")
    stranger.INTERFACE = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hffnet.runtime._native", stranger)
    monkeypatch.setattr("hffnet.runtime._native", stranger, raising=False)
    module, reason = native.find_native()
    assert module is None
    assert "other sources" in reason


@pytest.mark.parametrize("is_used", [True, False], ids=["used", "not built"])
def test_doctor_tells_whether_it_is_used(monkeypatch: pytest.MonkeyPatch, *, is_used: bool) -> None:
    module = ModuleType("hffnet.runtime._native")
    module.__file__ = "_native.so"
    monkeypatch.setattr(native, "MODULE", module if is_used else None)
    monkeypatch.setattr(native, "REASON", "not built")
    (finding,) = (one for one in diagnose().findings if one.name == "compiled preprocess and decode")
    assert finding.value == ("used (_native.so)" if is_used else "not built")
    assert is_used or "HFFNET_NATIVE=1" in str(finding.fix)
