"""Frames, the streaming pass, the whole call and the command."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hffnet.calibration.bias import WithMean
from hffnet.calibration.cli import calibrate
from hffnet.calibration.frames import Imaging, check_magnification, check_pixels, choose_frames, load_frames
from hffnet.calibration.int8 import CalibrationOptions, calibration_from_frames, int8_from_onnx
from hffnet.calibration.observers import MinMax, Observer, ObserverName, observer_from_name
from hffnet.calibration.report import CalibrationReport
from hffnet.calibration.statistics import Resume, ranges_from_frames
from hffnet.calibration.tensorrt_cache import cache_from_ranges, ranges_from_cache
from hffnet.runtime.dataset import Dataset, Split, open_dataset
from hffnet.runtime.errors import ConfigError, DatasetError, GraphError
from hffnet.runtime.preprocess import PreprocessSpec
from tests.calibration.graphs import small_network, textured_frames


@pytest.fixture
def float_model(tmp_path: Path) -> Path:
    path = tmp_path / "float.onnx"
    onnx.save(small_network(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three leaves of 12, 6 and 2 frames."""
    root = tmp_path / "data"
    pixels = iter(textured_frames(20, size=48))
    for leaf, num in (("a/x", 12), ("a/y", 6), ("b/z", 2)):
        (root / leaf).mkdir(parents=True)
        for number in range(num):
            cv2.imwrite(str(root / leaf / f"{number}.png"), next(pixels))
    return root


def with_split(dataset: Dataset, split: Split) -> Dataset:
    return replace(dataset, frames=tuple(replace(frame, split=split) for frame in dataset.frames))


