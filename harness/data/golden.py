"""The golden: what the checkpoint itself answers, for every image of its evaluation set.

Eager PyTorch, float32, on the CPU, from the checkpoint file as it was written; every converted artifact is compared
with it. Training reports its final metrics from the same logits, so the figures and the reference cannot differ.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.artifacts import Kind, verified_sidecar, write_artifact
from harness.core.cases import case_named
from harness.core.contract import Contract
from harness.core.errors import ArtifactError
from harness.core.progress import Progress
from harness.data.evaluation_set import EvaluationSet
from harness.data.preprocessing import images_from_pixels

_BATCH_SIZE = 16
_REMEDY = "`harness export RUN` makes it again."


def golden_logits(
    path: Path, *, checkpoint_sha256: str, evaluation_set: EvaluationSet, contract: Contract
) -> npt.NDArray[np.float32]:
    """Return logits_bc of a golden; raise ArtifactError unless it was made from exactly these parents."""
    sidecar = verified_sidecar(path, kind=Kind.GOLDEN, remedy=_REMEDY)
    wanted = {"checkpoint": checkpoint_sha256, "images": evaluation_set.images_sha256}
    odd = [role for role in wanted if sidecar.parents.get(role) != wanted[role]]
    if odd or sidecar.contract != contract:
        what = f"another {' and '.join(odd)}" if odd else "another contract"
        raise ArtifactError(f"{path} was made from {what} than the run has now.", hint=_REMEDY)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            logits_bc: npt.NDArray[np.float32] = content["logits_bc"]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a golden: {error}", hint=_REMEDY) from error
    return logits_bc


def ensured_golden(
    path: Path, *, checkpoint: Path, evaluation_set: EvaluationSet, contract: Contract, progress: Progress
) -> npt.NDArray[np.float32]:
    """Return the golden's logits_bc, computing them where there are none for this checkpoint and these images."""
    checkpoint_sha256 = verified_sidecar(
        checkpoint, kind=Kind.CHECKPOINT, remedy=f"Train again: `harness train {contract.case} --force`."
    ).sha256
    try:
        return golden_logits(
            path, checkpoint_sha256=checkpoint_sha256, evaluation_set=evaluation_set, contract=contract
        )
    except ArtifactError:
        logits_bc = _eager_logits(checkpoint, evaluation_set, contract, progress)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # np.savez would append .npz to a path
            np.savez(stream, logits_bc=logits_bc)

    write_artifact(
        path,
        write,
        kind=Kind.GOLDEN,
        parents={"checkpoint": checkpoint_sha256, "images": evaluation_set.images_sha256},
        packages=("torch", "torchvision", "numpy"),
        contract=contract,
        details={"precision": "fp32", "device": "cpu", "images": len(logits_bc)},
    )
    return logits_bc


def _eager_logits(
    checkpoint: Path, evaluation_set: EvaluationSet, contract: Contract, progress: Progress
) -> npt.NDArray[np.float32]:
    import torch

    from harness.core.models import model_from_checkpoint

    network = model_from_checkpoint(case_named(contract.case), checkpoint)
    pixels_bhwc = evaluation_set.pixels_bhwc
    parts = []
    with torch.inference_mode(), progress.task("Reference answers", total=len(pixels_bhwc)) as task:
        for start in range(0, len(pixels_bhwc), _BATCH_SIZE):
            batch_bhwc = pixels_bhwc[start : start + _BATCH_SIZE]
            images_bchw = images_from_pixels(batch_bhwc, contract.preprocessing)
            parts.append(network(torch.from_numpy(images_bchw)).numpy())
            task.advance(len(batch_bhwc))
    return np.concatenate(parts).astype(np.float32, copy=False)
