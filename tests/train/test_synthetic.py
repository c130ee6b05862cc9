"""The drawn data set: the same for a seed, files as a microscope writes them, and no class given away by grey level."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from hffnet.runtime.errors import ConfigError
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.train.fei_tiff import Settings, bar_rows, info_bar
from hffnet.train.synthetic import draw_frame, six_class_taxonomy, write_dataset

SMALL = (96, 128)
LEAVES = six_class_taxonomy().levels[-1].classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn") / "set", frames_per_class=2, seed=3, size=SMALL, jobs=1)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_taxonomy_has_the_shape_of_the_paper() -> None:
    tree = six_class_taxonomy()
    assert tree.num_classes == (2, 6)
    assert tree.indices_of_path(("thermal", "hot_corrosion"))[0] != tree.indices_of_path(("mechanical", "fatigue"))[0]


def test_same_seed_gives_same_files_whatever_the_jobs_and_the_size(folder: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", frames_per_class=2, seed=3, size=SMALL, jobs=3)
    more = write_dataset(tmp_path / "more", frames_per_class=3, seed=3, size=SMALL)
    assert _contents(again) == _contents(folder)
    assert _contents(folder).items() <= _contents(more).items()


def test_another_seed_gives_other_pictures(folder: Path, tmp_path: Path) -> None:
    other = _contents(write_dataset(tmp_path / "other", frames_per_class=2, seed=4, size=SMALL))
    assert not set(other.values()) & set(_contents(folder).values())


def test_files_are_laid_out_by_class_and_nothing_else_stands_there(folder: Path) -> None:
    tree = six_class_taxonomy()
    expected = {"/".join((*tree.path_of_leaf(k), f"frame_{n:04d}.tif")) for k in range(tree.num_leaves) for n in (1, 2)}
    assert set(_contents(folder)) == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(("number", "dtype"), [(1, np.uint8), (2, np.uint16)], ids=["odd-8-bit", "even-16-bit"])
def test_file_carries_bar_and_fei_metadata(folder: Path, number: int, dtype: type) -> None:
    with tifffile.TiffFile(folder / "mechanical" / "fatigue" / f"frame_{number:04d}.tif") as file:
        pixels, said = file.asarray(), file.fei_metadata
    rows = SMALL[0]
    assert pixels.dtype == dtype
    assert pixels.shape == (rows + bar_rows(rows), SMALL[1])
    assert (said["Image"]["ResolutionY"], said["Image"]["ResolutionX"]) == SMALL
    assert said["PrivateFei"]["DatabarHeight"] == bar_rows(rows)
    assert said["Scan"]["HorFieldsize"] == pytest.approx(said["Scan"]["PixelWidth"] * SMALL[1], rel=1e-5)
    assert 0.05e-6 < said["Scan"]["PixelWidth"] < 0.2e-6
    assert said["Beam"]["HV"] in {5000, 10000, 15000, 20000}
    assert 0.004 <= said["Stage"]["WorkingDistance"] <= 0.012
    assert said["Detectors"]["Name"] == "ETD"


def test_bar_and_metadata_say_nothing_of_the_class(folder: Path) -> None:
    for path in folder.rglob("*.tif"):
        text = path.read_bytes()
        assert not [leaf for leaf in LEAVES if leaf.encode() in text]
    settings = Settings(pixel_size_um=0.1, high_voltage_kv=10, working_distance_mm=5, dwell_us=1, number=1)
    bar = info_bar(512, bar_rows(442), settings)
    assert bar.shape == (29, 512)
    assert set(np.unique(bar)) >= {0, 255}
    # No other argument goes into the bar, so the rows under the picture are reproduced from the file's own metadata.
    for path in folder.rglob("frame_0001.tif"):
        with tifffile.TiffFile(path) as file:
            pixels, said = file.asarray(), file.fei_metadata
        own = Settings(
            pixel_size_um=said["Scan"]["PixelWidth"] * 1e6,
            high_voltage_kv=said["Beam"]["HV"] / 1000,
            working_distance_mm=round(said["Stage"]["WorkingDistance"] * 1000, 2),
            dwell_us=said["Scan"]["Dwelltime"] * 1e6,
            number=1,
        )
        np.testing.assert_array_equal(pixels[SMALL[0] :], info_bar(SMALL[1], bar_rows(SMALL[0]), own))


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("size", [(442, 512), (64, 200)], ids=["usual", "small-and-wide"])
def test_frames_are_grey_pictures_with_contrast(leaf: str, size: tuple[int, int]) -> None:
    frame = draw_frame(leaf, np.random.default_rng(0), height=size[0], width=size[1])
    assert frame.shape == size
    assert frame.dtype == np.float32
    assert 0 <= frame.min() < frame.max() <= 1
    assert frame.std() > 0.04
    assert len(np.unique(frame[0])) > 8
    assert len(np.unique(frame[-1])) > 8


def test_grey_level_does_not_give_the_class_away() -> None:
    """Nearest centroid on mean and deviation: 1/6 is chance; 0.5 would be a class told by its brightness."""
    frames_per_class = 16
    spec = PreprocessSpec(size=64)
    raw, seen = list[tuple[float, float]](), list[tuple[float, float]]()
    for k, leaf in enumerate(LEAVES):
        for number in range(frames_per_class):
            frame = draw_frame(leaf, np.random.default_rng([k, number]), height=160, width=192)
            net_input = preprocess(frame, spec)
            raw.append((float(frame.mean()), float(frame.std())))
            seen.append((float(net_input.mean()), float(net_input.std())))
    labels = np.repeat(np.arange(len(LEAVES)), frames_per_class)
    assert _nearest_centroid(np.asarray(raw), labels) < 0.45
    assert _nearest_centroid(np.asarray(seen), labels) < 0.55


def _nearest_centroid(features: npt.NDArray[np.float64], labels: npt.NDArray[np.intp]) -> float:
    """Accuracy on the odd frames of centroids learnt from the even ones."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    train, test = slice(0, None, 2), slice(1, None, 2)
    centroids = np.stack([features[train][labels[train] == k].mean(axis=0) for k in range(len(LEAVES))])
    distance = ((features[test][:, None] - centroids) ** 2).sum(axis=2)
    return float((distance.argmin(axis=1) == labels[test]).mean())


def test_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'creep'.*fatigue"):
        draw_frame("creep", np.random.default_rng(0))


@pytest.mark.parametrize(
    "wrong",
    [{"frames_per_class": 0}, {"seed": -1}, {"jobs": 0}, {"size": (10, 512)}],
    ids=["no-frames", "seed", "jobs", "tiny"],
)
def test_wrong_settings_leave_nothing_behind(tmp_path: Path, wrong: dict[str, int]) -> None:
    settings = {"frames_per_class": 1, "seed": 0, "size": SMALL, **wrong}
    with pytest.raises(ConfigError):
        write_dataset(tmp_path / "set", **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_not_touched(folder: Path) -> None:
    before = _contents(folder)
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_dataset(folder, frames_per_class=1, seed=0, size=SMALL)
    assert _contents(folder) == before


def test_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", frames_per_class=2, seed=0, size=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_torch() -> None:
    code = "import sys, hffnet.train.synthetic; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )
