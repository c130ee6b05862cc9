"""Random numbers by place, not by history: the seed of a step follows from the run's seed and the step's number.

So nothing of a generator needs saving, and a resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def seed_from(seed: int, purpose: str, *place: int) -> int:
    """A seed of 63 bits for one purpose at one place (epoch, step ...).

    >>> seed_from(0, "order", 1) == seed_from(0, "order", 1) != seed_from(0, "order", 2)
    True
    """
    digest = hashlib.sha256(" ".join([str(seed), purpose, *map(str, place)]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def batches_of(num_frames: int, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The epoch's frames in random order, in batches of at most ``batch_size`` that differ by one frame at most.

    >>> [len(batch) for batch in batches_of(10, 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    order = np.random.default_rng(seed_from(seed, "order", epoch)).permutation(num_frames)
    return _divided(order, batch_size)


def balanced_batches_of(leaves: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """As many frames as there are, but of every class equally many (by one), in random order.

    A class with few frames shows each of them several times, none twice as often as another; of a class with many,
    every epoch shows others.

    Args:
        leaves: class of each frame on the last level.
        batch_size: see `batches_of`, as the two below.
        seed: of the run.
        epoch: from 0.

    >>> batches = balanced_batches_of([0] * 8 + [1] * 2, 5, seed=0, epoch=0)
    >>> int(sum((batch >= 8).sum() for batch in batches))
    5
    """
    random = np.random.default_rng(seed_from(seed, "order", epoch))
    classes = [np.flatnonzero(np.asarray(leaves) == leaf) for leaf in sorted(set(leaves))]
    shares = [len(part) for part in np.array_split(np.arange(len(leaves)), len(classes))]
    drawn = []
    for members, share in zip(classes, random.permutation(shares), strict=True):
        rounds = -(-share // len(members))
        drawn.append(np.concatenate([random.permutation(members) for _ in range(rounds)])[:share])
    return _divided(random.permutation(np.concatenate(drawn)), batch_size)


def _divided(order: Indices, batch_size: int) -> list[Indices]:
    return list(np.array_split(order, -(-len(order) // batch_size)))
