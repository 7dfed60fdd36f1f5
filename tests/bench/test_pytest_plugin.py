"""The plugin as another repository uses it: a scratch repository of its own, pytest in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest

_ROOT = Path(__file__).resolve().parents[2]

# What a repository has of its own: films, labels, a model in NumPy, in torch and as ONNX, and a damaged file.
_THINGS = """
    import numpy as np
    import onnx
    import pytest
    from onnx import TensorProto, helper, numpy_helper

    LABELS = np.arange(300) % 3
    IMAGES = (4 * np.eye(3)[LABELS][:, :, None, None] + np.zeros((1, 1, 2, 2))).astype(np.float32)
    BIAS = np.zeros(3, dtype=np.float32)


    def write(path, bias=BIAS, batch="b"):
        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Add", ["flat", "bias"], ["logits"]),
        ]
        ends = [
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 2, 2])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        ]
        graph = helper.make_graph(nodes, "model", *ends, [numpy_helper.from_array(bias, "bias")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
        return path


    def model(images):
        return images.mean(axis=(2, 3))


    def wrong(*rows):
        logits = model(IMAGES)
        logits[list(rows)] = np.roll(logits[list(rows)], 1, axis=1)
        return logits
"""

_TESTS = """
    import numpy as np
    import pytest
    from things import IMAGES, LABELS, model, write, wrong


    def test_onnx_against_a_function(assert_parity, tmp_path):
        outcome = assert_parity(write(tmp_path / "model.onnx"), model, IMAGES, LABELS)
        assert outcome.parity.changed_answers == 0
        assert outcome.verdict.word == "PASS"


    def test_onnx_against_onnx(assert_parity, tmp_path):
        assert_parity(str(write(tmp_path / "a.onnx", batch=4)), write(tmp_path / "b.onnx"), IMAGES, LABELS)


    def test_torch(assert_parity):
        import torch

        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        assert_parity(lambda images: network(torch.from_numpy(images)), model, torch.from_numpy(IMAGES), LABELS)


    def test_a_generator_and_images_without_label(assert_parity):
        labels = LABELS.copy()
        labels[::4] = -1
        outcome = assert_parity(model, model, (IMAGES[start : start + 50] for start in range(0, 300, 50)), labels)
        assert (outcome.parity.images, outcome.parity.labelled) == (300, 225)


    def test_no_labels_and_a_trusted_reference(assert_parity):
        assert assert_parity(model, model, IMAGES, trust_reference=True).parity.accuracy is None


    def test_two_in_one_test(assert_parity):
        for margin in (0.01, 0.02):
            assert_parity(model, model, IMAGES, LABELS, margin=margin)


    def test_accepted(assert_parity):
        with pytest.warns(UserWarning, match="INCONCLUSIVE"):
            assert_parity(model, model, IMAGES[:30], LABELS[:30], accept_inconclusive=True)


    def test_fails_no_labels(assert_parity):
        assert_parity(model, model, IMAGES)


    def test_fails_damaged(assert_parity, tmp_path):
        bias = np.array([3.0, 0.0, 0.0], dtype=np.float32)
        assert_parity(write(tmp_path / "damaged.onnx", bias), model, IMAGES, LABELS)


    def test_fails_changed(assert_parity):
        assert_parity(wrong(17, 18), model, IMAGES, LABELS, class_names=["covid", "normal", "pneumonia"])


    def test_fails_accuracy(assert_parity):
        images, labels = np.tile(IMAGES, (10, 1, 1, 1)), np.tile(LABELS, 10)
        logits = model(images)
        logits[:40] = np.roll(logits[:40], 1, axis=1)
        assert_parity(logits, model, images, labels, precision="int8", margin=0.005)


    def test_fails_mixed_up(assert_parity):
        assert_parity(lambda images: model(images)[::-1], model, IMAGES, LABELS, precision="int8")


    def test_fails_inconclusive(assert_parity):
        assert_parity(model, model, IMAGES[:30], LABELS[:30])


    def test_fails_nan(assert_parity):
        assert_parity(lambda images: model(images) * np.nan, model, IMAGES, LABELS)


    def test_fails_shape(assert_parity):
        assert_parity(lambda images: images, model, IMAGES, LABELS)


    def test_fails_option(assert_parity):
        assert_parity(model, model, IMAGES, LABELS, tolerance=1)
"""

_MARGIN_TESTS = """
    from things import IMAGES, LABELS, model


    def test_the_margin_of_the_ini_file(assert_parity):
        # 150 images show a loss below 2 points, and not one of 1.
        assert assert_parity(model, model, IMAGES[:150], LABELS[:150]).margin == 0.02


    def test_fails_with_a_margin_of_its_own(assert_parity):
        assert_parity(model, model, IMAGES[:150], LABELS[:150], margin=0.01)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "things.py").write_text(dedent(_THINGS))
    return folder


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As installed: importable, and nothing of this suite's own settings.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(_ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _section(output: str, title: str) -> str:
    """Return what stands between a heading of pytest's and the next."""
    return re.split(r"(?m)^[=_]+ .* [=_]+$", re.split(rf"(?m)^[=_]+ {title} [=_]+$", output)[1])[0]


def test_another_repository_asserts_parity_of_its_own_models(repository: Path) -> None:
    (repository / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "-p bench.pytest_plugin --strict-config"\nfilterwarnings = ["error"]\n'
    )
    (repository / "test_models.py").write_text(dedent(_TESTS))
    done = _pytest(repository, "--junit-xml=junit.xml")
    assert "9 failed, 7 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    for name, words in {
        "no_labels": ["parity NO VERDICT at the step `reference`", "trust_reference=True"],
        "damaged": ["parity FAIL at the step `numeric` (fp32): a probability differs by", "class 0: 0.0177 -> 0.2654"],
        "changed": [
            "2 of 300 answers changed, at most 2.08 % change (95 %)",
            "100.00 % -> 99.33 % of 300 labelled images",
            "0.67 points, 90 % interval",
            "image 17, label pneumonia: pneumonia 0.9647 (covid 0.0177) -> covid 0.9647 (pneumonia 0.0177)",
            "image 18, label covid",
        ],
        "accuracy": ["FAIL at the step `accuracy` (int8): accuracy is at least", "the margin is 0.5"],
        "mixed_up": ["FAIL at the step `numeric` (int8)", "in another row of the batch"],
        "inconclusive": ["INCONCLUSIVE at the step `evidence`", "about 299 test images would decide"],
        "nan": ["NaN or infinity in the answers to 300 of 300 images", "images 0, 1, 2, 3, 4 (the first 5 of 300)"],
        "shape": ["ValueError: The candidate gives float32 of the shape [8, 3, 2, 2], wanted [8, classes]."],
        "option": ["TypeError", "'tolerance'"],
    }.items():
        failure = _section(done.stdout, f"test_fails_{name}")
        assert [each for each in words if each not in failure] == [], failure
    # What is the caller's to mend ends at the line of the caller's test, not inside the harness.
    assert "bench/" not in _section(done.stdout, "test_fails_changed") + _section(done.stdout, "test_fails_shape")
    lines = [line for line in _section(done.stdout, "parity").splitlines() if line]
    assert len(lines) == 15, lines
    assert (
        "test_models.py::test_onnx_against_a_function  PASS: 0 of 300 answers changed, accuracy 100.00 % -> 100.00 %"
    ) in lines[0]
    assert [line.split("  ")[1].split(":")[0] for line in lines] == [
        *["PASS"] * 7, "INCONCLUSIVE", "NO VERDICT", *["FAIL"] * 4, "INCONCLUSIVE", "FAIL"
    ]  # fmt: skip
    properties = ElementTree.parse(repository / "junit.xml").iter("property")
    assert sum(each.get("name") == "parity" for each in properties) == 15


