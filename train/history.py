"""What is told of the epochs: metrics.csv, and the same as TensorBoard events.

Both follow from the records of the resume state and are written again from the first epoch on when a run goes on,
so neither can miss an epoch or hold one twice, whenever the process was killed.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.files import write_text_atomically
from harness.core.runs import RunDirectory
from train.resume import EpochRecord

History = tuple[EpochRecord, ...]


@contextmanager
def told_epochs(run: RunDirectory) -> Iterator[Callable[[History], None]]:
    """Give a function that is called with all epochs after each."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard"
    writer: SummaryWriter | None = None
    told = 0

    def tell(history: History) -> None:
        nonlocal writer, told
        write_history(run.metrics, history)
        if writer is None:
            shutil.rmtree(folder, ignore_errors=True)
            writer = SummaryWriter(str(folder))
        for record in history[told:]:
            values = record.model_dump(exclude={"epoch"})
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, record.epoch)
        told = len(history)
        writer.flush()

    try:
        yield tell
    finally:
        if writer is not None:
            writer.close()


def write_history(path: Path, history: History) -> None:
    """Write metrics.csv, one line an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(EpochRecord.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.model_dump() for record in history)
    write_text_atomically(path, text.getvalue())
