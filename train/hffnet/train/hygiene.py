"""What is wrong with labelled frames before a network sees them: leaks between splits, copies, what cannot be read.

A score on test frames that training has seen, as copies or as other views of one specimen, measures memory.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hffnet.runtime.dataset import Dataset, LabelledFrame, Split
from hffnet.runtime.errors import DatasetError, FrameError
from hffnet.runtime.read import read_frame
from hffnet.runtime.split import SPLITS, split_dataset
from hffnet.train.likeness import Thumbnail, pairs_from_thumbnails, thumbnail_from_picture

Kind = Literal["same bytes", "same picture", "near-duplicate", "group"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Named(_Strict):
    """One frame as the report names it; ``split`` is None where it stands in none."""

    name: str
    classes: tuple[str, ...]
    split: Split | None


class Cluster(_Strict):
    """Frames that belong together.

    Attributes:
        kind: why: equal bytes, equal pixels in other bytes, pictures that show the same, or the group column.
        frames: two or more.
        leaks: they stand in more than one split.
        two_labels: they do not all have the same classes.
        one_group: they share a group, so no split that hffnet makes can part them.
    """

    kind: Kind
    frames: tuple[Named, ...]
    leaks: bool
    two_labels: bool
    one_group: bool


class Unreadable(_Strict):
    """A file that is not a frame, and why."""

    name: str
    reason: str


class ClassFacts(_Strict):
    """One class (leaf): frames per split, bit depths, and micrometres per pixel where the files tell."""

    classes: tuple[str, ...]
    num_frames: int
    num_groups: int
    splits: dict[str, int]
    depths: dict[str, int]
    pixel_size_um: tuple[float, float] | None
    num_with_pixel_size: int


class DataReport(_Strict):
    """Everything that ``hffnet data check`` found.

    Attributes:
        split_source: whose split was looked at.
        split_problem: why there is no complete split, None where there is one.
        picture_sizes: smallest and largest width and height without info bar, pixels.
        depths: frames by the type of their grey levels.
        warnings: sentences on what is allowed and yet may mislead.
    """

    num_frames: int
    num_groups: int
    split_source: str
    split_problem: str | None
    splits: dict[str, int]
    classes: tuple[ClassFacts, ...]
    clusters: tuple[Cluster, ...]
    unreadable: tuple[Unreadable, ...]
    depths: dict[str, int]
    pixel_size_um: tuple[float, float] | None
    num_with_pixel_size: int
    picture_sizes: tuple[tuple[int, int], tuple[int, int]] | None
    warnings: tuple[str, ...]

    @property
    def leaks(self) -> tuple[Cluster, ...]:
        """Clusters that stand in more than one split."""
        return tuple(cluster for cluster in self.clusters if cluster.leaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """A data set with the split to look at, where it came from, and why it is not complete."""

    dataset: Dataset
    source: str
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What one readable file told."""

    pixels_sha256: str
    depth: str
    size: tuple[int, int]
    pixel_size_um: float | None
    thumbnail: Thumbnail


def divided_by_seed(dataset: Dataset, seed: int, fractions: tuple[float, float, float]) -> Divided:
    """The split that ``hffnet train`` would use: as given, the rest by seed.

    A given split that leaks is kept as it is, to be reported.
    """
    given = sum(frame.split is not None for frame in dataset.frames)
    if given == len(dataset.frames):
        return Divided(dataset=dataset, source="the split column")
    source = f"seed {seed}" if not given else f"the split column for {given} frames, the rest by seed {seed}"
    try:
        return Divided(dataset=split_dataset(dataset, seed, fractions), source=source)
    except DatasetError as error:
        return Divided(dataset=dataset, source=source, problem=str(error))


