"""Files that say something untrue: another checkpoint, another preprocessing, another order of classes.

Whoever believes what is written on the file gets wrong answers, or answers that mean something else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import onnx

from harness.core.artifacts import sidecar_path
from tests.mutants.bed import Bed, vouch
from tests.mutants.graphs import Change, Model, change_metadata, metadata_of
from tests.mutants.mutant import FP32, PAIR, Mutant, Step, graph_mutant

_FILE = "fp32.onnx"
_OTHER_MEAN = [0.5, 0.5, 0.5]


def _class_order_in_file(model: Model) -> None:
    names = json.loads(metadata_of(model)["cxr_harness.class_names"])
    change_metadata(model, class_names=json.dumps([names[1], names[0], *names[2:]]))


def _class_order_in_sidecar(bed: Bed) -> None:
    def change(content: dict[str, Any]) -> None:
        names = content["contract"]["class_names"]
        names[:2] = names[1::-1]

    bed.change_sidecar(change)


def _mean_in_file(model: Model) -> None:
    preprocessing = json.loads(metadata_of(model)["cxr_harness.preprocessing"])
    change_metadata(model, preprocessing=json.dumps(preprocessing | {"mean": _OTHER_MEAN}, sort_keys=True))


def _in_sidecar(bed: Bed, field: str, value: Any) -> None:
    bed.change_sidecar(lambda content: content["contract"]["preprocessing"].update({field: value}))


def _label_mode_in_sidecar(bed: Bed) -> None:
    bed.change_sidecar(lambda content: content["contract"].update({"label_mode": "multilabel"}))


def _threshold_in_file(model: Model) -> None:
    change_metadata(model, operating_point='{"temperature": 1.0, "threshold": 0.9, "validation_images": 94}')


def _pair_of_the_other(bed: Bed) -> None:
    """Let the file carry another model's made-up image and answer."""
    theirs = metadata_of(onnx.load(bed.other.export_folder / _FILE))
    model = onnx.load(bed.path)
    change_metadata(model, golden_pair=theirs["cxr_harness.golden_pair"])
    vouch(bed.path, lambda temporary: onnx.save(model, temporary))


def _bare(model: Model) -> None:
    """Take all metadata out of the file, as optimisers of graphs do."""
    del model.metadata_props[:]


def _cut(bed: Bed, share: float, *, vouched: bool) -> None:
    """Leave out the end of the file: a disk that was full, a download that broke off."""
    whole = bed.path.read_bytes()
    part = whole[: int(share * len(whole))]
    if vouched:
        vouch(bed.path, lambda temporary: temporary.write_bytes(part))
    else:
        bed.path.write_bytes(part)


