"""What programs send is decoded in a process of its own, under the name they gave it."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from hffnet.runtime.dashboard.uploads import UploadDecoder
from hffnet.runtime.errors import FrameError
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read import frame_from_bytes
from tests.runtime.dashboard.stand import pixels


@pytest.mark.parametrize("in_process", [True, False])
def test_uploads_one_after_another(tmp_path: Path, *, in_process: bool) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(1))
    sent = (tmp_path / "a.tif").read_bytes()
    decode = UploadDecoder(ReadingSettings(process=in_process), lambda: False)
    with pytest.raises(FrameError, match=r"^sent\.tif") as refused:
        decode(b"no picture at all", "sent.tif", None)
    assert "hffnet-upload" not in str(refused.value)
    frame, expected = decode(sent, "sent.tif", None), frame_from_bytes(sent, "sent.tif")
    np.testing.assert_array_equal(frame.pixels, expected.pixels)
    assert (frame.name, frame.sha256, frame.crop) == (expected.name, expected.sha256, expected.crop)
    decode.close()


def test_a_run_that_stops_does_not_wait_for_an_upload() -> None:
    decode = UploadDecoder(ReadingSettings(), lambda: True)
    with pytest.raises(FrameError, match="given up because the run was stopped"):
        decode(b"anything", "sent.tif", None)
    decode.close()


def test_limits_of_the_run_hold_for_uploads(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(1, (96, 128)))
    decode = UploadDecoder(ReadingSettings(max_pixels=1000), lambda: False)
    with pytest.raises(FrameError, match="at most 1000"):
        decode((tmp_path / "a.tif").read_bytes(), "sent.tif", None)
    decode.close()
