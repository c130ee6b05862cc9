"""Frames larger than what the network was trained on: cut into overlapping tiles, decided on as one field of view.

A network knows fracture at one scale. A large frame squeezed into its input is at another scale, so it is cut into
squares of the size (in micrometres) that train frames had. What the tiles say is put together as area: which share of
the field shows which class, and where. A field that shows several is "mixed", which is a normal answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hffnet.runtime.decode import Decision, DecodeSpec, decision_from_leaves, decode
from hffnet.runtime.engines import Outputs
from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Frame, GreyPixels
from hffnet.runtime.gates import full_scale
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

MOST_TILES = 4096
_LARGER_BY = 1.5
"""A frame is tiled where its shorter side is this many tiles; below, the whole frame is the better view."""


class TileSettings(BaseModel):
    """How large frames are cut.

    Attributes:
        side_um: side of a tile in micrometres: the field of view of the train frames.
        side_px: side of a tile in pixels, for frames that do not say their scale; one of the two, or both.
        overlap: share of a tile that the next one covers again.
        mixed_share: a class that covers at least this share of the field is a mode of it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    side_um: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    side_px: Annotated[int, Field(ge=32, le=65536)] | None = None
    overlap: Annotated[float, Field(ge=0.0, le=0.75)] = 0.25
    mixed_share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.2

    @model_validator(mode="after")
    def _has_side(self) -> Self:
        if self.side_um is None and self.side_px is None:
            raise ValueError("give side_um, side_px or both: the size of a tile")
        return self

    def side_of(self, frame: Frame) -> int | None:
        """Side of a tile in the frame's pixels; None where the frame is not to be cut.

        Raises:
            FrameError: it would be cut into too many tiles.
        """
        pixel_size_um = frame.acquisition.pixel_size_um
        side = round(self.side_um / pixel_size_um) if self.side_um and pixel_size_um else self.side_px
        height, width = frame.picture.shape
        if side is None or min(height, width) < _LARGER_BY * side:
            return None
        step = max(side * (1 - self.overlap), 1)
        if side < 32 or (height / step + 1) * (width / step + 1) > MOST_TILES:
            raise FrameError(
                f"{frame.name}: tiles of {side} pixels were asked for in a picture of {width}x{height}; expected at"
                f" least 32 pixels and at most {MOST_TILES} tiles: check the frame's scale and the tiles' side"
            )
        return side


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What a field of view shows.

    Attributes:
        num_tiles, num_classified: tiles in all, and those that were fit to be classified.
        tile_px: side of a tile.
        shares: level name to class name to share of the classified area.
        modes: complete paths that cover enough of it to be named, largest first; none where nothing reaches that.
        is_mixed: whether there are several.
    """

    num_tiles: int
    num_classified: int
    tile_px: int
    shares: Mapping[str, Mapping[str, float]]
    modes: tuple[ClassPath, ...]
    is_mixed: bool

    def in_words(self) -> str:
        """The largest shares of the last level, in one line."""
        shares = list(self.shares.values())[-1]
        largest = sorted(shares.items(), key=lambda item: -item[1])[:4]
        shown = ", ".join(f"{name} {share:.0%}" for name, share in largest if share > 0)
        how = f"{self.num_classified} of {self.num_tiles} tiles of {self.tile_px} px"
        return f"{'mixed: ' if self.is_mixed else ''}{shown} ({how})"


FieldResult = tuple[Decision, Area, npt.NDArray[np.float32], npt.NDArray[np.float32]]


def origins(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin along one direction: evenly spaced, the first at the start, the last at the end.

    >>> origins(1000, 400, 0.25)
    [0, 300, 600]
    """
    step = side * (1 - overlap)
    num = max(1, int(np.ceil((length - side) / step)) + 1)
    return [round(start) for start in np.linspace(0, length - side, num)]