def _bit_rot(bed: Bed) -> None:
    content = bytearray(bed.path.read_bytes())
    content[len(content) // 2] ^= 0x40
    bed.path.write_bytes(content)


def _relabelled(bed: Bed, source: str, *, thoroughly: bool) -> None:
    """Ship a file of another precision under our name; thoroughly: sidecar and metadata say our precision too."""
    if not thoroughly:
        bed.take(bed.honest, source, sidecar=True)
        return
    model, stem = onnx.load(bed.honest.export_folder / source), bed.file.split(".")[0]
    change_metadata(model, variant=stem)
    vouch(bed.path, lambda temporary: onnx.save(model, temporary))


def _sidecar_lost(bed: Bed) -> None:
    sidecar_path(bed.path).unlink()


def _of_the_other(bed: Bed, *, file: bool, sidecar: bool) -> None:
    """Put another checkpoint's file, sidecar or both in the place of ours."""
    if file:
        bed.take(bed.other, bed.file, sidecar=sidecar)
    else:
        shutil.copy(sidecar_path(bed.other.export_folder / bed.file), sidecar_path(bed.path))


def _of_the_other_vouched(bed: Bed) -> None:
    """Let our sidecar vouch for another checkpoint's file: copied over it before the hash was taken."""
    source = bed.other.export_folder / bed.file
    vouch(bed.path, lambda temporary: shutil.copy(source, temporary))


def _checkpoint_rot(bed: Bed) -> None:
    checkpoint = bed.run.checkpoint
    content = bytearray(checkpoint.resolve().read_bytes())
    content[-1000] ^= 0x40
    checkpoint.unlink()
    checkpoint.write_bytes(content)


def _golden_of_the_other(bed: Bed) -> None:
    for path in (bed.other.golden, sidecar_path(bed.other.golden)):
        shutil.copy(path, bed.run.folder)


def _labels_permuted(bed: Bed) -> None:
    """Exchange two classes in the table of the evaluation images."""
    link = bed.run.evaluation_sets
    target = link.resolve()
    link.unlink()
    shutil.copytree(target, link, ignore=shutil.ignore_patterns("images.npy"))
    for images in target.glob("*/images.npy"):
        (link / images.parent.name / images.name).symlink_to(images)
    for table in link.glob("*/rows.csv"):
        lines = table.read_text(encoding="utf-8").splitlines()
        swapped = [line[:-1] + {"0": "1", "1": "0"}.get(line[-1], line[-1]) for line in lines]
        table.write_text("\n".join(swapped) + "\n", encoding="utf-8")


def _lie(
    name: str,
    damage: Callable[[Bed], None],
    reason: str,
    *,
    file: str = _FILE,
    steps: tuple[Step, ...] = ("contract",),
    backend: str = "onnxruntime",
    measurable: bool = True,
) -> Mutant:
    return Mutant(
        name=name,
        file=file,
        damage=damage,
        steps=steps,
        reason=reason,
        backend=backend,
        lie=True,
        measurable=measurable,
    )


def _lie_in_file(name: str, change: Change, reason: str, file: str = _FILE) -> Mutant:
    return replace(graph_mutant(name, file, change, reason=reason, steps=("contract",)), lie=True)


_HASH = "not the file that its sidecar describes"
_ANOTHER = "another checkpoint"
MUTANTS = (
    _lie_in_file("order of classes permuted in the file", _class_order_in_file, "own class_names"),
    _lie("order of classes permuted in the sidecar", _class_order_in_sidecar, "class names"),
    _lie_in_file("another mean in the file", _mean_in_file, "own preprocessing"),
    _lie("another mean in the sidecar", partial(_in_sidecar, field="mean", value=_OTHER_MEAN), "preprocessing"),
    _lie("another resize in the sidecar", partial(_in_sidecar, field="resize_px", value=299), "preprocessing"),
    _lie("another label mode in the sidecar", _label_mode_in_sidecar, "label mode"),
    _lie_in_file("another threshold in the file", _threshold_in_file, "own operating_point"),
    _lie("made-up image of another model", _pair_of_the_other, "own golden_pair"),
    _lie_in_file("metadata lost", _bare, "missing"),
    _lie("the end of the file missing", partial(_cut, share=0.9, vouched=False), _HASH, measurable=False),
    _lie(
        "the end missing, sidecar of that",
        partial(_cut, share=0.9, vouched=True),
        "cannot load",
        steps=("refused",),
        measurable=False,
    ),
    _lie("a bit turned over", _bit_rot, _HASH),
    _lie("float16 under the name of float32", partial(_relabelled, source="fp16.onnx", thoroughly=False), "fp16"),
    _lie(
        "int8 thoroughly relabelled as float32",
        partial(_relabelled, source="int8.onnx", thoroughly=True),
        f"{PAIR}|{FP32}",
        steps=("numeric",),
    ),
    _lie("sidecar lost", _sidecar_lost, "no sidecar"),
    _lie("file and sidecar of another checkpoint", partial(_of_the_other, file=True, sidecar=True), _ANOTHER),
    _lie("file of another checkpoint", partial(_of_the_other, file=True, sidecar=False), _HASH),
    _lie("sidecar of another checkpoint", partial(_of_the_other, file=False, sidecar=True), _HASH),
    _lie("file of another checkpoint, vouched for", _of_the_other_vouched, "own checkpoint_sha256"),
    _lie(
        "a bit of the checkpoint turned over",
        _checkpoint_rot,
        _HASH,
        file="checkpoint.safetensors",
        backend="pytorch",
        measurable=False,
    ),
    _lie(
        "reference answers of another checkpoint", _golden_of_the_other, "another", steps=("refused",), measurable=False
    ),
    _lie("labels of the test films permuted", _labels_permuted, _HASH, steps=("refused",), measurable=False),
)
