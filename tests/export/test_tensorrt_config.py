"""What TensorRT alone has, set on a stand-in: no TensorRT builds here. Its names: test_tensorrt_names.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.engine_options import EngineOptions
from export.tensorrt_config import configure, configure_tensorrt, keep_timing_cache, keep_timing_cache_after_build
from harness.core.errors import ArtifactError, ExportError

_TRT = SimpleNamespace(
    __name__="tensorrt",
    BuilderFlag=SimpleNamespace(TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE"),
    MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
    ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
    HardwareCompatibilityLevel=SimpleNamespace(NONE=0, AMPERE_PLUS=1, SAME_COMPUTE_CAPABILITY=2),
)


class _Config:
    """A builder's configuration; it takes only timing caches that begin with b"ours", or new ones."""

    def __init__(self) -> None:
        self.flags = {"TF32"}  # As in the library.
        self.pools: dict[str, int] = {}
        self.hardware_compatibility_level: int | None = None
        self.profiling_verbosity = ""
        self.timing_cache: Any = None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size_bytes: int) -> None:
        self.pools[pool] = size_bytes

    def create_timing_cache(self, content: bytes) -> Any:
        if content == b"garbage":
            return None
        return SimpleNamespace(content=content, serialize=lambda: b"ours, and more")

    def set_timing_cache(self, timing_cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.timing_cache = timing_cache
        return timing_cache.content == b"" or bool(timing_cache.content.startswith(b"ours"))


def _configured(**options: Any) -> tuple[_Config, Any]:
    config, asked = _Config(), EngineOptions(**options)
    configure(_TRT, config, asked)
    return config, configure_tensorrt(_TRT, config, asked, SimpleNamespace(lines=["ERROR: of another GPU"]))


def test_by_default_nothing_is_widened_and_tf32_is_off() -> None:
    config, timing_cache = _configured(workspace_bytes=5)

    assert (config.flags, config.pools) == (set(), {"WORKSPACE": 5})
    assert (config.hardware_compatibility_level, config.profiling_verbosity) == (0, "DETAILED")
    assert timing_cache is config.timing_cache is None


def test_what_is_asked_for_is_set() -> None:
    config, _ = _configured(tf32=True, version_compatible=True, hardware_compatibility="same-compute-capability")

    assert config.flags == {"TF32", "VERSION_COMPATIBLE"}
    assert config.hardware_compatibility_level == 2
    assert _configured(hardware_compatibility="ampere-plus")[0].hardware_compatibility_level == 1


def test_a_timing_cache_is_made_by_the_first_build_and_taken_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "timings"
    config, timing_cache = _configured(timing_cache=path)
    assert timing_cache is config.timing_cache
    assert timing_cache.content == b""
    path.unlink()
    keep_timing_cache(path, timing_cache)
    assert path.read_bytes() == b"ours, and more"

    assert _configured(timing_cache=path)[1].content == b"ours, and more"


@pytest.mark.parametrize("content", [b"garbage", b"another GPU's"])
def test_a_timing_cache_that_the_library_refuses_is_told_with_its_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "timings"
    path.write_bytes(content)

    with pytest.raises(ExportError, match=r"refused the timing cache .*timings(.|\n)*of another GPU") as caught:
        _configured(timing_cache=path)
    assert "delete it" in caught.value.hint
    assert path.read_bytes() == content


def test_a_folder_is_no_timing_cache(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        _configured(timing_cache=tmp_path)
    with pytest.raises(ArtifactError):
        keep_timing_cache(tmp_path, _configured()[0].create_timing_cache(b""))


def test_a_timing_cache_that_cannot_be_written_is_told_before_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((ArtifactError, ExportError), match="timings cannot be"):
        _configured(timing_cache=tmp_path / "file" / "timings")
    with pytest.raises(ArtifactError, match="cannot be written"):
        _configured(timing_cache=Path("/proc/no-such-folder/timings"))


def test_a_timing_cache_that_cannot_be_kept_does_not_cost_the_engine(tmp_path: Path) -> None:
    log = SimpleNamespace(lines=[])
    timing_cache = _configured()[0].create_timing_cache(b"")
    keep_timing_cache_after_build(tmp_path / "timings", timing_cache, log)
    assert ((tmp_path / "timings").read_bytes(), log.lines) == (b"ours, and more", [])

    keep_timing_cache_after_build(tmp_path, timing_cache, log)
    (line,) = log.lines
    assert line.startswith("WARNING: ")
    assert "cannot be written" in line