def divided_by_checkpoint(dataset: Dataset, splits: Mapping[str, Split], name: str) -> Divided:
    """The split that a training used; ``splits`` by sha256 of the file. Frames that it does not know stand in none."""
    frames = tuple(replace(frame, split=splits.get(frame.sha256)) for frame in dataset.frames)
    unknown = sum(frame.split is None for frame in frames)
    problem = f"{unknown} of {len(frames)} frames are not known to {name} and stand in no split" if unknown else None
    return Divided(dataset=replace(dataset, frames=frames), source=f"the checkpoint {name}", problem=problem)


def check_dataset(divided: Divided, *, threads: int = 2, advance: Callable[[int], None] = lambda _: None) -> DataReport:
    """Read every frame and report what is wrong; nothing is changed.

    Args:
        divided: frames and the split to look at.
        threads: readers side by side.
        advance: called with the number of frames read so far.
    """
    dataset = divided.dataset
    facts, unreadable = _read_all(dataset, threads, advance)
    classes = _class_facts(dataset, facts)
    sizes = [fact.size for fact in facts.values()]
    depths = dict(Counter(fact.depth for fact in facts.values()))
    report = DataReport(
        num_frames=len(dataset.frames),
        num_groups=len({frame.group for frame in dataset.frames}),
        split_source=divided.source,
        split_problem=divided.problem,
        splits=_splits(dataset.frames),
        classes=classes,
        clusters=tuple(_clusters(dataset, facts)),
        unreadable=unreadable,
        depths=depths,
        pixel_size_um=_range(fact.pixel_size_um for fact in facts.values()),
        num_with_pixel_size=sum(fact.pixel_size_um is not None for fact in facts.values()),
        picture_sizes=(
            ((min(w for w, _ in sizes), min(h for _, h in sizes)), (max(w for w, _ in sizes), max(h for _, h in sizes)))
            if sizes
            else None
        ),
        warnings=(),
    )
    return report.model_copy(update={"warnings": tuple(_warnings(report))})


def _read_all(
    dataset: Dataset, threads: int, advance: Callable[[int], None]
) -> tuple[dict[int, _Facts], tuple[Unreadable, ...]]:
    facts, unreadable = dict[int, _Facts](), list[Unreadable]()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for n, fact in enumerate(pool.map(_facts_of, dataset.frames)):
            if isinstance(fact, _Facts):
                facts[n] = fact
            else:
                unreadable.append(Unreadable(name=dataset.relative(dataset.frames[n]), reason=fact))
            advance(n + 1)
    return facts, tuple(unreadable)


def _facts_of(frame: LabelledFrame) -> "_Facts | str":
    try:
        read = read_frame(frame.path)
    except FrameError as error:
        return str(error)
    picture = read.picture
    height, width = picture.shape
    header = f"{picture.dtype} {width} {height} ".encode()
    return _Facts(
        pixels_sha256=hashlib.sha256(header + picture.tobytes()).hexdigest(),
        depth=str(picture.dtype),
        size=(width, height),
        pixel_size_um=read.acquisition.pixel_size_um,
        thumbnail=thumbnail_from_picture(picture),
    )


def _clusters(dataset: Dataset, facts: Mapping[int, _Facts]) -> Iterable[Cluster]:
    """A set of frames is told once, by the strongest reason: bytes, then pixels, then looks; given groups if parted."""
    frames, told = dataset.frames, set[frozenset[int]]()
    places = sorted(facts)
    pairs = pairs_from_thumbnails([facts[n].thumbnail for n in places])
    by_looks = _connected([(places[pair.first], places[pair.second]) for pair in pairs])
    found: list[tuple[Kind, Iterable[Sequence[int]]]] = [
        ("same bytes", _equal({n: frame.sha256 for n, frame in enumerate(frames)})),
        ("same picture", _equal({n: fact.pixels_sha256 for n, fact in facts.items()})),
        ("near-duplicate", by_looks),
    ]
    for kind, sets in found:
        for members in sets:
            if (key := frozenset(members)) not in told:
                told.add(key)
                yield _cluster(dataset, kind, members)
    for members in _equal({n: frame.group for n, frame in enumerate(frames)}):
        if frozenset(members) not in told and (cluster := _cluster(dataset, "group", members)).leaks:
            yield cluster


