"""The data of the demo: phantoms as files in class folders, read back by the ordinary path into both data sets."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import __version__
from harness.core.cases import DATASETS
from harness.core.errors import UsageError
from harness.core.files import write_text_atomically
from harness.core.progress import Progress
from harness.data.grouping import default_group
from harness.data.phantoms import PHANTOM_CLASSES, write_phantoms
from harness.data.prepare import SYNTHETIC_MARK, PrepareRequest, PrepareResult, prepare

# Of 720 phantoms 302 test, so that the default margin can be decided: 1 pp needs 299 images without a change.
_FRACTIONS = (0.42, 0.16, 0.42)
_FEWEST_PER_CLASS = 20


def demo_datasets(out: Path, *, images_per_class: int, seed: int, progress: Progress) -> list[PrepareResult]:
    """Draw phantoms into OUT/phantoms and prepare OUT/dataset1 and OUT/dataset2; raise UsageError for too few."""
    if images_per_class < _FEWEST_PER_CLASS:
        raise UsageError(
            f"{images_per_class} phantoms per class cannot be split into three.",
            hint=f"Ask for {_FEWEST_PER_CLASS} or more with --images-per-class.",
        )
    phantoms = out / "phantoms"
    _draw_phantoms(phantoms, images_per_class=images_per_class, seed=seed, progress=progress)
    return [
        prepare(
            PrepareRequest(
                source=phantoms,
                out=out / dataset.name,
                dataset=dataset,
                fractions=_FRACTIONS,
                seed=seed,
                group_of=default_group,
                placement="reference",
            ),
            progress,
        )
        for dataset in DATASETS.values()
    ]


def _draw_phantoms(phantoms: Path, *, images_per_class: int, seed: int, progress: Progress) -> None:
    """Draw unless exactly these phantoms were drawn before; the mark is written last and says which they are."""
    mark = phantoms / SYNTHETIC_MARK
    text = f"{images_per_class} phantoms per class, seed {seed}, CXR Harness {__version__}; no film of a person.\n"
    if mark.is_file() and mark.read_text(encoding="utf-8") == text:
        return
    if phantoms.is_dir():
        shutil.rmtree(phantoms)  # Others would be taken for phantoms of this seed.
    with progress.task("Drawing phantoms", total=images_per_class * len(PHANTOM_CLASSES)) as task:
        write_phantoms(phantoms, images_per_class=images_per_class, seed=seed, on_image=task.advance)
    write_text_atomically(mark, text)
