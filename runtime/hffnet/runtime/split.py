"""Frames divided into train, val and test: no group in two of them, every class in all of them, the same every time."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from hffnet.runtime.dataset import Dataset, Split
from hffnet.runtime.errors import ConfigError, DatasetError

SPLITS: tuple[Split, ...] = get_args(Split)

Counts = npt.NDArray[np.int64]


def split_dataset(dataset: Dataset, seed: int, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)) -> Dataset:
    """Give every frame a split, whole groups at a time, each class divided by ``fractions``.

    Frames that already have a split keep it, and their group follows them. The rest are placed greedily, largest
    group first, where the classes they hold are furthest below their share; then a class missing from a split gets
    its smallest group from where it has most. Order comes from SHA-256 of seed and group name, so the result depends
    neither on the order of the files nor on a library's random generator.

    Args:
        dataset: as opened.
        seed: any integer.
        fractions: shares of (train, val, test), adding up to 1; a share of 0 leaves that split empty.

    Raises:
        ConfigError: the fractions are no shares.
        DatasetError: a group is given in two splits, or a class is absent from a split with a share above 0.
    """
    if min(fractions) < 0 or fractions[0] == 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ConfigError(f"the shares of train, val and test are {fractions}; expected three that add up to 1")
    leaf_of = {dataset.taxonomy.path_of_leaf(leaf): leaf for leaf in range(dataset.taxonomy.num_leaves)}
    members: defaultdict[str, Counts] = defaultdict(lambda: np.zeros(len(leaf_of), dtype=np.int64))
    for frame in dataset.frames:
        members[frame.group][leaf_of[frame.classes]] += 1
    chosen = _given(dataset)
    _place(members, chosen, seed, fractions)
    _fill_gaps(members, chosen, {frame.group for frame in dataset.frames if frame.split}, fractions)
    frames = tuple(replace(frame, split=SPLITS[chosen[frame.group]]) for frame in dataset.frames)
    divided = replace(dataset, frames=frames)
    _check_complete(divided, fractions)
    return divided


def _given(dataset: Dataset) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for frame in dataset.frames:
        if frame.split is None:
            continue
        s = SPLITS.index(frame.split)
        if chosen.setdefault(frame.group, s) != s:
            raise DatasetError(
                f"{frame.path} is given as {frame.split}, but its group ({frame.group}) also stands in "
                f"{SPLITS[chosen[frame.group]]}; a specimen, source frame or duplicate belongs to one split"
            )
    return chosen


def _place(members: Mapping[str, Counts], chosen: dict[str, int], seed: int, fractions: Sequence[float]) -> None:
    total_L = np.maximum(sum(members.values(), np.zeros(1, dtype=np.int64)), 1)
    target_SL = np.outer(fractions, total_L)
    have_SL = np.zeros_like(target_SL)
    for group, s in chosen.items():
        have_SL[s] += members[group]

    def order(group: str) -> tuple[int, bytes]:
        return -int(members[group].sum()), hashlib.sha256(f"{seed} {group}".encode()).digest()

    for group in sorted(members.keys() - chosen.keys(), key=order):
        need_S = ((target_SL - have_SL) / total_L) @ (members[group] / total_L)
        s = int(np.argmax(np.where(np.asarray(fractions) > 0, need_S, -np.inf)))
        chosen[group] = s
        have_SL[s] += members[group]


def _fill_gaps(
    members: Mapping[str, Counts], chosen: dict[str, int], fixed: set[str], fractions: Sequence[float]
) -> None:
    """Move the smallest group of a class into a split that has none of it, where the giving split keeps one."""
    num_leaves = len(next(iter(members.values())))
    groups_of = [sorted(g for g in members if members[g][leaf]) for leaf in range(num_leaves)]
    for leaf in sorted(range(num_leaves), key=lambda leaf: len(groups_of[leaf])):
        for s in (s for s in range(len(SPLITS)) if fractions[s] > 0):
            if any(chosen[g] == s for g in groups_of[leaf]):
                continue
            free = [g for g in groups_of[leaf] if g not in fixed and not _is_last(g, members, chosen)]
            if free:
                giver = max(SPLITS, key=lambda name: sum(chosen[g] == SPLITS.index(name) for g in free))
                moved = [g for g in free if chosen[g] == SPLITS.index(giver)]
                chosen[min(moved, key=lambda g: (int(members[g].sum()), g))] = s


def _is_last(group: str, members: Mapping[str, Counts], chosen: Mapping[str, int]) -> bool:
    """Whether some class would vanish from the group's split without it."""
    rest = sum((m for g, m in members.items() if g != group and chosen[g] == chosen[group]), np.zeros(1, np.int64))
    return bool(np.any((members[group] > 0) & (rest == 0)))


def _check_complete(dataset: Dataset, fractions: Sequence[float]) -> None:
    for split, share in zip(SPLITS, fractions, strict=True):
        present = {frame.classes for frame in dataset.frames_of(split)}
        for leaf in range(dataset.taxonomy.num_leaves):
            path = dataset.taxonomy.path_of_leaf(leaf)
            if share > 0 and path not in present:
                own = [frame for frame in dataset.frames if frame.classes == path]
                raise DatasetError(
                    f"split {split} has no frame of class {'/'.join(path)}, which has {len(own)} frames in "
                    f"{len({frame.group for frame in own})} groups; expected a group for each split: add frames, "
                    "check the group and split columns, or set that split's share to 0"
                )
