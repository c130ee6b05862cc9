"""``python -m tests.fuzz.seeds`` writes the first inputs of ``corpus/``: one of each kind, made here, some broken."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hffnet.export.bundle_writer import write_bundle
from hffnet.runtime.bundle import open_bundle
from tests.fuzz.targets import CORPUS
from tests.hostile.test_hostile_frames import REFUSED, WHOLE
from tests.tiny import SIZE, tiny_graph, tiny_manifest, tiny_taxonomy

_LARGEST = 12_000

METADATA = {
    "fei": "[User]\r\n"
    "User=a\r\nDate=11/23/2026\r\nTime=10:00:00\r\n[System]\r\nSystemType=Nova\r\n[Beam]\r\nBeam=EBeam\r\n"
    "[EBeam]\r\nHV=5000\r\nWD=0.004\r\nHFW=1e-4\r\n[Scan]\r\nPixelWidth=1e-8\r\n[Detectors]\r\nName=ETD\r\n"
    "[Image]\r\nResolutionX=80\r\nResolutionY=60\r\n",
    "fei-hfw": "[Beam]\nBeam=IBeam\n[IBeam]\nHFW=1e400\n[Image]\nResolutionX=80\nResolutionY=-1\n",
    "zeiss": "0\r\n0\r\n0\r\n4.466e-007\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 446.6 nm\r\nAP_ACTUALKV\r\n"
    "EHT = 15.00 kV\r\nAP_WD\r\nWD = 18.7 mm\r\nDP_DETECTOR_CHANNEL\r\nSignal A = SE2\r\nSV_OPERATOR\r\nUser = a\r\n"
    "AP_DATE\r\nDate :23 Nov 2026\r\nAP_TIME\r\nTime :10:00:00\r\nDP_SEM\r\nSEM = Ultra 55\r\n",
    "zeiss-mag": "0\n0\n0\nnan\n"
    "AP_MAG\nMag = 1.50 K X\nAP_PIXEL_SIZE\nPixel Size = 1.5 \ufffdm\nAP_MANUALKV\nEHT = 1 MV\n",
    "tescan": "\0\1PixelSizeX=4.5e-9\0HV=1000\0WD=0.0038\0Detector=E-T\0Device=AMBER\0DeviceModel=S8251G\0"
    "UserName=a\0FullUserName=A B\0Date=2026-11-23\0Time=10:00:00\0ImageStripSize=64\0",
    "tescan-hdr": "[MAIN]\nPixelSizeX=1e-8\nAcceleratorVoltage=20000\nDetector0=SE\nImageStripSize=9999999999\n",
    "jeol": "$CM_FORMAT TIF\n$CM_INSTRUMENT JSM-6510LV\n$CM_ACCEL_VOLT 15.00\n$CM_FULL_SIZE 80 60\n$$SM_MICRON_BAR 50\n"
    "$$SM_MICRON_MARKER 10um\n$$SM_WD 10.0\n$CM_SIGNAL SEI\n$CM_OPERATOR a\n$CM_DATE 11/23/26\n$CM_TIME 10:00\n",
    "jeol-odd": "$CM_FULL_SIZE 80x60x1\n$$SM_MICRON_BAR 0\n$$SM_MICRON_MARKER -1e999um\n",
    "hitachi": "[SemImageFile]\r\nInstructName=SU8000\r\nDataSize=80x60\r\nPixelSize=1.5\r\nSignalName=SE\r\n"
    "AcceleratingVoltage=5000 Volt\r\nWorkingDistance=8300 um\r\nUserName=a\r\nDate=11/23/2026\r\nTime=10:00\r\n",
    "hitachi-odd": "[SemImageFile]\nDataSize=x\nPixelSize=1e-400 nm\nAcceleratingVoltage=kV\nWorkingDistance=--1 mm\n",
    "empty": "",
    "controls": "[EBeam]\nHV=\x1b[31m5000\u202e\n[User]\nUser=\u0085\u2028a\n",
}


def frames() -> Iterator[tuple[str, bytes]]:
    """Image files, whole and refused ones, as the tests of hostile frames make them."""
    for name, data in {**WHOLE, **REFUSED}.items():
        yield name.replace(" ", "-").replace("^", ""), data


def texts() -> Iterator[tuple[str, bytes]]:
    """Metadata of every maker, as it should and should not be."""
    for name, text in METADATA.items():
        yield name, text.encode("utf-8")
    yield "zeiss-cp1252", METADATA["zeiss"].replace("nm", "µm").encode("cp1252")


def bundles() -> Iterator[tuple[str, bytes]]:
    """A bundle, its parts, and what happens to bundles on their way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.hffnet"
        taxonomy = tiny_taxonomy()
        graph = tiny_graph(np.ones((1, sum(taxonomy.num_classes)))).SerializeToString()
        vectors = np.zeros((1, SIZE, SIZE), np.uint8), np.zeros((1, sum(taxonomy.num_classes)), np.float32)
        write_bundle(path, tiny_manifest(taxonomy), {"graphs/fp32-cpu.onnx": graph}, *vectors)
        whole, bundle = path.read_bytes(), open_bundle(path)
        yield "whole", whole
        yield "cut", whole[: len(whole) // 2]
        yield "cut-in-directory", whole[:-30]
        yield "two", whole + whole
        yield "graph", graph
        yield "graph-cut", graph[: len(graph) // 2]
        yield "graph-foreign", tiny_graph(np.ones((1, 5)), domain="evil").SerializeToString()
        yield "logits", bundle.member("vectors/logits.npy")
    document = tiny_manifest(taxonomy).model_dump_json(indent=1).encode()
    yield "manifest", document
    yield "manifest-nan", document.replace(b"1.0", b"NaN")
    yield "manifest-doubled", document.replace(b'"name"', b'"name": "x", "name"', 1)
    yield "manifest-deep", b'{"taxonomy":' * 200 + b"1" + b"}" * 200
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 4, 4), np.uint8), version=(1, 0))
    yield "array", file.getvalue()
    yield "array-claims-more", file.getvalue().replace(b"(2, 4, 4)", b"(99**9,)")
    yield "empty", b""


def main() -> None:
    """Write what is absent."""
    for folder, inputs in (("frame", frames()), ("metadata", texts()), ("bundle", bundles())):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
        for name, data in inputs:
            path = CORPUS / folder / name
            if len(data) <= _LARGEST and not path.exists():
                path.write_bytes(data)


if __name__ == "__main__":
    main()
