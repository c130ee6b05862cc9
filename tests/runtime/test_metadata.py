"""What makers write becomes one Acquisition; what attackers write becomes None."""

from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.frame import Acquisition
from hffnet.runtime.metadata import (
    FEI_TAGS,
    TESCAN_TAG,
    VENDOR_TAGS,
    ZEISS_TAG,
    described_from_sidecar,
    described_from_tags,
)
from hffnet.runtime.read import read_frame

REAL = {
    "fei/helios660_uint16.tif": (3.3724, 5.0, 4.03466, "ETD", 'Helios NanoLab" 660', "supervisor"),
    "fei/helios_g4_no_bar.tif": (0.0976562, 30.0, 16.5, "ETD", "Helios G4 PFIB UNSPE", "Supervisor"),
    "fei/nova450_uint8.tif": (0.0330729, 10.0, 4.88911, "ETD", "Nova NanoSEM 450", "support"),
    "tescan/s8251g_uint16.tif": (0.004537772, 1.0, 3.847444, "E-T", "TESCAN AMBER S8251G", "Teplonogova M."),
    "zeiss/A7075_2mm_250_01.tif": (0.4466, 15.0, 18.7, "SE2", "Ultra 55", "USER"),
    "zeiss/nvision40.tif": (0.00586, 1.0, 2.8, "SE2", "NVision 40", "SYSTEM"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_metadata(name: str, shared: Path) -> None:
    a = read_frame(shared / "data/vendor_tiff" / name).acquisition
    found = (a.pixel_size_um, a.high_voltage_kv, a.working_distance_mm, a.detector, a.instrument, a.operator)
    assert found == REAL[name]
    assert a.pixel_size_source
    assert a.acquired_at


def zeiss(*pairs: str) -> bytes:
    return "\r\n".join(["0", "0", "0", "4.466e-007", *pairs]).encode("cp1252")


@pytest.mark.parametrize(
    ("line", "expected_um"),
    [
        ("Image Pixel Size = 446.6 nm", 0.4466),
        ("Image Pixel Size = 1.500 µm", 1.5),
        ("Image Pixel Size = 1.500 Âµm", 1.5),
        ("Image Pixel Size = 1.500 um", 1.5),
        ("Image Pixel Size = 765.2 pm", 0.0007652),
        ("Image Pixel Size = nonsense", 0.2233),
        ("Image Pixel Size = 0.000 fm", 0.2233),
    ],
)
def test_zeiss_units(line: str, expected_um: float) -> None:
    """Where the named value says nothing the header's pitch for 1024 columns serves; the frame here has 2048."""
    tag = zeiss("AP_MAG", "Mag =  1.50 K X", "AP_IMAGE_PIXEL_SIZE", line)
    found = described_from_tags({ZEISS_TAG: tag}, (1536, 2048), "a").acquisition
    assert found.pixel_size_um == pytest.approx(expected_um)


def test_fei_pixel_size_from_the_field_width() -> None:
    tag = b"[Beam]\nBeam=EBeam\n[EBeam]\nHFW=1e-4\nHV=5000\n[Image]\nResolutionX=1000\nResolutionY=800\n"
    described = described_from_tags({FEI_TAGS[0]: tag}, (870, 1000), "a")
    assert described.acquisition.pixel_size_um == pytest.approx(0.1)
    assert described.picture_size == (800, 1000)


def test_the_pixel_size_of_another_width_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    tag = b"[Scan]\nPixelWidth=1e-8\n[Image]\nResolutionX=1000\nResolutionY=800\n"
    assert described_from_tags({FEI_TAGS[0]: tag}, (400, 500), "a").acquisition.pixel_size_um is None
    assert "its pixel size is not used" in caplog.text


JEOL = b"""$CM_FORMAT TIF
$CM_INSTRUMENT JSM-6510LV
$CM_ACCEL_VOLT 15.00
$CM_MAG 37
$CM_SIGNAL SEI
$CM_DATE 2012/06/11
$CM_TIME 11:52:37
$CM_FULL_SIZE 800 552
$CM_OPERATOR Smith
$$SM_WD 11.1
$$SM_MICRON_BAR 50
$$SM_MICRON_MARKER 100um
"""
HITACHI = b"""[SemImageFile]\r
InstructName=SU8000\r
Date=03/24/2020\r
Time=10:00:00\r
DataSize=800x600\r
PixelSize=24.8\r
SignalName=SE(U)\r
AcceleratingVoltage=15000 Volt\r
WorkingDistance=8100 um\r
"""
TESCAN = b"""[MAIN]\r
Device=VEGA3\r
PixelSizeX=2.5e-7\r
ImageStripSize=48\r
[SEM]\r
HV=20000\r
WD=0.015\r
Detector=SE\r
"""


@pytest.mark.parametrize(
    ("suffix", "text", "expected", "picture_rows"),
    [
        (".txt", JEOL, (2.0, 15.0, 11.1, "SEI", "JSM-6510LV"), 552),
        (".txt", HITACHI, (0.0248, 15.0, 8.1, "SE(U)", "SU8000"), 600),
        (".hdr", TESCAN, (0.25, 20.0, 15.0, "SE", "VEGA3"), 552),
        ("-bmp.hdr", TESCAN, (0.25, 20.0, 15.0, "SE", "VEGA3"), 552),
    ],
    ids=["jeol", "hitachi", "tescan", "tescan with the suffix in its name"],
)
def test_sidecars(
    suffix: str, text: bytes, expected: tuple[float | str, ...], picture_rows: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (600, 800), np.uint8)
    (tmp_path / "a.bmp").write_bytes(cv2.imencode(".bmp", pixels)[1].tobytes())
    (tmp_path / f"a{suffix}").write_bytes(text)
    frame = read_frame(tmp_path / "a.bmp")
    a = frame.acquisition
    found = (a.pixel_size_um, a.high_voltage_kv, a.working_distance_mm, a.detector, a.instrument)
    assert found == pytest.approx(expected)
    assert frame.crop.height == picture_rows


def test_a_huge_sidecar_does_not_cost_the_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.bmp").write_bytes(cv2.imencode(".bmp", np.zeros((8, 8), np.uint8))[1].tobytes())
    (tmp_path / "a.txt").write_bytes(b"$CM_MAG 1\n" * 100_000)
    assert read_frame(tmp_path / "a.bmp").acquisition == Acquisition()
    assert "not used as metadata" in caplog.text


def test_values_are_short_and_printable() -> None:
    tag = b"[User]\nUser=\x1b[31mroot\x07" + b"A" * 10_000 + b"\n[Scan]\nPixelWidth=1e308\n"
    found = described_from_tags({FEI_TAGS[0]: tag}, (10, 10), "a").acquisition
    assert found.operator is not None
    assert found.operator.isprintable()
    assert len(found.operator) == 120
    assert found.pixel_size_um is None


@pytest.mark.parametrize("code", sorted(VENDOR_TAGS))
@given(
    text=st.binary(max_size=400)
    | st.lists(
        st.sampled_from([b"[Scan]", b"PixelWidth=", b"1e999", b"-1", b"nan", b"AP_WD", b"WD =", b"\r\n", b"HV=", b"m"])
        | st.binary(max_size=5)
    ).map(b"".join)
)
def test_hostile_text_never_raises(code: int, text: bytes) -> None:
    for described in (
        described_from_tags({code: text}, (600, 800), "a"),
        described_from_sidecar(text, (600, 800), "a"),
    ):
        for field in fields(Acquisition):
            value = getattr(described.acquisition, field.name)
            assert value is None or isinstance(value, float) or (value.isprintable() and len(value) <= 120)


def test_tescan_keys_are_found_between_binary() -> None:
    tag = b"\xcf\x1a\0\0jP  \x00AccFrames=2\r\nPixelSizeX=0.000000004\r\nImageStripSize=179\r\n \x0b v\0\0HV=1000.0\r\n"
    described = described_from_tags({TESCAN_TAG: tag}, (1331, 1536), "a")
    assert described.acquisition.pixel_size_um == pytest.approx(0.004)
    assert described.acquisition.high_voltage_kv == 1.0
    assert described.bar_rows == 179
