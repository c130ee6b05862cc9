"""What the microscope wrote about the frame -> Acquisition, and where the info bar begins if it says so.

Metadata is hostile text: bounded, stripped of control characters, never trusted to be a number. Nothing here can make
a read fail; what cannot be understood is None and, where something was there, one warning in the log.

Sources: FEI/Thermo tags 34680 and 34682 (INI text, SI units); Zeiss tag 34118 (key line, then ``name = value unit``);
TESCAN tag 50431 and ``.hdr`` (``Key=Value``, SI units); JEOL ``.txt`` (``$CM_KEY value``); Hitachi ``.txt``
(``Key=Value unit``, pixel size in nm). "Magnification" is never read: it depends on the maker's screen.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from hffnet.runtime.frame import Acquisition

_LOG = logging.getLogger(__name__)

FEI_TAGS = (34682, 34680)
ZEISS_TAG = 34118
TESCAN_TAG = 50431
VENDOR_TAGS = frozenset({*FEI_TAGS, ZEISS_TAG, TESCAN_TAG})

_MAX_TEXT = 2**18
_MAX_VALUE = 120
_PIXEL_SIZE_UM = (1e-6, 1e4)
_METRES = {"fm": 1e-15, "pm": 1e-12, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3}
_VOLTS = {"mV": 1e-3, "V": 1.0, "Volt": 1.0, "kV": 1e3, "KV": 1e3, "MV": 1e6}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)")
_TESCAN_KEYS = (
    "PixelSizeX|HV|AcceleratorVoltage|WD|Detector|Detector0|Device|DeviceModel|UserName|FullUserName|Date|Time"
    "|ImageStripSize"
)
_TESCAN_LINE = re.compile(rf"(?<![A-Za-z0-9])({_TESCAN_KEYS})=([^\x00-\x1f]{{0,{_MAX_VALUE}}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """Metadata of one frame.

    Attributes:
        acquisition: what the record keeps.
        picture_size: (height, width) of the scan where the metadata states it; more stored rows are an info bar.
        bar_rows: rows of the info bar at the bottom where the metadata states it.
    """

    acquisition: Acquisition = field(default_factory=Acquisition)
    picture_size: tuple[int, int] | None = None
    bar_rows: int | None = None


def described_from_tags(tags: Mapping[int, bytes], size: tuple[int, int], name: str) -> Described:
    """Metadata in the raw bytes of a TIFF's vendor tags.

    Args:
        tags: bytes as stored, by tag code.
        size: (height, width) of the stored frame: a pixel size that belongs to another width is not used.
        name: of the frame, for the log.
    """
    for code in FEI_TAGS:
        if code in tags:
            return _safely(_described_from_fei, tags[code], size, name)
    if ZEISS_TAG in tags:
        return _safely(_described_from_zeiss, tags[ZEISS_TAG], size, name)
    if TESCAN_TAG in tags:
        return _safely(_described_from_tescan, tags[TESCAN_TAG], size, name)
    return Described()


def described_from_sidecar(data: bytes, size: tuple[int, int], name: str) -> Described:
    """Metadata in a text file beside the frame: TESCAN ``.hdr``, JEOL or Hitachi ``.txt``."""
    head = _decoded(data)[:4096]
    if "$CM_" in head or "$$SM_" in head:
        return _safely(_described_from_jeol, data, size, name)
    if "[SemImageFile]" in head:
        return _safely(_described_from_hitachi, data, size, name)
    if "[MAIN]" in head or "PixelSizeX=" in head:
        return _safely(_described_from_tescan, data, size, name)
    return Described()


def sidecars_of(source: Path) -> tuple[Path, ...]:
    """Where makers put the text that belongs to a frame: ``a.txt``, ``a.hdr``, ``a-tif.hdr``."""
    suffix = source.suffix.lstrip(".")
    return (
        source.with_suffix(".txt"),
        source.with_suffix(".hdr"),
        source.with_name(f"{source.stem}-{suffix}.hdr"),
    )


def printable(text: str, limit: int = _MAX_VALUE) -> str | None:
    r"""One line without control characters, at most ``limit`` long; None where nothing is left.

    >>> printable("SE2\x1b[31m\r\n")
    'SE2[31m'
    """
    kept = "".join(c for c in text[: 4 * limit] if c.isprintable()).strip()
    return kept[:limit] or None


def _safely(
    parse: Callable[[str, tuple[int, int], str], Described], data: bytes, size: tuple[int, int], name: str
) -> Described:
    try:
        return parse(_decoded(data), size, name)
    except Exception:  # noqa: BLE001 - bad metadata never costs the frame
        _LOG.warning("%s: metadata could not be understood and is left out", name, exc_info=True)
        return Described()


def _decoded(data: bytes) -> str:
    """Text of any maker: UTF-8 where valid, else Windows-1252, where Zeiss's micro sign is one byte."""
    text = data[:_MAX_TEXT]
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("cp1252", errors="replace")


