"""Which of several ranks this process is, and which device that gives it: read from the launcher's variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from slr_det.errors import ConfigError

#: What torchrun sets; a process that lacks one of them was not started as one of several.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """This process among the ranks.

    Attributes:
        rank: Its number, from 0.
        size: How many ranks there are, on all machines.
        local_rank: Its number on its machine, which is also the number of its GPU.
        local_size: How many ranks its machine has.
        node: The number of its machine.
        nodes: How many machines there are.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int = 0
    nodes: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Place | None:
        """The place that a launcher gave this process; None where it is alone.

        Raises:
            ConfigError: A variable is no number, or the rank is not one of so many.
        """
        if any(not environment.get(name) for name in VARIABLES):
            return None
        problems = [
            f"the environment has {name}={environment[name]}, expected a whole number; start the command with "
            "torchrun, or unset it"
            for name in _NUMBERS
            if environment.get(name) and not environment[name].isdecimal()
        ]
        if problems:
            raise ConfigError(problems)
        found = {name: int(environment[name]) for name in _NUMBERS if environment.get(name)}
        rank, size = found["RANK"], found["WORLD_SIZE"]
        if size > 1 and rank >= size:
            raise ConfigError(
                f"the environment has RANK={rank} and WORLD_SIZE={size}, expected a rank from 0 to {size - 1}; start "
                "the command with torchrun, or unset them"
            )
        if size <= 1:
            return None
        local_size = found.get("LOCAL_WORLD_SIZE", size)
        nodes = found.get("GROUP_WORLD_SIZE", max(size // max(local_size, 1), 1))
        return cls(rank, size, found["LOCAL_RANK"], local_size, found.get("GROUP_RANK", 0), nodes)

    @property
    def launcher(self) -> str:
        """How a command with as many ranks is started; the module's name follows."""
        if self.nodes == 1:
            return f"torchrun --nproc-per-node {self.local_size} -m"
        return f"torchrun --nnodes {self.nodes} --nproc-per-node {self.local_size} ... -m"

    def device(self, wanted: str) -> str:
        """The device of every rank: ``cpu``, or empty for the GPU that has the rank's local number.

        Args:
            wanted: What the user asked for, in a trainer's notation.

        Raises:
            ConfigError: A certain GPU is asked for, or this machine has fewer of them than ranks.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted == "cpu" or (not wanted and not gpus):
            return "cpu"
        if wanted:
            raise ConfigError(
                f"device is '{wanted}', but each of the {self.size} ranks has a device of its own; leave it out for "
                "GPUs (CUDA_VISIBLE_DEVICES chooses them), or use device=cpu"
            )
        if self.local_size > gpus:
            raise ConfigError(
                f"{self.local_size} ranks were started on a machine with {gpus} GPUs; use --nproc-per-node {gpus}, or "
                "device=cpu"
            )
        return ""