def test_leaves_take_turns_and_the_seed_decides(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_dataset(folder)
    with caplog.at_level(logging.WARNING):
        chosen = choose_frames(dataset, 9, seed=3)
    assert [sum(f.classes[-1] == leaf for f in chosen) for leaf in "xyz"] == [4, 3, 2]
    assert "9 calibration frames (9 asked for, 20 in the train split)" in caplog.text
    shuffled = replace(dataset, frames=dataset.frames[::-1])
    assert choose_frames(shuffled, 9, seed=3) == chosen
    assert choose_frames(dataset, 9, seed=4) != chosen


def test_only_train_frames_that_are_not_test_frames(folder: Path) -> None:
    dataset = open_dataset(folder)
    with pytest.raises(DatasetError, match="no frame in the train split"):
        choose_frames(with_split(dataset, "test"))
    train, test = with_split(dataset, "train"), with_split(dataset, "test")
    with pytest.raises(DatasetError, match="are the same file"):
        choose_frames(replace(dataset, frames=train.frames + test.frames[:1]))


def test_val_frames_do_not_calibrate_either(folder: Path) -> None:
    dataset = open_dataset(folder)
    train, val = with_split(dataset, "train"), with_split(dataset, "val")
    with pytest.raises(DatasetError, match=r"\(val\) are the same file"):
        choose_frames(replace(dataset, frames=train.frames + val.frames[:1]))


@pytest.mark.parametrize(
    "rare",
    [Imaging(instrument="a", octave=-7), Imaging(instrument="b", octave=-1), None],
    ids=["magnification", "instrument", "unknown"],
)
def test_magnifications_and_instruments_take_turns(folder: Path, rare: Imaging | None) -> None:
    dataset = open_dataset(folder)
    usual = Imaging(instrument="a", octave=-1)
    how = {frame.path: usual if number % 4 else rare for number, frame in enumerate(dataset.frames)}
    chosen = choose_frames(dataset, 8, imaging=lambda frame: how[frame.path])
    # A quarter of the frames, yet near half of those chosen.
    assert sum(how[frame.path] == rare for frame in chosen) >= 3
    assert choose_frames(dataset, 8, imaging=lambda _: None) == choose_frames(dataset, 8)


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "entropy", "mse", "cubed-error"])
def test_an_interrupted_calibration_goes_on(float_model: Path, tmp_path: Path, observer: ObserverName) -> None:
    frames, keep = textured_frames(12), tmp_path / "keep.npz"
    options = CalibrationOptions(observer=observer, smoothing=False)
    whole = calibration_from_frames(float_model, frames, options=options)

    def interrupt(done: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    resume = Resume(path=keep, identity="this", seconds=0)

    def fresh() -> dict[str, Observer]:
        means = {point.activation for point in whole.placement.weighted}
        plain = {name: observer_from_name(observer) for name in whole.placement.tensors}
        return {name: WithMean(one) if name in means else one for name, one in plain.items()}

    with pytest.raises(KeyboardInterrupt):
        ranges_from_frames(float_model, frames, fresh(), progress=interrupt, resume=resume)
    seen: list[int] = []
    observers = fresh()
    ranges = ranges_from_frames(float_model, frames, observers, progress=seen.append, resume=resume)
    assert seen == [9, 10, 11, 12]
    assert ranges == whole.ranges
    for name in {point.activation for point in whole.placement.weighted}:
        once, again = whole.observers[name], observers[name]
        assert isinstance(once, WithMean)
        assert isinstance(again, WithMean)
        assert np.array_equal(once.mean, again.mean)  # type: ignore[arg-type]


def test_frames_that_come_first_are_counted_once(float_model: Path) -> None:
    calibration = calibration_from_frames(float_model, textured_frames(20), activations="uint8")
    first = {point.activation for point in calibration.placement.cpu_sums}
    assert first
    assert calibration.smoothing
    counts = {n: o.count for n, o in calibration.observers.items() if isinstance(o, WithMean) and n not in first}
    assert counts
    assert set(counts.values()) == {20}


def test_of_many_frames_every_few_are_added_up(float_model: Path) -> None:
    frames = textured_frames(13)
    one, few, fourth = WithMean(MinMax()), WithMean(MinMax(), every=4), WithMean(MinMax())
    ranges_from_frames(float_model, frames, {"pooled": one})
    ranges_from_frames(float_model, frames, {"pooled": few}, batch=3)
    ranges_from_frames(float_model, frames[::4], {"pooled": fourth})
    assert few.range() == one.range()
    assert few.count == 4
    assert few.mean == pytest.approx(fourth.mean, abs=1e-6)


@pytest.mark.parametrize("damage", ["other", "cut"], ids=["of-another-run", "cut-off"])
def test_progress_that_does_not_fit_is_not_used(
    float_model: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames, keep = textured_frames(4), tmp_path / "keep.npz"
    ranges_from_frames(float_model, frames, {"n1": MinMax()}, resume=Resume(path=keep, identity="a", seconds=0))
    if damage == "cut":
        keep.write_bytes(keep.read_bytes()[:200])
    seen: list[int] = []
    identity = "b" if damage == "other" else "a"
    resume = Resume(path=keep, identity=identity)
    ranges_from_frames(float_model, frames, {"n1": MinMax()}, progress=seen.append, resume=resume)
    assert seen == [1, 2, 3, 4]
    assert "calibrating anew" in caplog.text


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1),
        st.floats(2.0**-60, 2.0**60),
        min_size=1,
        max_size=5,
    )
)
def test_legacy_cache_keeps_every_name_and_range_to_float32(ranges: dict[str, float]) -> None:
    found = ranges_from_cache(cache_from_ranges(ranges))
    assert list(found) == list(ranges)
    assert found == pytest.approx(ranges, rel=2.0**-23)


