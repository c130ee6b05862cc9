"""One walk over the pixels answers what five passes answered."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.levels import levels_of


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(np.uint8, 255), (np.uint16, 65535), (np.uint16, 4095), (np.uint16, 4000), (np.float32, 1)]),
    st.integers(1, 900),
    st.integers(1, 500),
    st.integers(0, 2**32 - 1),
)
def test_what_numpy_counts(kind: tuple[type, int], rows: int, columns: int, seed: int) -> None:
    dtype, top = kind
    rng = np.random.default_rng(seed)
    stored: GreyPixels = (rng.uniform(-0.1, 1.1, (rows + 3, columns + 5)).clip(0, 1) * top).astype(dtype)
    picture: GreyPixels = stored[1 : rows + 1, 2 : columns + 2]  # a view with gaps, as a cropped frame is
    found, exact = levels_of(picture), picture.astype(np.float64)
    tops = (1023, 4095, 16383, 65535) if dtype is np.uint16 else (top,)
    assert found.full_scale == next(one for one in tops if exact.max() <= one)
    assert found.black == pytest.approx(np.mean(exact == 0))
    assert found.white == pytest.approx(np.mean(exact >= found.full_scale))
    if dtype is not np.float32:
        total, squares = (int(np.sum(picture.astype(np.int64) ** power)) for power in (1, 2))
        assert found.mean == total / picture.size
        assert found.std == math.sqrt(max(squares / picture.size - found.mean * found.mean, 0.0))
    assert math.isclose(found.mean, exact.mean(), rel_tol=1e-6)
    assert math.isclose(found.std, exact.std(), rel_tol=1e-6, abs_tol=1e-6 * top)


def test_the_brightest_level_is_counted_wherever_it_begins() -> None:
    picture = np.full((4000, 100), 4095, np.uint16)  # several pieces
    picture[-1, :7] = 65535
    assert levels_of(picture).white == 7 / picture.size
    assert levels_of(picture[:-1]).white == 1.0
