"""Mixup: what is blended, what the loss of a blend is, and that it depends on nothing but its numbers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn, optim

from harness.core.cases import case_named
from train.batches import Batch
from train.losses import loss_function
from train.mixup import Mixture, mixture
from train.ranks import ONE_PROCESS
from train.recipes import Recipe, recipe_for_case
from train.steps import Stepper

_CASE = case_named("d2-resnet18-focal")
_MIXED = recipe_for_case("strong", _CASE)


def _mixture(recipe: Recipe = _MIXED, *, seed: int = 1, epoch: int = 2, step: int = 3, count: int = 6) -> Mixture:
    found = mixture(recipe, seed=seed, epoch=epoch, step=step, count=count)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["published", "quick"])
def test_only_the_strong_recipe_blends(name: str) -> None:
    recipe = recipe_for_case(name, _CASE)  # type: ignore[arg-type]
    assert mixture(recipe, seed=0, epoch=1, step=0, count=4) is None
    assert _MIXED.mixup > 0


def test_each_seed_epoch_and_step_has_a_blend_of_its_own_and_always_the_same() -> None:
    shares = {
        _mixture().share,
        _mixture(seed=2).share,
        _mixture(epoch=3).share,
        _mixture(step=4).share,
    }
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)
    assert _mixture().share == _mixture().share
    assert torch.equal(_mixture().partners_b, _mixture().partners_b)


def test_processes_with_other_numbers_of_images_draw_the_same_share() -> None:
    assert _mixture(count=6).share == _mixture(count=5).share


def test_partners_are_a_permutation_of_the_batch() -> None:
    assert sorted(_mixture(count=9).partners_b.tolist()) == list(range(9))


def test_inputs_are_blended_by_the_share_and_keep_their_memory_order() -> None:
    inputs = torch.rand(6, 3, 4, 5).to(memory_format=torch.channels_last)
    blend = Mixture(share=0.3, partners_b=torch.tensor([1, 0, 3, 2, 5, 4]))
    blended = blend.of_inputs(inputs)
    assert torch.allclose(blended[0], 0.3 * inputs[0] + 0.7 * inputs[1])
    assert torch.allclose(blended[5], 0.3 * inputs[5] + 0.7 * inputs[4])
    assert blended.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("images_at_once", [None, 4])
def test_a_step_on_a_blend_has_the_gradient_of_both_labels_in_parts_or_whole(images_at_once: int | None) -> None:
    torch.manual_seed(0)
    module, labels_b, inputs = nn.Linear(5, 3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.rand(6, 5)
    blend = Mixture(share=0.7, partners_b=torch.tensor([5, 4, 3, 2, 1, 0]))
    loss = loss_function("focal", "multiclass")
    outputs_bc = module(0.7 * inputs + 0.3 * inputs.flip(0))
    wanted = 0.7 * loss(outputs_bc, labels_b) + 0.3 * loss(outputs_bc, labels_b.flip(0))
    (gradient,) = torch.autograd.grad(wanted, module.weight)
    before = module.weight.detach().clone()
    stepper = Stepper(
        module=module,
        loss=loss,
        optimiser=optim.SGD(module.parameters(), lr=1.0),
        precision="fp32",
        images_at_once=images_at_once,
        device=torch.device("cpu"),
        ranks=ONE_PROCESS,
    )
    step = partial(stepper.step, Batch(inputs=inputs, labels_b=labels_b, weight=1.0))
    assert step(1.0, blend) == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(before - module.weight.detach(), gradient, atol=1e-6)
