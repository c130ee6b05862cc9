"""Tensors on disk: safetensors, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hffnet.runtime.durable import whole_file


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; ``metadata`` goes into its header, so both are of one moment."""
    with whole_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # save_file makes a file that only its owner can read
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata=dict(metadata) if metadata else None)
        temporary.chmod(mode)
