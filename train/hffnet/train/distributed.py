"""Several processes that train one network, as ``torchrun`` starts them. Alone is the case of one process.

Every process takes its rows of each batch with the variants they have in the whole batch, and gradients are summed:
the step is the step of one process, but for dropout's draws and for BatchNorm on the CPU, where each process sees its
own rows. Process 0 decodes, writes and speaks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from hffnet.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this is.

    Attributes:
        rank: from 0.
        size: number of processes.
        local_rank: rank on this machine, which chooses the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def rows(self, num: int, parts: int, part: int) -> slice:
        """The rows of a batch of ``num`` that this process takes in the given part of a step.

        >>> [World(rank, 2).rows(5, 1, 0) for rank in (0, 1)]
        [slice(0, 3, None), slice(3, 5, None)]
        """
        pieces = parts * self.size
        one = part * self.size + self.rank
        sizes = [num // pieces + (n < num % pieces) for n in range(pieces)]
        start = sum(sizes[:one])
        return slice(start, start + sizes[one])

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def total(self, value: float, device: torch.device) -> float:
        """Sum over processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return float(tensor)


def world_from_environment() -> World:
    """What ``torchrun`` says of this process in its environment; alone where it says nothing.

    Raises:
        ConfigError: the variables are no numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in os.environ:
        return World()
    try:
        rank, size, local = (int(os.environ.get(name, "0")) for name in names)
    except ValueError as error:
        found = {name: os.environ.get(name) for name in names}
        raise ConfigError(f"the environment has {found}; expected the numbers that torchrun sets") from error
    return World(rank, size, local)


@contextmanager
def processes_joined(world: World, device: str) -> Iterator[None]:
    """The processes know each other inside the block: through NCCL on CUDA, else through Gloo."""
    if world.size == 1:
        yield
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    dist.init_process_group("nccl" if on_cuda else "gloo", rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()
