"""Random variants of a batch of frames: crop, mirror, turn, erase. The kinds are the paper's, in its order.

Crop, mirror and rotation are one affine map, so every pixel is interpolated once. What a rotation brings in from
outside is the reflected picture: black corners would tell the network that a frame was turned. There is no vertical
mirror: gravity, loading direction and scan direction have a sense (paper, "Data preprocessing").
"""

import math
from typing import Annotated

import torch
from kornia.geometry.transform import warp_affine
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]


class AugmentConfig(BaseModel):
    """How far variants may go; the paper names the kinds but no number.

    Attributes:
        crop_area: least and greatest share of the picture's area that a crop keeps. Not below a half: a failure
            mechanism is a pattern over the field of view, and a small crop may not show it.
        crop_ratio: least and greatest ratio of the crop's width to its height.
        flip: probability of a horizontal mirror.
        degrees: greatest rotation in each direction.
        erase: probability that a rectangle is erased.
        erase_area: least and greatest share of the area erased.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    crop_area: tuple[PositiveShare, PositiveShare] = (0.5, 1.0)
    crop_ratio: tuple[Annotated[float, Field(gt=0.1)], Annotated[float, Field(lt=10.0)]] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 10.0
    erase: Share = 0.25
    erase_area: tuple[PositiveShare, PositiveShare] = (0.02, 0.2)


def augment(
    frames_NHW: Tensor,
    config: AugmentConfig,
    fill: float,
    generator: torch.Generator,
    *,
    part: tuple[int, slice] | None = None,
) -> Tensor:
    """One random variant of each frame.

    Args:
        frames_NHW: (N, H, W) uint8, square.
        config: how far variants may go.
        fill: grey value of erased rectangles, 0..255; the network's mean, which normalises to 0 as in the paper.
        generator: on the frames' device, seeded by the caller.
        part: where the frames are rows ``part[1]`` of a batch of ``part[0]``: they then get the variants they have in
            the whole batch, whoever does the rest of it.

    Returns:
        (N, H, W) float32 on the same 0..255 scale.
    """
    side = frames_NHW.shape[2]
    num, rows = part or (len(frames_NHW), slice(None))
    maps_N23 = _affine_maps(num, side, config, generator)[rows]
    source_N1HW = frames_NHW.unsqueeze(1).float()
    warped_NHW = warp_affine(source_N1HW, maps_N23, (side, side), padding_mode="reflection").squeeze(1)
    erased_NHW = _erased(num, side, config, generator)[rows]
    return torch.where(erased_NHW, fill, warped_NHW)


def _uniform(num: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(num, generator=generator, device=generator.device) * (high - low) + low


def _sides(num: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N, 2) width and height as shares of the side; the ratio is uniform in its logarithm."""
    area_N = _uniform(num, *area, generator)
    root_N = torch.exp(0.5 * _uniform(num, math.log(ratio[0]), math.log(ratio[1]), generator))
    return torch.stack([area_N.sqrt() * root_N, area_N.sqrt() / root_N], dim=1).clamp_max(1.0)


def _affine_maps(num: int, side: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) from source pixels to output pixels."""
    sides_N2 = _sides(num, config.crop_area, config.crop_ratio, generator)
    middle = (side - 1) / 2
    shift_N2 = torch.rand(num, 2, generator=generator, device=generator.device) - 0.5
    centre_N2 = middle + shift_N2 * (1 - sides_N2) * (side - 1)
    angle_N = _uniform(num, -math.radians(config.degrees), math.radians(config.degrees), generator)
    mirror_N = torch.where(_uniform(num, 0, 1, generator) < config.flip, -1.0, 1.0)
    cos_N, sin_N = angle_N.cos(), angle_N.sin()
    # Output to source is rotation times stretch; its inverse, row by row, is what warp_affine takes.
    across_N, down_N = mirror_N / sides_N2[:, 0], 1 / sides_N2[:, 1]
    linear_N22 = torch.stack([across_N * cos_N, across_N * sin_N, -down_N * sin_N, down_N * cos_N], dim=1).view(
        -1, 2, 2
    )
    offset_N21 = middle - linear_N22 @ centre_N2.unsqueeze(2)
    return torch.cat([linear_N22, offset_N21], dim=2)


def _erased(num: int, side: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, side, side) bool, one rectangle or none per frame."""
    sides_N2 = _sides(num, config.erase_area, (0.3, 3.3), generator) * side
    start_N2 = torch.rand(num, 2, generator=generator, device=generator.device) * (side - sides_N2)
    chosen_N1 = (_uniform(num, 0, 1, generator) < config.erase).unsqueeze(1)
    pixels_S = torch.arange(side, device=generator.device)
    inside_N2S = (pixels_S >= start_N2.unsqueeze(2)) & (pixels_S < (start_N2 + sides_N2).unsqueeze(2))
    return (inside_N2S[:, 0] & chosen_N1).unsqueeze(1) & inside_N2S[:, 1].unsqueeze(2)
