"""Labelled frames are found, refused with a sentence, and divided without leaks."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffnet.runtime.dataset import Dataset, LabelledFrame, Split, dataset_sha256, open_dataset
from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.runtime.split import SPLITS, split_dataset
from hffnet.runtime.taxonomy import Taxonomy

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


def _folders(root: Path, names: tuple[str, ...] = ("a/x/1.png", "a/y/1.tif", "b/z/1.BMP")) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def _csv(root: Path, *lines: str) -> Path:
    _folders(root)
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "labels.csv"


def test_folders_are_class_paths(tmp_path: Path) -> None:
    root = _folders(tmp_path)
    (root / "_src").mkdir()
    (root / "a/x/1.txt").write_text("sidecar")
    dataset = open_dataset(root)
    assert dataset.taxonomy == TREE
    assert [dataset.relative(frame) for frame in dataset.frames] == ["a/x/1.png", "a/y/1.tif", "b/z/1.BMP"]
    assert len({frame.group for frame in dataset.frames}) == 3


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        pytest.param(
            ("path,level2,note,level1", "a/x/1.png,x,?,a", "b/z/1.BMP,z,?,b"), ("level1", "level2"), id="levelN"
        ),
        pytest.param(
            ("cause,path,kind,group,source", "a,a/x/1.png,x,,s", "b,./b/z/1.BMP,z,,s"), ("cause", "kind"), id="others"
        ),
        pytest.param(("\ufeffpath,kind", '"a/x/1.png",x', "b/z/1.BMP,z"), ("kind",), id="byte-order mark, one level"),
    ],
)
def test_csv_level_columns(tmp_path: Path, lines: tuple[str, ...], names: tuple[str, ...]) -> None:
    dataset = open_dataset(_csv(tmp_path, *lines))
    assert tuple(level.name for level in dataset.taxonomy.levels) == names
    assert dataset.frames[0].classes == ("a", "x")[-len(names) :]
    assert dataset.root == tmp_path


def test_a_group_column_and_duplicates_are_joined(tmp_path: Path) -> None:
    rows = ("path,kind,group", "a/x/1.png,x,g1", "a/x/2.png,x,g2", "a/y/1.tif,y,g2", "b/z/1.BMP,y,")
    path = _csv(tmp_path, *rows)
    (tmp_path / "a/x/2.png").write_bytes((tmp_path / "a/x/1.png").read_bytes())
    groups = [frame.group for frame in open_dataset(path).frames]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_equal_bytes_in_two_classes_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (_folders(tmp_path) / "b/z/1.BMP").write_bytes((tmp_path / "a/x/1.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path)
    assert "same bytes" in caplog.text


def test_identity_ignores_order_but_not_labels(tmp_path: Path) -> None:
    dataset = open_dataset(_folders(tmp_path))
    assert dataset_sha256(replace(dataset, frames=dataset.frames[::-1])) == dataset_sha256(dataset)
    other = replace(dataset.frames[0], classes=("a", "y"))
    assert dataset_sha256(replace(dataset, frames=(other, *dataset.frames[1:]))) != dataset_sha256(dataset)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        pytest.param((), "no level column|'path' is expected", id="nothing in it"),
        pytest.param(("file,kind", "a/x/1.png,x"), "a column 'path' is expected", id="no path column"),
        pytest.param(("path,group", "a/x/1.png,g"), "no level column", id="no level column"),
        pytest.param(("path,k,k", "a/x/1.png,x,x"), "two columns", id="column twice"),
        pytest.param(("path,kind",), "no labelled frame", id="no row"),
        pytest.param(("path,kind", "a/x/1.png,x"), "one class, x", id="one class"),
        pytest.param(("path,kind", "a/x/1.png,x", "a/x/9.png,y"), "line 3.*9.png does not exist", id="missing file"),
        pytest.param(("path,kind", "a/x/1.png,x", "./a/x/1.png,y"), "line 3 names .* again", id="path twice"),
        pytest.param(("path,kind", "../1.png,x"), "lies outside", id="dots"),
        pytest.param(("path,kind", "/etc/passwd,x"), "lies outside", id="absolute"),
        pytest.param(("path,kind", "a/x/1.png,"), "no value for 'kind'", id="no class"),
        pytest.param(("path,kind", "a/x/1.png"), "as many values", id="short row"),
        pytest.param(("path,kind", "a/x/1.png,x,y"), "as many values", id="long row"),
        pytest.param(("path,kind,split", "a/x/1.png,x,dev"), "split 'dev'", id="unknown split"),
        pytest.param(("path,l,m", "a/x/1.png,a,x", "a/y/1.tif,b,x"), "two parents", id="two parents"),
        pytest.param(("path,kind", "a/x/1.png,a\tb", "a/y/1.tif,y"), "labels.csv", id="control character"),
        pytest.param(("path,kind", '"a/x/1.png"x,x'), "is not CSV", id="broken quotes"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, lines: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(_csv(tmp_path, *lines))


def test_unknown_class_in_the_csv(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,level1,level2", "a/x/1.png,a,x", "a/y/1.tif,b,x")
    with pytest.raises(DatasetError, match="line 3 has the class b/x, which the taxonomy has not; expected one of a/x"):
        open_dataset(path, TREE)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,kind")
    path.write_bytes("path,kind\na/x/1.png,Ermüdung\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8: byte 0xfc at position"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(lambda root: (root / "b/w").mkdir(), "b/w holds no image", id="empty class folder"),
        pytest.param(lambda root: (root / "b/1.png").touch(), "has 1 levels where", id="uneven depth"),
        pytest.param(lambda root: (root / "1.png").touch(), "lies in no class folder", id="image in the root"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(_folders(tmp_path))
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no labelled frame"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "absent")


def _dataset(groups: list[tuple[int, int, Split | None]]) -> Dataset:
    """One frame per entry: (leaf, group number, given split)."""
    frames = tuple(
        LabelledFrame(
            path=Path(f"/d/{n}.png"), classes=TREE.path_of_leaf(leaf), group=f"g{g}", sha256="0" * 64, split=s
        )
        for n, (leaf, g, s) in enumerate(groups)
    )
    return Dataset(root=Path("/d"), taxonomy=TREE, frames=frames)


@settings(max_examples=60, deadline=None)
@given(
    extra=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.none()), max_size=80),
    seed=st.integers(0, 2**32),
    order=st.randoms(use_true_random=False),
)
def test_no_group_stands_in_two_splits(extra: list[tuple[int, int, None]], seed: int, order: object) -> None:
    # Three groups of each class alone make a complete split possible whatever else is drawn.
    own: list[tuple[int, int, Split | None]] = [(leaf, 100 + 3 * leaf + k, None) for leaf in range(3) for k in range(3)]
    dataset = _dataset([*own, *extra])
    divided = split_dataset(dataset, seed)
    splits: dict[str, set[Split | None]] = {}
    for frame in divided.frames:
        splits.setdefault(frame.group, set()).add(frame.split)
    assert all(len(found) == 1 and None not in found for found in splits.values())
    assert all({f.classes for f in divided.frames_of(s)} == {f.classes for f in dataset.frames} for s in SPLITS)
    shuffled = sorted(dataset.frames, key=lambda _: order.random())  # type: ignore[attr-defined]
    again = split_dataset(replace(dataset, frames=tuple(shuffled)), seed)
    assert set(again.frames) == set(divided.frames)


def test_single_frames_are_divided_by_the_shares() -> None:
    dataset = _dataset([(n % 3, n, None) for n in range(300)])
    divided = split_dataset(dataset, 7, (0.8, 0.1, 0.1))
    assert Counter((f.classes, f.split) for f in divided.frames) == {
        (TREE.path_of_leaf(leaf), split): n for leaf in range(3) for split, n in zip(SPLITS, (80, 10, 10), strict=True)
    }
    assert split_dataset(dataset, 8, (0.8, 0.1, 0.1)) != divided


def test_given_splits_are_kept_and_groups_follow() -> None:
    given_rows: list[tuple[int, int, Split | None]] = [(leaf, leaf, "test") for leaf in range(3)]
    rest: list[tuple[int, int, Split | None]] = [
        (leaf, n, None) for leaf in range(3) for n in (leaf, 10 + leaf, 20 + leaf)
    ]
    divided = split_dataset(_dataset([*given_rows, *rest]), 0, (0.5, 0.25, 0.25))
    assert {f.split for f in divided.frames if f.group in {"g0", "g1", "g2"}} == {"test"}


def test_a_group_given_in_two_splits() -> None:
    with pytest.raises(DatasetError, match="also stands in train"):
        split_dataset(_dataset([(0, 1, "train"), (0, 1, "test"), (1, 2, None), (2, 3, None)]), 0)


def test_a_split_without_a_class_is_named() -> None:
    dataset = _dataset([(leaf, 10 * leaf + n, None) for leaf, count in enumerate((9, 9, 2)) for n in range(count)])
    with pytest.raises(DatasetError, match="split test has no frame of class b/z, which has 2 frames in 2 groups"):
        split_dataset(dataset, 0)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)])
def test_shares_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="shares of train, val and test"):
        split_dataset(_dataset([(0, 0, None)]), 0, fractions)


def test_real_duplicates_share_a_group(shared: Path) -> None:
    dataset = split_dataset(open_dataset(shared / "data/x_sdd/hierarchy.csv"), 0)
    assert (len(dataset.frames), len({frame.group for frame in dataset.frames})) == (1360, 1351)
    assert dataset.taxonomy.num_classes == (2, 7)
    digests = [{f.sha256 for f in dataset.frames_of(split)} for split in SPLITS]
    assert not digests[0] & digests[1] | digests[0] & digests[2] | digests[1] & digests[2]