def _described_from_fei(text: str, size: tuple[int, int], name: str) -> Described:
    ini = _sections(text)
    beam = ini.get("Beam", {}).get("Beam", "EBeam")
    optics = ini.get(beam, {}) or ini.get("EBeam", {})
    scan, image = ini.get("Scan", {}), ini.get("Image", {})
    width, height = _whole(image.get("ResolutionX")), _whole(image.get("ResolutionY"))
    metres, source = _number(scan.get("PixelWidth")), "FEI Scan.PixelWidth"
    if metres is None and width and (field_width := _number(optics.get("HFW"))) is not None:
        metres, source = field_width / width, f"FEI {beam}.HFW / Image.ResolutionX"
    if metres is not None and width and width != size[1]:
        _LOG.warning("%s: metadata of a scan %d wide, %d stored: its pixel size is not used", name, width, size[1])
        metres = None
    pixel_size_um = _pixel_size_um(metres, name)
    user = ini.get("User", {})
    return Described(
        acquisition=Acquisition(
            vendor="FEI/Thermo",
            instrument=printable(ini.get("System", {}).get("SystemType", "")),
            pixel_size_um=pixel_size_um,
            pixel_size_source=source if pixel_size_um is not None else None,
            high_voltage_kv=_scaled(_number(optics.get("HV") or ini.get("Beam", {}).get("HV")), 1e-3),
            working_distance_mm=_scaled(_number(optics.get("WD")), 1e3),
            detector=printable(ini.get("Detectors", {}).get("Name", "")),
            operator=printable(user.get("User", "")),
            acquired_at=printable(f"{user.get('Date', '')} {user.get('Time', '')}"),
        ),
        picture_size=(height, width) if height and width else None,
    )


def _described_from_zeiss(text: str, size: tuple[int, int], name: str) -> Described:
    lines = text.splitlines()
    found: dict[str, str] = {}
    for key, line in pairwise(lines):
        if re.fullmatch(r"[A-Z]{2}_[A-Z0-9_]{1,60}", key.strip()):
            mark = "=" if "=" in line else ":"  # date and time lines use ':'
            found[key.strip()] = line.partition(mark)[2].strip()
    metres, source = None, ""
    for key in ("AP_IMAGE_PIXEL_SIZE", "AP_PIXEL_SIZE"):
        metres, source = _quantity(found.get(key), _METRES), f"Zeiss {key}"
        if metres:
            break
    if not metres and len(lines) > 3 and (pitch := _number(lines[3])):
        metres, source = pitch * 1024 / size[1], "Zeiss header line 4 x 1024 / width"
    pixel_size_um = _pixel_size_um(metres, name)
    return Described(
        acquisition=Acquisition(
            vendor="Zeiss",
            instrument=printable(found.get("DP_SEM", "") or found.get("SV_SERIAL_NUMBER", "")),
            pixel_size_um=pixel_size_um,
            pixel_size_source=source if pixel_size_um is not None else None,
            high_voltage_kv=_scaled(_quantity(found.get("AP_ACTUALKV") or found.get("AP_MANUALKV"), _VOLTS), 1e-3),
            working_distance_mm=_scaled(_quantity(found.get("AP_WD"), _METRES), 1e3),
            detector=printable(found.get("DP_DETECTOR_CHANNEL", "") or found.get("DP_DETECTOR_TYPE", "")),
            operator=printable(found.get("SV_OPERATOR", "") or found.get("SV_USER_NAME", "")),
            acquired_at=printable(f"{found.get('AP_DATE', '')} {found.get('AP_TIME', '')}"),
        )
    )


def _described_from_tescan(text: str, size: tuple[int, int], name: str) -> Described:  # noqa: ARG001
    found = dict(_TESCAN_LINE.findall(text))
    pixel_size_um = _pixel_size_um(_number(found.get("PixelSizeX")), name)
    device = printable(f"{found.get('Device', '')} {found.get('DeviceModel', '')}")
    return Described(
        acquisition=Acquisition(
            vendor="TESCAN",
            instrument=device,
            pixel_size_um=pixel_size_um,
            pixel_size_source="TESCAN PixelSizeX" if pixel_size_um is not None else None,
            high_voltage_kv=_scaled(_number(found.get("HV") or found.get("AcceleratorVoltage")), 1e-3),
            working_distance_mm=_scaled(_number(found.get("WD")), 1e3),
            detector=printable(found.get("Detector", "") or found.get("Detector0", "")),
            operator=printable(found.get("FullUserName", "") or found.get("UserName", "")),
            acquired_at=printable(f"{found.get('Date', '')} {found.get('Time', '')}"),
        ),
        bar_rows=_whole(found.get("ImageStripSize")),
    )


