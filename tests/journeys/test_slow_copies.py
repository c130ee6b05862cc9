"""Frames of real microscopes copied slowly into a watched folder: none early, one record each, crop and scale right."""

from pathlib import Path

from tests.bench.slow_copy import frames_in, run_on_slow_copies
from tests.runtime.test_infobar import BARS
from tests.runtime.test_metadata import REAL


def test_each_slowly_copied_frame_gets_one_record_with_its_crop_and_scale(
    shared: Path, bundle_path: Path, tmp_path: Path
) -> None:
    frames = shared / "data/vendor_tiff"
    copied, records = run_on_slow_copies(
        frames,
        tmp_path,
        bundle_path,
        chunk=200_000,
        pause_s=0.02,
        settings="settle_s=0.05&patience_s=1",
        idle_exit_s=0.5,
    )
    assert sorted(record.name for record in records) == [str(path.relative_to(frames)) for path in frames_in(frames)]
    sha256_of = {one.name: one.sha256 for one in copied}
    for record in records:
        if record.name.startswith("broken/"):
            assert record.status == "failed"
            assert "831 complete ones were expected" in str(record.reason)
            continue
        assert record.status != "failed", record.reason
        assert record.input_sha256 == sha256_of[record.name]
        rows, reason = BARS[record.name]
        assert record.crop is not None
        assert record.crop["reason"] == reason
        assert abs(int(str(record.crop["height"])) - rows) <= 2
        if record.name in REAL:
            assert record.acquisition is not None
            assert record.acquisition["pixel_size_um"] == REAL[record.name][0]
