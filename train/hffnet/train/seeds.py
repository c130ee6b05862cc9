"""Random numbers by place, not by history: the seed of a step follows from the run's seed and the step's number.

So nothing of a generator needs saving, and a resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib

import numpy as np


def seed_from(seed: int, purpose: str, *place: int) -> int:
    """A seed of 63 bits for one purpose at one place (epoch, step ...).

    >>> seed_from(0, "order", 1) == seed_from(0, "order", 1) != seed_from(0, "order", 2)
    True
    """
    digest = hashlib.sha256(" ".join([str(seed), purpose, *map(str, place)]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def batches_of(
    num_frames: int, batch_size: int, seed: int, epoch: int
) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The epoch's frames in random order, in batches of at most ``batch_size`` that differ by one frame at most.

    >>> [len(batch) for batch in batches_of(10, 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    order = np.random.default_rng(seed_from(seed, "order", epoch)).permutation(num_frames)
    return list(np.array_split(order, -(-num_frames // batch_size)))
