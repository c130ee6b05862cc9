"""What a frame may ask of this machine, decided before anything is decoded."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime.errors import FrameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds on one frame; the defaults hold a 16k x 12k 8-bit scan and refuse bombs.

    Attributes:
        max_file_bytes: size of the file, and so of the one copy of it in memory.
        max_pixels: width x height.
        max_decoded_bytes: width x height x samples x bytes per sample.
    """

    max_file_bytes: int = 512 * 2**20
    max_pixels: int = 200_000_000
    max_decoded_bytes: int = 1024 * 2**20

    def check_file(self, num_bytes: int, name: str) -> None:
        """Refuse a file that is too big to be read into memory.

        Raises:
            FrameError: with the size found and the limit.
        """
        if num_bytes > self.max_file_bytes:
            raise FrameError(
                f"{name}: {num_bytes} bytes were found, at most {self.max_file_bytes} are read. "
                "If this is a real frame, raise the limit on file bytes."
            )

    def check_picture(self, width: int, height: int, samples: int, bytes_per_sample: int, name: str) -> None:
        """Refuse what the header claims, before memory is asked for.

        Raises:
            FrameError: with the size claimed and the limit.
        """
        if width < 1 or height < 1 or samples < 1 or bytes_per_sample < 1:
            raise FrameError(
                f"{name}: the header claims {width}x{height} pixels of {samples} samples, at least 1x1 of 1 was "
                "expected. The file is damaged: save the frame again."
            )
        decoded = width * height * samples * bytes_per_sample
        if width * height > self.max_pixels or decoded > self.max_decoded_bytes:
            raise FrameError(
                f"{name}: the header claims {width}x{height} pixels ({decoded} bytes decoded), at most "
                f"{self.max_pixels} pixels and {self.max_decoded_bytes} bytes are decoded. "
                "If this is a real frame, tile it or raise the limits."
            )


class ReadingSettings(BaseModel):
    """``[reading]`` of a run: what one frame may cost.

    Attributes:
        process: decode in a process of its own that is killed where a file takes too long or too much memory; without
            it, seconds and memory are not limited.
        seconds: from the request to the decoded frame, reading it from a slow share included.
        memory_mb: address space that one frame may take beyond what the process needs anyway.
        max_file_mb: size of the file.
        max_pixels: width x height.
        max_decoded_mb: width x height x samples x bytes per sample.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    process: bool = True
    seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0
    memory_mb: Annotated[int, Field(ge=64, le=2**20)] = 4096
    max_file_mb: Annotated[int, Field(ge=1, le=2**20)] = 512
    max_pixels: Annotated[int, Field(ge=1, le=2**40)] = 200_000_000
    max_decoded_mb: Annotated[int, Field(ge=1, le=2**20)] = 1024

    @property
    def limits(self) -> Limits:
        """What is checked before decoding."""
        return Limits(
            max_file_bytes=self.max_file_mb * 2**20,
            max_pixels=self.max_pixels,
            max_decoded_bytes=self.max_decoded_mb * 2**20,
        )
