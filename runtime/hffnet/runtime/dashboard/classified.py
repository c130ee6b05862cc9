"""What can be drawn or said of evidence that came as raw maps: a layer for a program, the answers of tiles."""

import base64

import numpy as np
import numpy.typing as npt

from hffnet.runtime.dashboard.pictures import evidence_png
from hffnet.runtime.dashboard.wire import Message, WireError
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.field_of_view import origins
from hffnet.runtime.record import Json, Record
from hffnet.runtime.taxonomy import Taxonomy

_LAYER_WIDTH = 640


def evidence_document(answer: Message, taxonomy: Taxonomy) -> Json:
    """The layer for the most probable class of the answered depth; None where nothing was classified."""
    shape, document = answer.fields.get("evidence"), answer.fields["document"]
    if not isinstance(shape, list) or not isinstance(document, dict):
        return None
    try:
        maps = np.frombuffer(answer.payload, np.float32).reshape([int(str(n)) for n in shape])
    except ValueError as error:
        raise WireError(f"evidence does not have the size it says ({error})") from error
    path, answered, crop = document["class_path"], document["answer"], document["crop"]
    if not (isinstance(path, list) and isinstance(answered, list) and isinstance(crop, dict)) or not path:
        return None
    depth = max(len(answered), 1) - 1
    columns, name = taxonomy.slices()[depth], str(path[depth])
    grid = maps[columns.start + taxonomy.levels[depth].classes.index(name)]
    height = min(max(round(_LAYER_WIDTH * int(str(crop["height"])) / int(str(crop["width"]))), 1), 4 * _LAYER_WIDTH)
    png = evidence_png(grid, float(maps[columns].max()), (_LAYER_WIDTH, height))
    text = base64.b64encode(png).decode()
    return {"class": name, "width": _LAYER_WIDTH, "height": height, "png_base64": text}


def tiles_document(
    record: Record, maps: npt.NDArray[np.float32] | None, taxonomy: Taxonomy, spec: DecodeSpec, overlap: float
) -> dict[str, Json] | None:
    """How a large frame was cut; None where it was not.

    Args:
        record: of the frame.
        maps: its evidence, (ΣC, rows, columns); None where that is not at hand: then no tile says anything.
        taxonomy: the class tree.
        spec: how logits become decisions; a tile's logits are the mean of its part of the evidence.
        overlap: share of a tile that the next one covers.
    """
    area, crop = (record.details or {}).get("area"), record.crop
    if not isinstance(area, dict) or crop is None:
        return None
    height, width, side = int(str(crop["height"])), int(str(crop["width"])), int(str(area["tile_px"]))
    places = [(top, left) for top in origins(height, side, overlap) for left in origins(width, side, overlap)]
    if len(places) != area["num_tiles"]:  # cut by a run with another overlap: nobody knows where
        places = []
    paths: list[tuple[Json, Json]] = [(None, None)] * len(places)
    if maps is not None and places:
        logits = np.stack(
            [_mean(maps, top / height, left / width, side / height, side / width) for top, left in places]
        )
        seen = [bool(np.any(row)) for row in logits]  # places that no tile was fit for hold nothing but zeros
        decisions = decode(logits, taxonomy, spec)
        paths = [
            (list(one.answer), list(one.confidence)) if is_seen else (None, None)
            for one, is_seen in zip(decisions, seen, strict=True)
        ]
    tiles: list[Json] = [
        {
            "left": left / width,
            "top": top / height,
            "width": side / width,
            "height": side / height,
            "path": path,
            "confidence": confidence,
        }
        for (top, left), (path, confidence) in zip(places, paths, strict=True)
    ]
    told = {name: area[name] for name in ("tile_px", "num_tiles", "num_classified", "shares", "modes", "is_mixed")}
    return {"schema_version": 1, **told, "tiles": tiles}


def _mean(
    maps: npt.NDArray[np.float32], top: float, left: float, height: float, width: float
) -> npt.NDArray[np.float32]:
    _, rows, columns = maps.shape
    first_row, first_column = round(top * rows), round(left * columns)
    last_row = max(round((top + height) * rows), first_row + 1)
    last_column = max(round((left + width) * columns), first_column + 1)
    mean: npt.NDArray[np.float32] = maps[:, first_row:last_row, first_column:last_column].mean(axis=(1, 2))
    return mean
