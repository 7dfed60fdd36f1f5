"""One step of the optimiser on one batch, in parts where the whole would not fit, on one process of several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel

from train.batches import Batch
from train.losses import LossFunction
from train.mixup import Mixture
from train.precision import autocast
from train.ranks import Ranks
from train.recipes import Precision


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Everything a step needs; `images_at_once` None takes the batch whole."""

    module: nn.Module
    loss: LossFunction
    optimiser: optim.Optimizer
    precision: Precision
    images_at_once: int | None
    device: torch.device
    ranks: Ranks

    def step(self, batch: Batch, learning_rate: float, mixture: Mixture | None = None) -> float:
        """Take one step and return the mean loss of this process's images; parts weigh by their number of images."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        count = len(batch.labels_b)
        at_once = self.images_at_once or count
        starts = range(0, count, at_once)
        whole = batch.inputs if mixture is None else mixture.of_inputs(batch.inputs)
        total = 0.0
        for start in starts:
            part = slice(start, start + at_once)
            labels_b = batch.labels_b[part].to(self.device, non_blocking=True)
            inputs = whole[part].to(self.device, non_blocking=True)
            share = len(labels_b) / count
            with self._gradients_sent(last=start == starts[-1]):
                with autocast(self.device, self.precision):
                    outputs_bc = self.module(inputs)
                loss = self.loss(outputs_bc, labels_b)
                if mixture is not None:
                    partners_b = batch.labels_b[mixture.partners_b[part]].to(self.device, non_blocking=True)
                    loss = mixture.share * loss + (1 - mixture.share) * self.loss(outputs_bc, partners_b)
                # The gradients are averaged over the processes afterwards, hence the factor.
                (loss * (share * batch.weight * self.ranks.count)).backward()  # type: ignore[no-untyped-call]
            total += loss.item() * share
        self.optimiser.step()
        return total

    def _gradients_sent(self, *, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients with the other processes after the last part only."""
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()
