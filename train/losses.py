"""Cross-entropy and focal loss, each for one answer per image and for independent labels.

Shapes: b images, c classes. All are computed in float32, also under autocast, and averaged.

Focal loss: Lin et al. 2017, arXiv 1708.02002; alpha_t (1 - p_t)^gamma weighs a loss term down where it is easy.
The study used the sigmoid form with alpha = 1 and gamma = 2, which equals torchvision's `sigmoid_focal_loss` with
alpha = -1. Its multi-label targets say that covid implies pneumonia.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from harness.core.cases import LabelMode, Loss

GAMMA = 2.0
_COVID, _PNEUMONIA = 0, 2
LossFunction = Callable[[Tensor, Tensor], Tensor]


def softmax_focal_loss(
    logits_bc: Tensor, labels_b: Tensor, *, gamma: float = GAMMA, alpha_c: Tensor | None = None
) -> Tensor:
    """Return the mean of -alpha (1 - p)^gamma log p of the labelled class; gamma = 0 is cross-entropy."""
    log_p_b = functional.log_softmax(logits_bc.float(), dim=1).gather(1, labels_b[:, None]).squeeze(1)
    # 1 - exp(log p) through expm1: exact where p is near 1, which is where focal loss lives.
    loss_b = -((-torch.expm1(log_p_b)) ** gamma) * log_p_b
    if alpha_c is not None:
        loss_b = alpha_c[labels_b] * loss_b
    return loss_b.mean()


def sigmoid_focal_loss(logits_bc: Tensor, targets_bc: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """Return the mean over all elements of (1 - p_t)^gamma times binary cross-entropy; gamma = 0 is the latter."""
    logits_bc, targets_bc = logits_bc.float(), targets_bc.float()
    bce_bc = functional.binary_cross_entropy_with_logits(logits_bc, targets_bc, reduction="none")
    p_bc = torch.sigmoid(logits_bc)
    wrong_bc = p_bc * (1 - targets_bc) + (1 - p_bc) * targets_bc
    return (wrong_bc**gamma * bce_bc).mean()


def multilabel_targets(labels_b: Tensor, class_count: int) -> Tensor:
    """Return targets_bc of dataset-2 as the study trained it: a covid film is also one of pneumonia."""
    targets_bc = functional.one_hot(labels_b, class_count).float()
    targets_bc[:, _PNEUMONIA] += targets_bc[:, _COVID]
    return targets_bc


def loss_function(loss: Loss, label_mode: LabelMode) -> LossFunction:
    """Return a function of (logits_bc, labels_b) for a loss and a label mode."""
    if label_mode == "multiclass":
        if loss == "ce":
            return lambda logits_bc, labels_b: functional.cross_entropy(logits_bc.float(), labels_b)
        return softmax_focal_loss
    gamma = 0.0 if loss == "ce" else GAMMA
    return lambda logits_bc, labels_b: sigmoid_focal_loss(
        logits_bc, multilabel_targets(labels_b, logits_bc.shape[1]), gamma=gamma
    )