def _cluster(dataset: Dataset, kind: Kind, members: Sequence[int]) -> Cluster:
    frames = [dataset.frames[n] for n in members]
    return Cluster(
        kind=kind,
        frames=tuple(Named(name=dataset.relative(f), classes=f.classes, split=f.split) for f in frames),
        leaks=len({f.split for f in frames if f.split is not None}) > 1,
        two_labels=len({f.classes for f in frames}) > 1,
        one_group=len({f.group for f in frames}) == 1,
    )


def _equal(keys: Mapping[int, str]) -> Iterable[list[int]]:
    members = defaultdict[str, list[int]](list)
    for n, key in keys.items():
        members[key].append(n)
    return (found for found in members.values() if len(found) > 1)


def _connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    owner = dict[int, list[int]]()
    for first, second in pairs:
        one, other = owner.setdefault(first, [first]), owner.setdefault(second, [second])
        if one is not other:
            one.extend(other)
            owner.update(dict.fromkeys(other, one))
    return [sorted(members) for members in {id(found): found for found in owner.values()}.values()]


def _class_facts(dataset: Dataset, facts: Mapping[int, _Facts]) -> tuple[ClassFacts, ...]:
    rows = list[ClassFacts]()
    for leaf in range(dataset.taxonomy.num_leaves):
        path = dataset.taxonomy.path_of_leaf(leaf)
        own = [n for n, frame in enumerate(dataset.frames) if frame.classes == path]
        read = [facts[n] for n in own if n in facts]
        rows.append(
            ClassFacts(
                classes=path,
                num_frames=len(own),
                num_groups=len({dataset.frames[n].group for n in own}),
                splits=_splits([dataset.frames[n] for n in own]),
                depths=dict(Counter(fact.depth for fact in read)),
                pixel_size_um=_range(fact.pixel_size_um for fact in read),
                num_with_pixel_size=sum(fact.pixel_size_um is not None for fact in read),
            )
        )
    return tuple(rows)


def _splits(frames: Sequence[LabelledFrame]) -> dict[str, int]:
    counts = Counter[str](frame.split or "none" for frame in frames)
    return {name: counts[name] for name in (*SPLITS, "none") if name != "none" or counts["none"]}


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def _warnings(report: DataReport) -> Iterable[str]:
    counts = {"/".join(row.classes): row.num_frames for row in report.classes}
    few, many = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[many] > 10 * counts[few]:
        yield f"{many} has {counts[many]} frames, {few} only {counts[few]}: report per-class recall beside accuracy"
    if len(report.depths) > 1:
        mix = ", ".join(f"{num} {depth}" for depth, num in sorted(report.depths.items()))
        single = ["/".join(row.classes) for row in report.classes if len(row.depths) == 1]
        tied = f"; {', '.join(single)} has one depth only: look whether depth tells the class" if single else ""
        yield f"bit depths are mixed ({mix}){tied}"
    for cluster in report.clusters:
        if cluster.two_labels and cluster.kind != "group":
            first, *_, last = cluster.frames
            yield f"{cluster.kind}, but not one label: {first.name} … {last.name}; correct one"
    ranges = [row for row in report.classes if row.pixel_size_um]
    for one, other in ((a, b) for n, a in enumerate(ranges) for b in ranges[n + 1 :]):
        (low, high), (low2, high2) = one.pixel_size_um or (0, 0), other.pixel_size_um or (0, 0)
        if high < low2 or high2 < low:
            yield (
                f"{'/'.join(one.classes)} ({low:.3g}–{high:.3g} µm per pixel) and {'/'.join(other.classes)}"
                f" ({low2:.3g}–{high2:.3g}) share no magnification: the network may learn that instead"
            )
    if loose := [c for c in report.clusters if not c.leaks and not c.one_group]:
        yield f"{len(loose)} clusters of copies are not of one group: another split could part them; give them one"
