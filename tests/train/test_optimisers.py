"""Learning rates, parameter groups and the running average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.core.cases import case_named
from harness.core.models import freeze_trunk, model_from_case
from train.optimisers import averaged_copy, learning_rate, optimiser_for
from train.recipes import recipe_for_case

_CASE = case_named("d2-resnet18-ce")


def test_warm_up_rises_in_a_line_and_the_cosine_falls_to_nothing() -> None:
    recipe = recipe_for_case("strong", _CASE, epochs=10, learning_rate=0.4, warm_up_epochs=2)
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[30] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_the_published_rate_is_constant() -> None:
    recipe = recipe_for_case("published", _CASE)
    assert {learning_rate(recipe, step, 7) for step in range(70)} == {1e-3}


def test_weight_decay_of_adamw_leaves_biases_and_normalisation_alone() -> None:
    network = model_from_case(_CASE, seed=0)
    groups = optimiser_for(network, recipe_for_case("strong", _CASE)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert all(each.ndim > 1 for each in groups[0]["params"])
    assert all(each.ndim == 1 for each in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


@pytest.mark.parametrize("name", ["published", "strong"])
def test_frozen_parameters_are_not_the_optimisers(name: str) -> None:
    case = case_named("d1-resnet18-fc")
    network = model_from_case(case, seed=0)
    freeze_trunk(network, case.architecture)
    groups = optimiser_for(network, recipe_for_case(name, case)).param_groups  # type: ignore[arg-type]
    assert sum(len(group["params"]) for group in groups) == len(list(network.fc.parameters()))  # type: ignore[union-attr]


def test_the_average_follows_weights_and_batch_statistics_by_the_recipes_decay() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = averaged_copy(network, recipe_for_case("strong", _CASE, averaging=0.75))
    assert average is not None
    seen = []
    for value in (1.0, 3.0, 5.0):
        with torch.no_grad():
            for each in (network[0].weight, network[1].running_mean):
                each.fill_(value)  # type: ignore[union-attr,operator]
        average.update_parameters(network)
        weight, statistic = average.module[0].weight, average.module[1].running_mean  # type: ignore[index]
        seen.append((weight[0, 0].item(), statistic[0].item()))
    assert seen == [(1.0, 1.0), (1.5, 1.5), (2.375, 2.375)]


def test_without_averaging_there_is_no_copy() -> None:
    assert averaged_copy(nn.Linear(1, 1), recipe_for_case("published", _CASE)) is None