class FieldOfView:
    """Collects what the tiles of one frame say, cell by cell; a cell is one position of the network's evidence."""

    def __init__(self, frame: Frame, side: int, settings: TileSettings, taxonomy: Taxonomy) -> None:
        self._picture, self._side, self._settings, self._taxonomy = frame.picture, side, settings, taxonomy
        height, width = self._picture.shape
        self.tiles = [
            (top, left)
            for top in origins(height, side, settings.overlap)
            for left in origins(width, side, settings.overlap)
        ]
        self._num_classified = 0
        self._evidence: npt.NDArray[np.float32] | None = None  # (ΣC, rows, columns), sums
        self._leaves: npt.NDArray[np.float64] | None = None  # (leaves, rows, columns), sums
        self._weight: npt.NDArray[np.float64] | None = None  # (rows, columns)
        self._logits: list[npt.NDArray[np.float32]] = []

    def pictures(self, min_contrast: float) -> Iterator[tuple[tuple[int, int], GreyPixels]]:
        """Tiles that show something, with their places."""
        top_level = full_scale(self._picture)
        for top, left in self.tiles:
            tile = self._picture[top : top + self._side, left : left + self._side]
            if float(tile.std()) / top_level >= min_contrast:
                yield (top, left), tile

    def add(self, places: list[tuple[int, int]], outputs: Outputs, spec: DecodeSpec) -> None:
        """Take in what the network says of some tiles."""
        decisions = decode(outputs.logits, self._taxonomy, spec)
        for (top, left), decision, evidence, logits in zip(
            places, decisions, outputs.evidence, outputs.logits, strict=True
        ):
            cells = self._cells(top, left, evidence.shape[1], evidence.shape[2])
            assert self._evidence is not None
            assert self._leaves is not None
            assert self._weight is not None
            self._evidence[:, *cells] += evidence
            self._leaves[:, *cells] += decision.probabilities[-1][:, None, None]
            self._weight[cells] += 1
            self._logits.append(logits)
            self._num_classified += 1

    def result(
        self, spec: DecodeSpec
    ) -> tuple[Decision, Area, npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Decision, areas, logits (ΣC,) and evidence (ΣC, rows, columns); None where no tile was fit."""
        if self._weight is None or self._evidence is None or self._leaves is None:
            return None
        seen = self._weight > 0
        weight = np.maximum(self._weight, 1)
        leaves_LC = self._leaves[:, seen] / weight[seen]
        winners = np.bincount(leaves_LC.argmax(axis=0), minlength=len(leaves_LC)) / leaves_LC.shape[1]
        decision = decision_from_leaves(leaves_LC.mean(axis=1), self._taxonomy, spec)
        order = np.argsort(-winners, kind="stable")
        modes = tuple(
            self._taxonomy.path_of_leaf(int(leaf)) for leaf in order if winners[leaf] >= self._settings.mixed_share
        )
        area = Area(
            num_tiles=len(self.tiles),
            num_classified=self._num_classified,
            tile_px=self._side,
            shares=self._shares(winners),
            modes=modes,
            is_mixed=len(modes) > 1,
        )
        if area.is_mixed:
            decision = _held_back(decision, modes)
        logits = np.asarray(np.mean(self._logits, axis=0), np.float32)
        return decision, area, logits, np.asarray(self._evidence / weight, np.float32)

    def _cells(self, top: int, left: int, rows: int, columns: int) -> tuple[slice, slice]:
        """The cells of a tile; the grid is made when the first tile tells how fine the network's evidence is."""
        if self._weight is None:
            height, width = self._picture.shape
            shape = (round(height * rows / self._side), round(width * columns / self._side))
            num_columns = sum(self._taxonomy.num_classes)
            self._weight = np.zeros(shape)
            self._leaves = np.zeros((self._taxonomy.num_leaves, *shape))
            self._evidence = np.zeros((num_columns, *shape), np.float32)
        first_row = min(round(top * rows / self._side), self._weight.shape[0] - rows)
        first_column = min(round(left * columns / self._side), self._weight.shape[1] - columns)
        return slice(first_row, first_row + rows), slice(first_column, first_column + columns)

    def _shares(self, winners_L: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
        shares = dict[str, dict[str, float]]()
        for i, level in enumerate(self._taxonomy.levels):
            sums = np.bincount(self._taxonomy.leaf_paths[:, i], winners_L, len(level.classes))
            shares[level.name] = {name: round(float(s), 6) for name, s in zip(level.classes, sums, strict=True)}
        return shares


def map_for_record(evidence_hw: npt.NDArray[np.float32], most: int = 48) -> npt.NDArray[np.float32]:
    """The same map, coarser where a side has more than ``most`` cells, so that a record stays small."""
    height, width = evidence_hw.shape
    if max(height, width) <= most:
        return evidence_hw
    shrink = most / max(height, width)
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    return np.asarray(cv2.resize(evidence_hw, size, interpolation=cv2.INTER_AREA), np.float32)


def _held_back(decision: Decision, modes: tuple[ClassPath, ...]) -> Decision:
    """A mixed field is answered as far as its modes agree."""
    depth = 0
    for parts in zip(*modes, strict=False):
        if len(set(parts)) > 1:
            break
        depth += 1
    common = modes[0][:depth]
    answer = decision.answer[:depth] if decision.path[:depth] == common else ()
    return Decision(
        path=decision.path, confidence=decision.confidence, answer=answer, probabilities=decision.probabilities
    )
