"""Grey TIFF files as FEI/Thermo microscopes write them: picture, info bar under it, acquisition settings in a tag.

The layout follows files of Helios and Nova instruments: ASCII tag 34682 holds INI text, lengths in metres; the
picture's rows stand in ``[Image] ResolutionY``, the bar's in ``[PrivateFei] DatabarHeight``.
"""

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from hffnet.train.relief import Field

FEI_TAG = 34682


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator chose for one frame; nothing here depends on what is seen.

    Attributes:
        pixel_size_um: micrometres per pixel.
        high_voltage_kv: beam energy.
        working_distance_mm: lens to specimen.
        dwell_us: time per pixel.
        number: running number of the frame, for the time stamp and the label.
    """

    pixel_size_um: float
    high_voltage_kv: float
    working_distance_mm: float
    dwell_us: float
    number: int

    @classmethod
    def draw(cls, rng: np.random.Generator, *, pixel_size_um: float, number: int) -> "Settings":
        """Settings as found in daily work: 5 to 20 kV, 4 to 12 mm."""
        return cls(
            pixel_size_um=pixel_size_um,
            high_voltage_kv=float(rng.choice([5.0, 10.0, 15.0, 20.0])),
            working_distance_mm=round(float(rng.uniform(4.0, 12.0)), 2),
            dwell_us=float(rng.choice([1.0, 3.0, 10.0])),
            number=number,
        )


def bar_rows(picture_rows: int) -> int:
    """Height of the info bar: 29 rows under 442 rows of picture, in proportion otherwise."""
    return max(round(picture_rows * 29 / 442), 12)


def info_bar(width: int, rows: int, settings: Settings) -> npt.NDArray[np.uint8]:
    """White text and a scale bar on black, (rows, width)."""
    bar = np.zeros((rows, width), dtype=np.uint8)
    bar[0] = 255
    field_um = width * settings.pixel_size_um
    scale_um = _round_length(field_um / 6)
    texts = (
        f"{settings.high_voltage_kv:.2f} kV",
        f"HFW {field_um:.1f} um",
        f"WD {settings.working_distance_mm:.1f} mm",
        "ETD",
        f"{scale_um:g} um",
    )
    size, base = rows / 70, round(rows * 0.68)
    edges = np.linspace(0, width * 0.72, len(texts)).round().astype(int)
    for text, left in zip(texts, edges, strict=True):
        cv2.putText(bar, text, (int(left) + 6, base), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
        bar[:, left] = 255
    end = width - 6
    start = end - min(round(scale_um / settings.pixel_size_um), round(width * 0.17))
    cv2.line(bar, (start, rows // 2), (end, rows // 2), 255, 1)
    for tick in (start, end):
        cv2.line(bar, (tick, rows // 3), (tick, rows - rows // 3), 255, 1)
    return bar


def _round_length(most: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``most``."""
    decade = 10.0 ** math.floor(math.log10(most))
    return max(step * decade for step in (1.0, 2.0, 5.0) if step * decade <= most)


def metadata_text(settings: Settings, rows: int, columns: int) -> str:
    """The INI text of tag 34682 for a picture of ``rows`` × ``columns`` pixels; lines end as the instrument's do."""
    pixel_m, dwell_s = settings.pixel_size_um * 1e-6, settings.dwell_us * 1e-6
    hour, minute, second = settings.number // 3600 % 24, settings.number // 60 % 60, settings.number % 60
    scan: dict[str, object] = {
        "InternalScan": "true",
        "Dwelltime": f"{dwell_s:g}",
        "PixelWidth": f"{pixel_m:.6g}",
        "PixelHeight": f"{pixel_m:.6g}",
        "HorFieldsize": f"{pixel_m * columns:.6g}",
        "VerFieldsize": f"{pixel_m * rows:.6g}",
        "FrameTime": f"{dwell_s * rows * columns:.6g}",
    }
    volts = f"{settings.high_voltage_kv * 1000:g}"
    distance_m = f"{settings.working_distance_mm * 1e-3:.6g}"
    sections: dict[str, dict[str, object]] = {
        "User": {"Date": "01/02/2026", "Time": f"{hour:02d}:{minute:02d}:{second:02d}", "User": "synthetic"},
        "System": {"Type": "SEM", "Software": "hffnet.train.synthetic", "SystemType": "drawn, not recorded"},
        "Beam": {"HV": volts, "Spot": 3, "ScanRotation": 0, "ImageMode": "Normal", "Beam": "EBeam", "Scan": "EScan"},
        "EBeam": {"HV": volts, "HFW": scan["HorFieldsize"], "VFW": scan["VerFieldsize"], "WD": distance_m},
        "Scan": scan,
        "Stage": {"StageX": 0, "StageY": 0, "StageR": 0, "StageT": 0, "WorkingDistance": distance_m},
        "Image": {"Average": 0, "Integrate": 1, "ResolutionX": columns, "ResolutionY": rows},
        "Detectors": {"Number": 1, "Name": "ETD", "Mode": "SE"},
        "PrivateFei": {"DataBarSelected": "HV HFW WD det MicronBar", "DatabarHeight": bar_rows(rows)},
    }
    blocks = ("\r\n".join((f"[{name}]", *(f"{k}={v}" for k, v in keys.items()))) for name, keys in sections.items())
    return "\r\n\r\n".join(blocks) + "\r\n"


def write_fei_tiff(path: Path, picture: Field, settings: Settings, bits: Literal[8, 16]) -> None:
    """Write one frame; ``path`` appears only when the file is complete.

    Args:
        path: file to write, replaced if it stands.
        picture: (H, W) float32 in 0..1.
        settings: what the bar and the metadata say.
        bits: depth of the stored pixels.

    Raises:
        OSError: the disk refuses.
    """
    rows, columns = picture.shape
    bar = info_bar(columns, bar_rows(rows), settings)
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    if bits == 8:
        pixels = np.vstack([np.rint(picture * 255).astype(np.uint8), bar])
    else:
        pixels = np.vstack([np.rint(picture * 65535).astype(np.uint16), bar.astype(np.uint16) * 257])
    stored = io.BytesIO()
    text = metadata_text(settings, rows, columns)
    tifffile.imwrite(
        stored, pixels, photometric="minisblack", metadata=None, software=False, extratags=[(FEI_TAG, 2, 0, text, True)]
    )
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(stored.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
