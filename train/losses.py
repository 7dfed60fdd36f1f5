"""Cross-entropy and focal loss, each for one answer per image and for independent labels.

Shapes: b images, c classes. All are computed in float32, also under autocast, and averaged.

Focal loss: Lin et al. 2017, arXiv 1708.02002; alpha_t (1 - p_t)^gamma weighs a loss term down where it is easy.
The study used the sigmoid form with alpha = 1 and gamma = 2, which equals torchvision's `sigmoid_focal_loss` with
alpha = -1. Its multi-label targets say that covid implies pneumonia.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from harness.core.cases import LabelMode, Loss

GAMMA = 2.0
_COVID, _PNEUMONIA = 0, 2
LossFunction = Callable[[Tensor, Tensor], Tensor]


def softmax_focal_loss(
    logits_bc: Tensor,
    labels_b: Tensor,
    *,
    gamma: float = GAMMA,
    alpha_c: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean of -alpha (1 - p)^gamma log p of the labelled class; gamma = 0 is cross-entropy.

    `label_smoothing` spreads that share of the label evenly over all classes, as torch's cross-entropy does. The mean
    is over images, not over the weights alpha, so that the parts of a batch add up to the whole.
    """
    log_p_bc = functional.log_softmax(logits_bc.float(), dim=1)
    # 1 - exp(log p) through expm1: exact where p is near 1, which is where focal loss lives.
    loss_bc = -((-torch.expm1(log_p_bc)) ** gamma) * log_p_bc if gamma else -log_p_bc
    loss_b = loss_bc.gather(1, labels_b[:, None]).squeeze(1)
    if label_smoothing:
        loss_b = (1 - label_smoothing) * loss_b + label_smoothing * loss_bc.mean(dim=1)
    return _weighted_mean(loss_b, labels_b, alpha_c)


def sigmoid_focal_loss(logits_bc: Tensor, targets_bc: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """Return the mean over all elements of (1 - p_t)^gamma times binary cross-entropy; gamma = 0 is the latter."""
    return _sigmoid_focal_b(logits_bc, targets_bc, gamma).mean()


def _sigmoid_focal_b(logits_bc: Tensor, targets_bc: Tensor, gamma: float) -> Tensor:
    logits_bc, targets_bc = logits_bc.float(), targets_bc.float()
    bce_bc = functional.binary_cross_entropy_with_logits(logits_bc, targets_bc, reduction="none")
    p_bc = torch.sigmoid(logits_bc)
    wrong_bc = p_bc * (1 - targets_bc) + (1 - p_bc) * targets_bc
    return (wrong_bc**gamma * bce_bc).mean(dim=1)


def _weighted_mean(loss_b: Tensor, labels_b: Tensor, alpha_c: Tensor | None) -> Tensor:
    return loss_b.mean() if alpha_c is None else (alpha_c.to(loss_b.device)[labels_b] * loss_b).mean()


def multilabel_targets(labels_b: Tensor, class_count: int) -> Tensor:
    """Return targets_bc of dataset-2 as the study trained it: a covid film is also one of pneumonia."""
    targets_bc = functional.one_hot(labels_b, class_count).float()
    targets_bc[:, _PNEUMONIA] += targets_bc[:, _COVID]
    return targets_bc


def balanced_weights(labels_b: Tensor, class_count: int) -> Tensor:
    """Return a weight per class, inverse to its frequency, whose mean over the images is 1; 0 for an absent class."""
    counts_c = torch.bincount(labels_b[labels_b >= 0], minlength=class_count).float()
    present = int((counts_c > 0).sum())
    return torch.where(counts_c > 0, counts_c.sum() / (present * counts_c.clamp(min=1)), 0.0)


def loss_function(
    loss: Loss, label_mode: LabelMode, *, alpha_c: Tensor | None = None, label_smoothing: float = 0.0
) -> LossFunction:
    """Return a function of (logits_bc, labels_b) for a loss and a label mode, `alpha_c` weighing the labelled class."""
    gamma = 0.0 if loss == "ce" else GAMMA
    if label_mode == "multiclass":
        return partial(softmax_focal_loss, gamma=gamma, alpha_c=alpha_c, label_smoothing=label_smoothing)

    def multilabel_loss(logits_bc: Tensor, labels_b: Tensor) -> Tensor:
        targets_bc = multilabel_targets(labels_b, logits_bc.shape[1])
        targets_bc = targets_bc * (1 - label_smoothing) + label_smoothing / 2
        return _weighted_mean(_sigmoid_focal_b(logits_bc, targets_bc, gamma), labels_b, alpha_c)

    return multilabel_loss
