"""How near a trial comes to the machine's ceiling, and the least time that its work can take.

The work is that of the network, in FLOP without the taps on zero padding (harness/core/onnx_flops.py): the same for
every form of it. A share above 1 is possible and tells something: an algorithm that multiplies less (Winograd), a
ceiling measured on a busier machine, or an operation that is faster in the network than by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.ceiling import Ceiling
from harness.core.errors import ArtifactError
from harness.core.files import sha256_from_file
from harness.core.onnx_flops import flops_from_onnx
from harness.core.runs import RunDirectory
from harness.core.variants import PRECISIONS, QUANTISED

# What a trial's runtime says of itself (bench/backends) -> the precision of the ceiling that it is held to.
_CEILING_PRECISIONS: dict[str, str] = {name: "int8" if name in QUANTISED else name for name in PRECISIONS}
_BASE_NAME = "fp32.onnx"
# A file of 500 MB is read once per process.
_known_flop: dict[str, int | None] = {}

CEILING_COLUMNS = ["device", "threads", "library", "operation", "precision", "best", "median", "repetitions", "foreign"]


def ceiling_flop_per_s(precision: str, ceiling: Ceiling) -> float | None:
    """Return the ceiling of a trial from the precision that its runtime read back.

    "int8 + fp32", "fp32 (TF32 off)", "fp16 requested; layers fp16, fp32; ...": the first word of each part. Of
    several the fastest counts: the trial could have done all its work in it. float16 files are multiplied in float32
    by a processor that has no ceiling in float16. None where the ceiling has nothing to say.
    """
    first_words = [part.split()[:1] for part in precision.split("+")]
    words = {_CEILING_PRECISIONS.get(word, "") for each in first_words for word in each}
    if ceiling.device == "cpu" and "fp16" in words and ceiling.flop_per_s("fp16") is None:
        words = words - {"fp16"} | {"fp32"}
    rates = [rate for word in words if (rate := ceiling.flop_per_s(word)) is not None]
    return max(rates, default=None)


def share_of_ceiling(
    effective_flop_per_image: int | None, images_per_s: float, precision: str, ceiling: Ceiling
) -> float | None:
    """Return effective FLOP a second over the ceiling, a fraction; None where one of the two is not known."""
    limit_flop_per_s = ceiling_flop_per_s(precision, ceiling)
    if effective_flop_per_image is None or limit_flop_per_s is None:
        return None
    return effective_flop_per_image * images_per_s / limit_flop_per_s


def compute_floor_s(
    effective_flop_per_image: int | None, batch_size: int, precision: str, ceiling: Ceiling
) -> float | None:
    """Return the least time of a call by its work, FLOP x batch / ceiling; None where one of the two is not known."""
    limit_flop_per_s = ceiling_flop_per_s(precision, ceiling)
    if effective_flop_per_image is None or limit_flop_per_s is None:
        return None
    return effective_flop_per_image * batch_size / limit_flop_per_s


def effective_flop_of(run: RunDirectory, artifact: Path | None = None) -> int | None:
    """Return the work of one image of a run's network, None where it cannot be told.

    Read from the run's float32 ONNX file, or else from the artifact where that is one: engines, IR and checkpoints do
    not tell, and every form of a network has the work of its float32 file.
    """
    candidates = [run.export_folder / _BASE_NAME]
    if artifact is not None and artifact.suffix == ".onnx":
        candidates.append(artifact)
    for path in candidates:
        if path.is_file():
            return _flop_of_file(path)
    return None


def _flop_of_file(path: Path) -> int | None:
    sha256 = sha256_from_file(path)
    if sha256 not in _known_flop:
        try:
            flops = flops_from_onnx(path)
        except ArtifactError:
            _known_flop[sha256] = None
        else:  # What multiplies and is not counted would make the share too low: better none.
            _known_flop[sha256] = None if flops.not_counted else flops.effective_flop
    return _known_flop[sha256]


def ceiling_rows(ceilings: Iterable[Ceiling]) -> list[list[str]]:
    """Return a row of CEILING_COLUMNS for every rate and for memory."""
    rows = []
    for ceiling in ceilings:
        start = [f"{ceiling.device}: {ceiling.device_name}", str(ceiling.threads), f"{ceiling.library} "]
        start[-1] += ceiling.version.split("-", 1)[0]
        foreign = "not told" if ceiling.foreign_cores is None else f"{ceiling.foreign_cores:.2f} cores"
        foreign += " contended" * ceiling.contended
        for rate in ceiling.rates:
            unit = "GOP/s" if rate.precision == "int8" else "GFLOP/s"
            figures = [f"{each / 1e9:.0f} {unit}" for each in (rate.flop_per_s, rate.median_flop_per_s)]
            rows.append([*start, rate.operation, rate.precision, *figures, str(len(rate.duration_s)), foreign])
        memory = [f"{ceiling.bandwidth_bytes_per_s / 1e9:.1f} GB/s", "", str(len(ceiling.memory.duration_s))]
        rows.append([*start[:2], "", "copy of memory (read + written)", "", *memory, foreign])
    return rows