def test_the_example_of_the_documentation_works(repository: Path) -> None:
    text = (_ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"(?m)^    # (\S+)\n((?:^(?:    .*)?\n)+)", text))
    assert set(files) == {"conftest.py", "pytest.ini", "tests/test_conversion.py"}
    (repository / "tests").mkdir()
    for name, content in files.items():
        (repository / name).write_text(dedent(content))
    make = """
        from pathlib import Path
        import numpy as np
        from things import IMAGES, LABELS, write
        Path("models").mkdir()
        for name in ("original", "int8"):
            write(f"models/{name}.onnx")
        np.savez("tests/films.npz", images=IMAGES, labels=LABELS)
    """
    environment = os.environ | {"PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", dedent(make)], cwd=repository, env=environment, check=True, timeout=600)
    done = _pytest(repository)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert _section(done.stdout, "parity").count("PASS") == 3
    assert "margin 2 points" in _section(done.stdout, "parity")


def test_the_ini_file_sets_the_margin_and_a_conftest_loads_the_plugin(repository: Path) -> None:
    (repository / "pytest.ini").write_text("[pytest]\nparity_margin = 0.02\naddopts = --strict-config\n")
    (repository / "conftest.py").write_text('pytest_plugins = ["bench.pytest_plugin"]\n')
    (repository / "test_margin.py").write_text(dedent(_MARGIN_TESTS))
    done = _pytest(repository)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_margin.py::test_fails_with_a_margin_of_its_own" in done.stdout
    assert "margin 2 points" in _section(done.stdout, "parity")
    (repository / "pytest.ini").write_text("[pytest]\nparity_margin = 2\n")
    done = _pytest(repository)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: parity_margin is 2: give a fraction, 0.01 is one percentage point." in done.stderr


def test_loading_the_plugin_imports_nothing_heavy_and_says_nothing(repository: Path) -> None:
    (repository / "test_light.py").write_text(
        dedent(
            """
            import sys


            def test_light():
                heavy = {"torch", "onnx", "onnxruntime", "numpy", "scipy", "sklearn", "pydantic", "bench.asserting"}
                assert not heavy & set(sys.modules)
            """
        )
    )
    done = _pytest(repository, "-p", "bench.pytest_plugin")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "parity" not in done.stdout


def test_without_being_asked_for_the_plugin_is_not_there(repository: Path) -> None:
    (repository / "test_absent.py").write_text("def test_absent(assert_parity):\n    pass\n")
    assert "fixture 'assert_parity' not found" in _pytest(repository).stdout
