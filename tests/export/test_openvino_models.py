"""OpenVINO IR: the same answers as the ONNX file, the same weights to the bit, made again where a part changed."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from export.making import Maker
from export.openvino_models import ensured_openvino_model
from harness.core.artifacts import Kind, Sidecar, verified_sidecar, write_artifact
from harness.core.contract import Contract, Preprocessing
from harness.core.errors import ArtifactError
from harness.core.operating_point import OperatingPoint
from harness.core.passport import Passport, golden_pair
from harness.core.progress import SILENT
from harness.core.variants import Variant
from harness.data.golden import pair_pixels

_VARIANT = Variant(precision="fp32")
_PASSPORT = Passport(
    contract=Contract(
        case="d2-resnet18-ce",
        class_names=("covid", "normal", "pneumonia"),
        label_mode="multiclass",
        preprocessing=Preprocessing(resize_px=16, crop_px=16),
        synthetic=True,
    ),
    checkpoint_sha256="ab" * 32,
    operating_point=OperatingPoint(temperature=1.5, threshold=0.25, validation_images=40),
    pair=golden_pair(pair_pixels(16), np.array([0.1, 0.2, 0.7], dtype=np.float32)),
)
_IMAGES_BCHW = np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def openvino() -> Any:
    return pytest.importorskip("openvino", reason="OpenVINO is not installed: the extra `openvino`")


class _Made:
    """An ONNX file and what is made of it, in a folder laid out as a run's."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.onnx = folder / "fp32.onnx"
        self.xml, self.bin = folder / "fp32.ir.xml", folder / "fp32.ir.bin"
        self._source = source

    def ensured(self, **details: Any) -> tuple[Sidecar, bool]:
        """Return the sidecar, and whether the model was made now; the ONNX file's has these details."""
        if not self.onnx.exists():
            content = self._source.read_bytes()

            def write(path: Path) -> None:
                path.write_bytes(content)

            write_artifact(self.onnx, write, kind=Kind.ONNX_MODEL, parents={}, details=details)
        onnx_model = verified_sidecar(self.onnx, kind=Kind.ONNX_MODEL, remedy="")
        maker = Maker(force=False)
        sidecar = ensured_openvino_model(self.onnx, onnx_model, _VARIANT, _PASSPORT, maker, SILENT)
        (made,) = maker.made
        return sidecar, made.duration_s is not None


@pytest.fixture
def made(residual_network: Callable[..., Path], tmp_path: Path) -> _Made:
    return _Made(residual_network(), tmp_path / "run" / "export")


def test_the_model_answers_as_the_onnx_file_and_holds_its_weights_to_the_bit(made: _Made, openvino: Any) -> None:
    made.ensured()
    core = openvino.Core()
    exact = core.compile_model(str(made.xml), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (logits_bc,) = exact([_IMAGES_BCHW]).values()
    session = onnxruntime.InferenceSession(str(made.onnx), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(logits_bc, session.run(None, {"image": _IMAGES_BCHW})[0], atol=1e-5)
    operations = core.read_model(str(made.xml)).get_ops()
    constants = [each for each in operations if each.get_type_name() == "Constant"]
    assert "f16" not in {each.get_element_type().get_type_name() for each in constants}
    content = made.bin.read_bytes()
    for tensor in onnx.load(made.onnx).graph.initializer:
        assert numpy_helper.to_array(tensor).tobytes() in content, tensor.name


def test_the_passport_is_in_the_models_runtime_information(made: _Made, openvino: Any) -> None:
    made.ensured()
    model = openvino.Core().read_model(str(made.xml))
    for key, value in _PASSPORT.metadata(_VARIANT).items():
        assert model.get_rt_info(key.split(".", 1)).astype(str) == value, key


def test_sidecars_tell_parents_weights_and_passport(made: _Made) -> None:
    sidecar, _ = made.ensured(build_s=7.0, calibration_s=2.5)
    assert sidecar.details["calibration_s"] == 2.5
    assert 0 < sidecar.details["build_s"] != 7.0
    weights = verified_sidecar(made.bin, kind=Kind.OPENVINO_WEIGHTS, remedy="")
    onnx_model = verified_sidecar(made.onnx, kind=Kind.ONNX_MODEL, remedy="")
    assert sidecar.parents == weights.parents == {"onnx": onnx_model.sha256, "checkpoint": "ab" * 32}
    assert (sidecar.details["weights_sha256"], sidecar.details["weights_bytes"]) == (weights.sha256, weights.size_bytes)
    assert Passport.model_validate(sidecar.details["passport"]) == _PASSPORT
    assert list(made.xml.parent.glob(".*")) == []


def test_what_a_quantised_file_has_seen_and_been_chosen_on_is_said_by_what_is_made_of_it(made: _Made) -> None:
    seen = {"calibration": {"rows": [0, 1], "sha256": "ab"}, "float_layers": ["conv1"], "int8": "auto"}
    sidecar, _ = made.ensured(**seen, search=[])
    assert {key: sidecar.details.get(key) for key in seen} == seen
    assert "search" not in sidecar.details
    assert not made.ensured()[1]


def test_what_is_up_to_date_is_left_alone(made: _Made) -> None:
    assert made.ensured()[1]
    before = {path: path.stat().st_mtime_ns for path in made.xml.parent.iterdir()}
    assert not made.ensured()[1]
    assert {path: path.stat().st_mtime_ns for path in made.xml.parent.iterdir()} == before


def _changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["fp32.ir.bin", "fp32.ir.xml", "fp32.ir.bin.json", "fp32.ir.xml.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _changed], ids=["gone", "one bit"])
def test_a_part_that_is_gone_or_changed_is_made_again(made: _Made, name: str, damage: Callable[[Path], None]) -> None:
    sidecar, _ = made.ensured()
    weights = made.bin.read_bytes()
    damage(made.xml.with_name(name))
    again, made_now = made.ensured()
    assert made_now or name.endswith(".json"), "one bit of a date in a sidecar changes nothing"
    assert made.bin.read_bytes() == weights
    assert again.details["weights_sha256"] == sidecar.details["weights_sha256"]
    assert verified_sidecar(made.xml, kind=Kind.OPENVINO_MODEL, remedy="")
    assert verified_sidecar(made.bin, kind=Kind.OPENVINO_WEIGHTS, remedy="")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_as_such_and_leaves_nothing_half(
    residual_network: Callable[..., Path], full_disk: Path
) -> None:
    # The ONNX file takes more than half of the disk: the weights do not fit beside it.
    source = residual_network(wh=np.ones((3000, 8), dtype=np.float32), bh=np.zeros(3000, dtype=np.float32))
    assert 64 << 10 < source.stat().st_size < 120 << 10
    made = _Made(source, full_disk)
    with pytest.raises(ArtifactError, match="disk is full") as caught:
        made.ensured()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert list(full_disk.glob("*.ir.*")) == []
