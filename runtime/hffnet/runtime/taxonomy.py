"""The class tree: named levels, each class with one parent in the level above.

Every leaf stands on the last level, so every frame has exactly one class per level. The tree knows nothing of
networks or probabilities.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from hffnet.runtime.errors import ConfigError

ClassPath = tuple[str, ...]
"""Class names from the first level down; complete when it has one name per level."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/\\]+$")]


class Level(BaseModel):
    """One level: class names, and for each the index of its parent in the level above (empty on the first)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Name
    classes: tuple[Name, ...]
    parents: tuple[int, ...] = ()


class Taxonomy(BaseModel):
    """A tree of classes with any number of levels ≥ 1; two in the paper (2 and 6 classes).

    >>> tree = Taxonomy.from_paths([("mechanical", "fatigue"), ("mechanical", "dimples"), ("thermal", "spalling")])
    >>> tree.num_classes
    (2, 3)
    >>> tree.path_of_leaf(2)
    ('thermal', 'spalling')
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    levels: tuple[Level, ...]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        if not self.levels:
            raise ValueError("the taxonomy has no level; at least one is expected")
        if self.levels[0].parents:
            raise ValueError(f"level {self.levels[0].name!r} is the first and can have no parents")
        for above, level in zip((None, *self.levels), self.levels, strict=False):
            if not level.classes:
                raise ValueError(f"level {level.name!r} has no class")
            if len(set(level.classes)) != len(level.classes):
                raise ValueError(f"level {level.name!r} names a class twice: {sorted(level.classes)}")
            if above is None:
                continue
            if len(level.parents) != len(level.classes):
                raise ValueError(
                    f"level {level.name!r} has {len(level.classes)} classes but {len(level.parents)} parents"
                )
            if set(level.parents) != set(range(len(above.classes))):
                raise ValueError(f"level {level.name!r} must give every class of {above.name!r} at least one child")
        if len({level.name for level in self.levels}) != len(self.levels):
            raise ValueError("two levels have the same name")
        return self

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[str]], level_names: Sequence[str] | None = None) -> Self:
        """The smallest tree that holds all complete class paths, classes sorted by name within their parent.

        Raises:
            ConfigError: the paths differ in length, or one class has two parents.
        """
        unique = sorted({tuple(path) for path in paths})
        if not unique or not unique[0]:
            raise ConfigError("no class path was given; at least one labelled frame is expected")
        depth = len(unique[0])
        if uneven := [path for path in unique if len(path) != depth]:
            raise ConfigError(
                f"class path {'/'.join(uneven[0])} has {len(uneven[0])} levels where {'/'.join(unique[0])} has {depth};"
                " every frame needs one class per level"
            )
        names = tuple(level_names) if level_names is not None else tuple(f"level{i + 1}" for i in range(depth))
        levels = list[Level]()
        above: tuple[ClassPath, ...] = ()
        for i in range(depth):
            prefixes = tuple(dict.fromkeys(path[: i + 1] for path in unique))
            classes = tuple(prefix[-1] for prefix in prefixes)
            if len(set(classes)) != len(classes):
                double = next(name for name in classes if classes.count(name) > 1)
                parents = " and ".join(prefix[-2] for prefix in prefixes if prefix[-1] == double)
                raise ConfigError(f"class {double!r} has two parents, {parents}; a class has one: rename one of them")
            index_above = {prefix: k for k, prefix in enumerate(above)}
            parents_of = () if i == 0 else tuple(index_above[prefix[:-1]] for prefix in prefixes)
            levels.append(Level(name=names[i], classes=classes, parents=parents_of))
            above = prefixes
        return cls(levels=tuple(levels))

    @classmethod
    def read(cls, path: FilePath) -> Self:
        """Read ``taxonomy.json``; raises ConfigError when it is not a tree."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path} is not a readable taxonomy: {error}") from error

    @property
    def depth(self) -> int:
        """How many levels there are."""
        return len(self.levels)

    @property
    def num_classes(self) -> tuple[int, ...]:
        """How many classes each level has, from the first down."""
        return tuple(len(level.classes) for level in self.levels)

    @property
    def num_leaves(self) -> int:
        """How many classes the last level has: one complete path each."""
        return len(self.levels[-1].classes)

    @cached_property
    def leaf_paths(self) -> np.ndarray[tuple[int, int], np.dtype[np.intp]]:
        """Class index at every level for every leaf, shape (num_leaves, depth), read-only."""
        paths = np.empty((self.num_leaves, self.depth), dtype=np.intp)
        paths[:, -1] = np.arange(self.num_leaves)
        for i in range(self.depth - 1, 0, -1):
            paths[:, i - 1] = np.asarray(self.levels[i].parents, dtype=np.intp)[paths[:, i]]
        paths.setflags(write=False)
        return paths

    def slices(self) -> tuple[slice, ...]:
        """Where each level's classes lie in the ΣC columns of ``logits`` and ``evidence``, first level first."""
        ends = np.cumsum(self.num_classes).tolist()
        return tuple(slice(end - n, end) for end, n in zip(ends, self.num_classes, strict=True))

    def path_of_leaf(self, leaf: int) -> ClassPath:
        """Class names from the first level down to leaf number ``leaf``."""
        return tuple(level.classes[k] for level, k in zip(self.levels, self.leaf_paths[leaf], strict=True))

    def indices_of_path(self, path: Sequence[str]) -> tuple[int, ...]:
        """Class index per level of a complete class path.

        Raises:
            ConfigError: the path is not one of this tree; the message lists those that are.
        """
        for leaf in range(self.num_leaves):
            if self.path_of_leaf(leaf) == tuple(path):
                return tuple(int(k) for k in self.leaf_paths[leaf])
        known = ", ".join("/".join(self.path_of_leaf(leaf)) for leaf in range(self.num_leaves))
        raise ConfigError(f"class path {'/'.join(path)!r} is not in the taxonomy; it has: {known}")