def test_legacy_cache_round_trips_and_says_what_it_is() -> None:
    text = cache_from_ranges({"a/Conv: odd": 12.7, "b": 3.0e-3})
    assert text.splitlines()[0] == "TRT-100300-EntropyCalibration2"
    # scale 0.1 as a big-endian float32
    assert text.splitlines()[1] == "a/Conv: odd: 3dcccccd"
    assert ranges_from_cache(text) == pytest.approx({"a/Conv: odd": 12.7, "b": 3.0e-3})
    with pytest.raises(ConfigError, match="not a TensorRT version"):
        cache_from_ranges({}, "ten")
    with pytest.raises(GraphError, match="no line of a calibration cache"):
        ranges_from_cache(text + "nonsense")
    with pytest.raises(GraphError, match="is not the header of a calibration cache"):
        ranges_from_cache("")


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.zeros((0, 32, 32), np.uint8), "no calibration frame"),
        (np.zeros((3, 32, 32), np.uint8), "all 3 calibration frames are blank"),
        (np.repeat(textured_frames(1), 4, axis=0), "all 4 calibration frames are the same"),
        (np.zeros((3, 32, 32), np.float32), "expected uint8"),
    ],
    ids=["none", "black", "identical", "float"],
)
def test_useless_frames_are_refused(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        check_pixels(pixels)


def test_frames_of_another_magnification_are_refused() -> None:
    check_magnification([0.02, None, 0.3], [0.25, 0.5])
    check_magnification([None], [0.1])
    with pytest.raises(DatasetError, match=r"have 5 to 20 µm per pixel, but the held-out frames have 0\.01 to 0\.5"):
        check_magnification([20.0, 5.0, None], [0.01, 0.5])


def test_ranges_are_those_of_stored_activations_at_any_batch(float_model: Path) -> None:
    frames = textured_frames(5)
    model = onnx.load(float_model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("pooled", "n1"))
    stored = ort.InferenceSession(model.SerializeToString()).run(["pooled", "n1"], {"frames": frames})
    done: list[int] = []
    for batch in (1, 2):
        observers = {"pooled": MinMax(), "n1": MinMax()}
        ranges = ranges_from_frames(float_model, iter(frames), observers, batch=batch, progress=done.append)
        np.testing.assert_allclose(list(ranges.values()), [np.abs(v).max() for v in stored], rtol=1e-5)
    assert done == [1, 2, 3, 4, 5, 2, 4, 5]


def test_no_frame_and_unknown_tensor_are_refused(float_model: Path) -> None:
    with pytest.raises(DatasetError, match="no calibration frame"):
        ranges_from_frames(float_model, [], {"pooled": MinMax()})
    with pytest.raises(GraphError, match="does not open the float graph"):
        ranges_from_frames(float_model, textured_frames(1), {"nowhere": MinMax()})


def test_broken_float_graph_is_named(float_model: Path) -> None:
    model = onnx.load(float_model)
    factor = next(t for t in model.graph.initializer if t.name == "factor")
    factor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.inf, np.float32), "factor"))
    onnx.save(model, float_model)
    with pytest.raises(GraphError, match="tensor 'picture': a value is NaN or infinite"):
        int8_from_onnx(float_model, textured_frames(4))


def test_whole_call_is_deterministic_and_reported(float_model: Path) -> None:
    options = CalibrationOptions(observer="percentile", percentile=99.9, exclude=("a1",), seed=7)
    first, report = int8_from_onnx(float_model, textured_frames(8), options=options)
    second, _ = int8_from_onnx(float_model, textured_frames(8), options=options)
    assert first.SerializeToString() == second.SerializeToString()
    assert CalibrationReport.model_validate_json(report.model_dump_json()) == report
    assert report.method.percentile == 99.9
    assert len({origin.sha256 for origin in report.frames}) == 8
    assert report.ranges.keys() == set(report.placement.tensors)


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "absent"])
def test_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=r"model\.onnx"):
        int8_from_onnx(path, textured_frames(4))


def test_command_writes_graph_and_report(float_model: Path, folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(calibrate)
    output = tmp_path / "int8.onnx"
    arguments = [str(float_model), "--data", str(folder), "-o", str(output), "--num-frames", "6", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert document["num_frames"] == 6
    report = CalibrationReport.model_validate_json((tmp_path / "int8.calibration.json").read_bytes())
    expected = load_frames(choose_frames(open_dataset(folder), 6), open_dataset(folder), PreprocessSpec(size=32))
    assert report.frames == expected.origins
    assert ort.InferenceSession(output).get_inputs()[0].name == "frames"
    with pytest.raises(ConfigError, match="is the float model itself"):
        CliRunner().invoke(app, [*arguments[:4], str(float_model)], catch_exceptions=False)
    cache, page = tmp_path / "calibration.cache", tmp_path / "page.html"
    more = ["--no-smoothing", "--tensorrt-cache", str(cache), "--html", str(page)]
    CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert ranges_from_cache(cache.read_text()).keys() == report.ranges.keys()
    assert "<h2>Activations</h2>" in page.read_text()
    with pytest.raises(ConfigError, match="add --no-smoothing"):
        CliRunner().invoke(app, [*arguments, *more[1:]], catch_exceptions=False)
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]
