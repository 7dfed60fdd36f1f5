"""Precision is resolved from the machine once; bf16 computes coarsely and keeps everything that matters in float32."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from train import precision
from train.batches import Batch
from train.losses import loss_function
from train.precision import autocast, exact_arithmetic, resolved_precision
from train.ranks import ONE_PROCESS
from train.recipes import Precision
from train.steps import Stepper

_CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t: fpu avx512_bf16 avx2\n", "bf16"),
        ("flags\t: fpu amx_bf16\n", "bf16"),
        ("Features\t: fp asimd bf16\n", "bf16"),
        ("flags\t: fpu avx2 avx512f\n", "fp32"),
        ("nothing of the kind\n", "fp32"),
    ],
)
def test_auto_takes_bf16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(precision.Path, "open", lambda self, encoding: io.StringIO(text))
    assert resolved_precision("auto", _CPU) == expected


def test_a_machine_that_does_not_say_gets_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(self: Path, encoding: str) -> io.StringIO:
        raise FileNotFoundError(self)

    monkeypatch.setattr(precision.Path, "open", missing)
    assert resolved_precision("auto", _CPU) == "fp32"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken(asked: Precision) -> None:
    assert resolved_precision(asked, _CPU) == asked


class _Watched(nn.Module):
    """A layer that remembers the type it answered in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 3)
        self.answered = torch.float64

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        self.answered = outputs.dtype
        return outputs


def _step(name: Precision) -> _Watched:
    module = _Watched()
    inputs = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    stepper = Stepper(
        module=module,
        loss=loss_function("ce", "multiclass"),
        optimiser=torch.optim.SGD(module.parameters(), lr=0.5),
        precision=name,
        images_at_once=None,
        device=_CPU,
        ranks=ONE_PROCESS,
    )
    stepper.step(Batch(inputs=inputs, labels_b=torch.arange(6) % 3, weight=1.0), 0.5)
    return module


def test_bf16_multiplies_in_bfloat16_and_keeps_weights_in_float32_near_those_of_float32() -> None:
    coarse, exact = _step("bf16"), _step("fp32")
    assert (coarse.answered, exact.answered) == (torch.bfloat16, torch.float32)
    assert coarse.layer.weight.dtype == torch.float32
    torch.testing.assert_close(coarse.layer.weight, exact.layer.weight, rtol=0.02, atol=0.005)
    assert not torch.equal(coarse.layer.weight, exact.layer.weight)


def test_autocast_is_off_for_float32() -> None:
    with autocast(_CPU, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_deterministic_algorithms_are_asked_for_inside_only() -> None:
    with exact_arithmetic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with exact_arithmetic(False):
        assert not torch.are_deterministic_algorithms_enabled()
