"""A run is one training of one case: a directory, and in it `run.json` with the run's identity.

What identifies a run is everything that decides its weights. A directory with another identity is never reused,
so two experiments cannot mix their files under one name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from harness.core.cases import LabelMode, Loss
from harness.core.contract import Contract
from harness.core.errors import RunError, UsageError
from harness.core.files import write_text_atomically

RANGES_NAME = "int8-ranges.json"  # In a run's export folder: what int8 files were calibrated with.
BUILDS_NAME = "builds"  # In a run's export folder: further builds, each in a folder named by its number.
IMPORTED_RECIPE = "imported"  # What stands for the recipe of weights from elsewhere.


class RunIdentity(BaseModel):
    """Everything that decides a run's weights; `data` is the manifest's fingerprint, `weights` names a source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    data: str
    recipe: dict[str, JsonValue]
    loss: Loss
    label_mode: LabelMode
    seed: int
    weights: str

    @property
    def imported(self) -> bool:
        """Whether the run's weights were trained elsewhere, by nobody knows what recipe."""
        return self.recipe.get("name") == IMPORTED_RECIPE

    def differences(self, other: RunIdentity) -> list[str]:
        """Return in words what differs between two identities, empty where they are equal."""
        ours, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{key}: {ours.get(key)} here, {theirs.get(key)} asked for"
            for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key)
        ]


def _flat(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    return flat


class RunRecord(BaseModel):
    """The content of run.json. `one_of_the_eight` is false where --loss departs from the study's case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    identity: RunIdentity
    contract: Contract
    manifest: str
    status: Literal["training", "complete"]
    one_of_the_eight: bool
    created: str
    machine: dict[str, JsonValue]


_FURTHER_BUILD = re.compile(r"[2-9]|[1-9][0-9]{1,8}")
_RESERVED_NAMES = frozenset({"ceiling", "evaluation-sets", "film-caches", "report", "triton"})


class RunDirectory:
    """The paths inside one run's directory; creating the object touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.record_path = folder / "run.json"
        self.checkpoint = folder / "checkpoint.safetensors"
        self.resume_folder = folder / "last"
        self.metrics = folder / "metrics.csv"
        self.evaluation = folder / "evaluation.json"
        self.golden = folder / "golden.npz"
        self.export_folder = folder / "export"
        self.bench_folder = folder / "bench"

    def build_folder(self, build: int) -> Path:
        """Where one build of the run's exports lies: the first in the export folder itself."""
        return self.export_folder if build == 1 else self.export_folder / BUILDS_NAME / str(build)

    def further_builds(self) -> list[int]:
        """Return the numbers of the builds there are beside the first, whole or not."""
        folders = (self.export_folder / BUILDS_NAME).glob("*")
        return sorted(int(path.name) for path in folders if _FURTHER_BUILD.fullmatch(path.name) and path.is_dir())

    @property
    def evaluation_sets(self) -> Path:
        """Where the evaluation sets shared by all runs of this directory lie."""
        return self.folder.parent / "evaluation-sets"

    @property
    def film_caches(self) -> Path:
        """Where the decoded films shared by all runs of this directory lie."""
        return self.folder.parent / "film-caches"

    @property
    def triton_repository(self) -> Path:
        """Where the models that a Triton server loads lie, of all runs of this directory."""
        return self.folder.parent / "triton"

    @property
    def triton_staging(self) -> Path:
        """Where they lie until they are whole: beside the repository, in which every folder is taken for a model."""
        return self.folder.parent / ".triton-staging"

    def read_record(self) -> RunRecord:
        """Read run.json; raise RunError where it is missing or malformed."""
        hint = f"`harness train` makes runs; delete {self.folder} if it is a leftover."
        try:
            return RunRecord.model_validate_json(self.record_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.folder} is not a run: it has no run.json.", hint=hint) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise RunError(f"{self.record_path} is not readable: {error}", hint=hint) from error

    def write_record(self, record: RunRecord) -> None:
        write_text_atomically(self.record_path, record.model_dump_json(indent=2) + "\n")

    def finished_record(self) -> RunRecord:
        """Read run.json of a run whose training is complete; raise RunError where it is not."""
        record = self.read_record()
        if record.status != "complete":
            if record.identity.imported:
                raise RunError(
                    f"The import of {self.name} has not finished.",
                    hint=f"Run `harness import {record.identity.case} FILE` with the options of before.",
                )
            raise RunError(
                f"The run {self.name} has not finished training.",
                hint=f"Run `harness train {record.identity.case}` with the options of before: it goes on from its "
                "last finished epoch.",
            )
        return record


def run_folder_of_file(path: Path) -> Path:
    """Return the folder of the run that a file lies in: directly, among its exports, or in a further build."""
    folder = path.absolute().parent
    if folder.parent.name == BUILDS_NAME and folder.parent.parent.name == "export":
        folder = folder.parent.parent
    return folder.parent if folder.name == "export" else folder


def check_run_name(name: str) -> None:
    """Raise UsageError unless a name is that of a folder directly inside the folder of runs."""
    if name in _RESERVED_NAMES:
        raise UsageError(f"--name {name} is the name of a folder that all runs share.", hint="Choose another name.")
    if Path(name).name != name or name in {"", ".", ".."}:
        raise UsageError(f"--name {name} is not a plain folder name.", hint="Use letters, digits and dashes.")


def runs_from_names(runs_folder: Path, names: tuple[str, ...]) -> list[RunDirectory]:
    """Return the runs named, or every run in the folder where none is; raise UsageError where there is none."""
    found = {path.parent.name: RunDirectory(path.parent) for path in sorted(runs_folder.glob("*/run.json"))}
    missing = [name for name in names if name not in found]
    if missing or not found:
        what = f"There is no run named {', '.join(missing)}" if missing else "There are no runs"
        known = f"The runs there are: {', '.join(found)}." if found else "`harness train all` makes the eight."
        raise UsageError(f"{what} in {runs_folder}.", hint=known)
    return [found[name] for name in dict.fromkeys(names)] if names else list(found.values())