def _described_from_jeol(text: str, size: tuple[int, int], name: str) -> Described:  # noqa: ARG001
    found = dict(
        re.findall(rf"^\${{1,2}}([A-Z]{{2}}_[A-Z0-9_]{{1,40}})[ \t]+(.{{0,{_MAX_VALUE}}})", text, re.MULTILINE)
    )
    marker, bar = _quantity(found.get("SM_MICRON_MARKER"), _METRES), _number(found.get("SM_MICRON_BAR"))
    pixel_size_um = _pixel_size_um(marker / bar if marker and bar else None, name)
    full = [_whole(n) for n in re.split(r"[ x]+", found.get("CM_FULL_SIZE", "").strip())]
    return Described(
        acquisition=Acquisition(
            vendor="JEOL",
            instrument=printable(found.get("CM_INSTRUMENT", "")),
            pixel_size_um=pixel_size_um,
            pixel_size_source="JEOL SM_MICRON_MARKER / SM_MICRON_BAR" if pixel_size_um is not None else None,
            high_voltage_kv=_number(found.get("CM_ACCEL_VOLT")),
            working_distance_mm=_number(found.get("SM_WD")),
            detector=printable(found.get("CM_SIGNAL", "")),
            operator=printable(found.get("CM_OPERATOR", "")),
            acquired_at=printable(f"{found.get('CM_DATE', '')} {found.get('CM_TIME', '')}"),
        ),
        picture_size=(full[1], full[0]) if len(full) == 2 and full[0] and full[1] else None,
    )


def _described_from_hitachi(text: str, size: tuple[int, int], name: str) -> Described:
    found = _sections(text).get("SemImageFile", {})
    stored = [_whole(n) for n in found.get("DataSize", "").split("x")]
    metres = _scaled(_quantity(found.get("PixelSize"), {"": 1.0, "nm": 1.0}), 1e-9)
    if metres is not None and len(stored) == 2 and stored[0] and stored[0] != size[1]:
        _LOG.warning("%s: metadata of a scan %d wide, %d stored: its pixel size is not used", name, stored[0], size[1])
        metres = None
    pixel_size_um = _pixel_size_um(metres, name)
    return Described(
        acquisition=Acquisition(
            vendor="Hitachi",
            instrument=printable(found.get("InstructName", "")),
            pixel_size_um=pixel_size_um,
            pixel_size_source="Hitachi PixelSize" if pixel_size_um is not None else None,
            high_voltage_kv=_scaled(_quantity(found.get("AcceleratingVoltage"), _VOLTS), 1e-3),
            working_distance_mm=_scaled(_quantity(found.get("WorkingDistance"), _METRES), 1e3),
            detector=printable(found.get("SignalName", "")),
            operator=printable(found.get("UserName", "")),
            acquired_at=printable(f"{found.get('Date', '')} {found.get('Time', '')}"),
        )
    )


def _sections(text: str) -> dict[str, dict[str, str]]:
    """INI text as it comes: no interpolation, no error for doubled keys (configparser has both)."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("[") and bare.endswith("]"):
            current = sections.setdefault(bare[1:-1], {})
        elif "=" in bare:
            key, _, value = bare.partition("=")
            current[key.strip()] = value.strip()
    return sections


def _number(text: str | None) -> float | None:
    """The finite number at the start of the text."""
    match = _QUANTITY.match(text or "")
    value = float(match[1]) if match else math.nan
    return value if math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value.is_integer() and 0 <= value < 2**31 else None


def _quantity(text: str | None, units: Mapping[str, float]) -> float | None:
    r"""A number with a unit, in the unit's base (metres, volts); None where the unit is not one of ``units``.

    >>> _quantity("446.6 nm", _METRES), _quantity("1.5 \ufffdm", _METRES), _quantity("1.50 K X", _METRES)
    (4.466e-07, 1.5e-06, None)
    """
    match = _QUANTITY.match(text or "")
    value = _number(text)
    if match is None or value is None:
        return None
    unit = match[2]
    if unit not in units and not unit.isascii() and unit.endswith("m"):
        unit = "um"  # the micro sign has two code points, and is often corrupted on its way
    return float(f"{value * units[unit]:.12g}") if unit in units else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(f"{value * factor:.9g}")


def _pixel_size_um(metres: float | None, name: str) -> float | None:
    """Micrometres per pixel where the value is one a microscope can have."""
    if not metres:
        return None
    low, high = _PIXEL_SIZE_UM
    if not low <= metres * 1e6 <= high:
        _LOG.warning("%s: a pixel size of %g m is not one a microscope has and is left out", name, metres)
        return None
    return _scaled(metres, 1e6)
