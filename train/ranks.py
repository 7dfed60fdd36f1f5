"""The processes of one data-parallel training, as torchrun starts them.

Each takes an equal part of every batch, so the weights follow those of one process at the same batch size (to
rounding). Rank 0 alone writes; the others wait for it. What differs with several processes is said in
docs/training.md: batch statistics on the CPU, and the draws of dropout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

from harness.core.errors import HarnessError, RunError

Indices = npt.NDArray[np.int64]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows one process works on, and their share of the whole batch."""

    rows: Indices
    weight: float


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int
    count: int

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def part_of(self, rows: Indices) -> Part:
        """Return this process's part; one that would get none takes the first row at weight 0.

        Every process must take part in every step, or the others would wait for its gradients for ever.
        """
        mine = np.array_split(rows, self.count)[self.rank]
        return Part(rows=mine, weight=len(mine) / len(rows)) if len(mine) else Part(rows=rows[:1], weight=0.0)

    def gathered(self, values: npt.NDArray[np.float32], indices: Indices, total: int) -> npt.NDArray[np.float32]:
        """Return the rows of all processes, each at its index: no row twice, none padded."""
        if self.count == 1:
            everything = [(indices, values)]
        else:
            everything = [(indices, values)] * self.count
            distributed.all_gather_object(everything, (indices, values))
        whole = np.empty((total, *values.shape[1:]), dtype=np.float32)
        for places, part in everything:
            whole[places] = part
        return whole

    def sum_of(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        if torch.cuda.is_available():
            total = total.cuda()
        distributed.all_reduce(total)
        return float(total)

    def after_first(self, work: Callable[[], Value]) -> Value:
        """Let rank 0 do the work (which makes files too large to send), then the others, who find them made."""
        made: list[Value] = []
        self.from_first(lambda: made.append(work()))
        return made[0] if made else work()

    def from_first(self, work: Callable[[], Value]) -> Value:
        """Let rank 0 do the work and tell the others what came of it: they decide nothing by themselves.

        Raises RunError on every other process where rank 0 failed, so that none waits for ever.
        """
        if self.count == 1:
            return work()
        told: list[object] = ["", None]
        if self.rank == 0:
            try:
                told[1] = work()
            except HarnessError as error:
                distributed.broadcast_object_list([error.message, None])
                raise
        distributed.broadcast_object_list(told)
        if told[0]:
            raise RunError(f"The first process failed: {told[0]}", hint="Its own message says what to do.")
        return cast(Value, told[1])

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process rank 0's batch statistics, which are the ones that are kept."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)

    def wait_for_all(self) -> None:
        """Return when every process is here."""
        if self.count > 1:
            distributed.barrier()

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return the module with its gradients averaged over the processes; itself where there is one."""
        return module if self.count == 1 else nn.parallel.DistributedDataParallel(module)


ONE_PROCESS = Ranks(rank=0, count=1)


@contextmanager
def started_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, NCCL on GPUs and gloo elsewhere; one process where it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun's own protocol, not a setting of ours
        yield ONE_PROCESS
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The first process alone computes the reference answers: an hour for VGG-16 on many films and a few cores.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(hours=12))
    try:
        yield Ranks(rank=distributed.get_rank(), count=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def synchronised(network: nn.Module, ranks: Ranks) -> tuple[nn.Module, str]:
    """Return the network with batch statistics over all processes where that exists, and what was done, in words."""
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    if ranks.count == 1 or not has_batch_norm:
        return network, "one process" if ranks.count == 1 else "no batch statistics"
    if torch.cuda.is_available():
        synchronised_network: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised_network, "batch statistics over all processes"
    return network, "batch statistics of each process by itself: torch synchronises them on GPUs only"
