"""The golden: what the checkpoint itself answers, for every image of its evaluation set and for one made-up image.

Eager PyTorch, float32, on the CPU, from the checkpoint file as it was written; every converted artifact is compared
with it. Training reports its final metrics from the same logits, so the figures and the reference cannot differ. The
made-up image and its answer (the golden pair) travel inside every exported file: whoever loads one can tell, without
any film, whether its preprocessing and its runtime are right.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Reference answers: logits_bc over the evaluation set, and those to the made-up image `pair_pixels_hwc`."""

    logits_bc: npt.NDArray[np.float32]
    pair_pixels_hwc: npt.NDArray[np.uint8]
    pair_logits_c: npt.NDArray[np.float32]


def pair_pixels(crop_px: int) -> npt.NDArray[np.uint8]:
    """Return an image_hwc of [crop, crop, 3] that no flip, transposition or exchange of channels leaves the same.

    No film, so that no patient travels inside a model file; smooth, so that it compresses to a few kilobytes.
    """
    down_h, right_w = np.mgrid[0:crop_px, 0:crop_px] / max(crop_px - 1, 1)
    chest_hw = 0.75 * np.exp(-(((right_w - 0.45) / 0.3) ** 2) - ((down_h - 0.55) / 0.4) ** 2)
    ramps_hwc = np.stack([chest_hw + 0.2 * right_w, chest_hw + 0.2 * down_h, 0.9 * chest_hw + 0.1], axis=-1)
    return np.asarray(np.rint(255 * np.clip(ramps_hwc, 0, 1)), dtype=np.uint8)


def read_golden(path: Path, *, checkpoint_sha256: str, evaluation_set: EvaluationSet, contract: Contract) -> Golden:
    """Return a golden; raise ArtifactError unless it was made from exactly these parents."""
    sidecar = verified_sidecar(path, kind=Kind.GOLDEN, remedy=_REMEDY)
    wanted = {"checkpoint": checkpoint_sha256, "images": evaluation_set.images_sha256}
    odd = [role for role in wanted if sidecar.parents.get(role) != wanted[role]]
    if odd or sidecar.contract != contract:
        what = f"another {' and '.join(odd)}" if odd else "another contract"
        raise ArtifactError(f"{path} was made from {what} than the run has now.", hint=_REMEDY)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return Golden(**{name: content[name] for name in ("logits_bc", "pair_pixels_hwc", "pair_logits_c")})
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a golden of this version: {error}", hint=_REMEDY) from error


def ensured_golden(
    path: Path, *, checkpoint: Path, evaluation_set: EvaluationSet, contract: Contract, progress: Progress
) -> Golden:
    """Return the golden, computing it where there is none for this checkpoint and these images."""
    checkpoint_sha256 = verified_sidecar(
        checkpoint, kind=Kind.CHECKPOINT, remedy=f"Train again: `harness train {contract.case} --force`."
    ).sha256
    try:
        return read_golden(path, checkpoint_sha256=checkpoint_sha256, evaluation_set=evaluation_set, contract=contract)
    except ArtifactError:
        golden = _eager_golden(checkpoint, evaluation_set, contract, progress)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # np.savez would append .npz to a path
            np.savez(stream, **vars(golden))

    write_artifact(
        path,
        write,
        kind=Kind.GOLDEN,
        parents={"checkpoint": checkpoint_sha256, "images": evaluation_set.images_sha256},
        packages=("torch", "torchvision", "numpy"),
        contract=contract,
        details={"precision": "fp32", "device": "cpu", "images": len(golden.logits_bc)},
    )
    return golden


def _eager_golden(checkpoint: Path, evaluation_set: EvaluationSet, contract: Contract, progress: Progress) -> Golden:
    import torch

    from harness.core.models import model_from_checkpoint

    network = model_from_checkpoint(case_named(contract.case), checkpoint)

    def logits(batch_bhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        images_bchw = images_from_pixels(batch_bhwc, contract.preprocessing)
        return np.asarray(network(torch.from_numpy(images_bchw)).numpy(), dtype=np.float32)

    pixels_bhwc, pair_hwc = evaluation_set.pixels_bhwc, pair_pixels(contract.preprocessing.crop_px)
    parts = []
    with torch.inference_mode(), progress.task("Reference answers", total=len(pixels_bhwc)) as task:
        for start in range(0, len(pixels_bhwc), _BATCH_SIZE):
            batch_bhwc = pixels_bhwc[start : start + _BATCH_SIZE]
            parts.append(logits(batch_bhwc))
            task.advance(len(batch_bhwc))
        pair_logits_c = logits(pair_hwc[None])[0]
    return Golden(logits_bc=np.concatenate(parts), pair_pixels_hwc=pair_hwc, pair_logits_c=pair_logits_c)
