"""The losses against torch's and torchvision's own, at their edges, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from train.losses import balanced_weights, loss_function, multilabel_targets, sigmoid_focal_loss, softmax_focal_loss

_LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 1])


@pytest.fixture
def logits_bc() -> Tensor:
    return 3 * torch.randn(len(_LABELS), 3, generator=torch.Generator().manual_seed(1))


def test_the_softmax_focal_loss_with_gamma_0_is_cross_entropy(logits_bc: Tensor) -> None:
    torch.testing.assert_close(
        softmax_focal_loss(logits_bc, _LABELS, gamma=0.0), functional.cross_entropy(logits_bc, _LABELS)
    )


def test_the_softmax_focal_loss_is_its_formula_written_out(logits_bc: Tensor) -> None:
    p_bc = logits_bc.double().softmax(dim=1)
    expected = torch.stack([-((1 - p[y]) ** 2) * p[y].log() for p, y in zip(p_bc, _LABELS, strict=True)]).mean()
    torch.testing.assert_close(softmax_focal_loss(logits_bc, _LABELS).double(), expected, rtol=1e-5, atol=1e-7)


def test_the_sigmoid_focal_loss_with_gamma_0_is_binary_cross_entropy(logits_bc: Tensor) -> None:
    targets_bc = multilabel_targets(_LABELS, 3)
    expected = functional.binary_cross_entropy_with_logits(logits_bc, targets_bc)
    torch.testing.assert_close(sigmoid_focal_loss(logits_bc, targets_bc, gamma=0.0), expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_the_sigmoid_focal_loss_is_torchvisions_without_alpha(logits_bc: Tensor, gamma: float) -> None:
    targets_bc = multilabel_targets(_LABELS, 3)
    expected = torchvision_focal_loss(logits_bc, targets_bc, alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(sigmoid_focal_loss(logits_bc, targets_bc, gamma=gamma), expected)


def _all_losses() -> list[object]:
    return [
        pytest.param(loss, mode, id=f"{loss}-{mode}")
        for loss in ("ce", "focal")
        for mode in ("multiclass", "multilabel")
    ]


@pytest.mark.parametrize(("loss", "mode"), _all_losses())
def test_every_gradient_is_the_slope_of_its_loss(logits_bc: Tensor, loss: str, mode: str) -> None:
    # The losses compute in float32 by contract, which torch's gradcheck cannot follow: wide central differences.
    function = loss_function(loss, mode)  # type: ignore[arg-type]
    leaf = (logits_bc / 3).requires_grad_()
    function(leaf, _LABELS).backward()
    assert leaf.grad is not None
    step = 1e-2
    for row in range(len(_LABELS)):
        for column in range(3):
            shift = torch.zeros_like(leaf)
            shift[row, column] = step
            with torch.no_grad():
                slope = (function(leaf + shift, _LABELS) - function(leaf - shift, _LABELS)) / (2 * step)
            assert leaf.grad[row, column].item() == pytest.approx(slope.item(), abs=3e-4)


@pytest.mark.parametrize(("loss", "mode"), _all_losses())
@pytest.mark.parametrize("size", [0.0, 100.0, 1e4])
def test_every_loss_and_its_gradient_are_finite_at_extreme_logits(loss: str, mode: str, size: float) -> None:
    signs = torch.tensor([[1.0, -1, -1], [-1, 1, 1], [1, 1, 1], [-1, -1, -1], [1, -1, 1], [-1, 1, -1], [1, 1, -1]])
    leaf = (size * signs).requires_grad_()
    value = loss_function(loss, mode)(leaf, _LABELS)  # type: ignore[arg-type]
    value.backward()
    assert torch.isfinite(value)
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_a_certain_and_right_answer_costs_nothing_and_pulls_at_nothing() -> None:
    leaf = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    value = softmax_focal_loss(leaf, torch.tensor([0]))
    value.backward()
    assert value.item() == 0.0
    assert leaf.grad is not None
    assert leaf.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_the_focal_loss_falls_as_gamma_grows(logits_bc: Tensor, form: str) -> None:
    gammas = (0.0, 0.5, 1.0, 2.0, 5.0)
    if form == "softmax":
        values = [softmax_focal_loss(logits_bc, _LABELS, gamma=gamma).item() for gamma in gammas]
    else:
        targets_bc = multilabel_targets(_LABELS, 3)
        values = [sigmoid_focal_loss(logits_bc, targets_bc, gamma=gamma).item() for gamma in gammas]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(gammas)


def test_alpha_weighs_every_image_by_its_own_class(logits_bc: Tensor) -> None:
    alpha_c = torch.tensor([2.0, 0.5, 0.0])
    each = torch.stack([softmax_focal_loss(logits_bc[i : i + 1], _LABELS[i : i + 1]) for i in range(len(_LABELS))])
    expected = (alpha_c[_LABELS] * each).mean()
    torch.testing.assert_close(softmax_focal_loss(logits_bc, _LABELS, alpha_c=alpha_c), expected)


def test_a_covid_film_is_also_one_of_pneumonia_and_no_other_class_implies_one() -> None:
    assert multilabel_targets(torch.tensor([0, 1, 2]), 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("loss", "mode"), _all_losses())
def test_every_loss_is_computed_in_float32_also_from_half_precision(logits_bc: Tensor, loss: str, mode: str) -> None:
    half_bc = logits_bc.half()
    function = loss_function(loss, mode)  # type: ignore[arg-type]
    value = function(half_bc, _LABELS)
    assert value.dtype is torch.float32
    torch.testing.assert_close(value, function(half_bc.float(), _LABELS))


def test_the_names_choose_the_loss_they_name(logits_bc: Tensor) -> None:
    targets_bc = multilabel_targets(_LABELS, 3)
    expected = {
        ("ce", "multiclass"): functional.cross_entropy(logits_bc, _LABELS),
        ("focal", "multiclass"): softmax_focal_loss(logits_bc, _LABELS, gamma=2.0),
        ("ce", "multilabel"): functional.binary_cross_entropy_with_logits(logits_bc, targets_bc),
        ("focal", "multilabel"): torchvision_focal_loss(logits_bc, targets_bc, alpha=-1, gamma=2, reduction="mean"),
    }
    for (loss, mode), value in expected.items():
        torch.testing.assert_close(loss_function(loss, mode)(logits_bc, _LABELS), value)  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_is_torchs(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_bc, labels_b = 3 * torch.randn(9, 3, generator=generator), torch.arange(9) % 3
    ours = loss_function("ce", "multiclass", label_smoothing=smoothing)(logits_bc, labels_b)
    torch.testing.assert_close(ours, functional.cross_entropy(logits_bc, labels_b, label_smoothing=smoothing))


@pytest.mark.parametrize("loss", ["ce", "focal"])
@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
def test_weighted_losses_of_parts_add_up_to_that_of_the_batch(loss: str, label_mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_bc, labels_b = torch.randn(10, 3, generator=generator), torch.tensor([0, 1, 1, 2, 2, 2, 1, 0, 2, 1])
    function = loss_function(
        loss,  # type: ignore[arg-type]
        label_mode,  # type: ignore[arg-type]
        alpha_c=balanced_weights(labels_b, 3),
        label_smoothing=0.1,
    )
    parts = [function(logits_bc[part], labels_b[part]) * n / 10 for part, n in ((slice(0, 3), 3), (slice(3, 10), 7))]
    torch.testing.assert_close(sum(parts), function(logits_bc, labels_b))


def test_balanced_weights_are_inverse_to_frequency_with_mean_one_over_the_images() -> None:
    labels_b = torch.tensor([0] * 2 + [1] * 6 + [2] * 4 + [-1])
    weights_c = balanced_weights(labels_b, 3)
    torch.testing.assert_close(weights_c, torch.tensor([12 / 6, 12 / 18, 12 / 12]))
    assert float(weights_c[labels_b[:-1]].mean()) == pytest.approx(1.0)
    assert balanced_weights(torch.tensor([0, 2]), 3).tolist() == [1.0, 0.0, 1.0]
