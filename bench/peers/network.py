"""Write a ResNet-18 of random weights as the export writes its own: opset 20, dynamic batch, float32.

A program of its own, so that torch and its threads are not in the process that measures.

    python -P -m bench.peers.network FILE
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

from harness.core.files import write_atomically

CLASS_COUNT = 3
_EXAMPLE_PX = 224
_OPSET = 20
_SEED = 0


def write_network(path: Path) -> None:
    """Write the network; its input `image` is float32 [batch, 3, h, w] of the size that the exporter saw, 224 px."""
    import torch
    from torchvision.models import resnet18

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(_SEED)
    network = resnet18(weights=None, num_classes=CLASS_COUNT).eval()
    # Two images: the exporter may fold a batch of one into a constant.
    example_bchw = torch.zeros(2, 3, _EXAMPLE_PX, _EXAMPLE_PX)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            network,
            (example_bchw,),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    write_atomically(path, lambda temporary: program.save(str(temporary), external_data=False))


if __name__ == "__main__":
    write_network(Path(sys.argv[1]))
