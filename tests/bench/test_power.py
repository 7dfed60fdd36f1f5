"""Power and clocks from a made-up tree of sysfs and a stand-in for NVML that keeps a GPU's books."""

from __future__ import annotations

import math
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.power import Power, PowerSampler
from bench.power_gpu import harmful, reasons_from_bits
from bench.power_processor import EnergyCounter, energy_counters


class _Nvml(ModuleType):
    """A GPU of 300 W that uses 30 J between two readings of its counter; what is in `silent` it does not tell."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, silent: tuple[str, ...] = (), bits: int = 0, count: int = 1) -> None:
        super().__init__("pynvml")
        self.silent, self.bits, self.count = silent, bits, count
        self.asked = self.opened = self.clocks = self.energy_mj = 0

    def _answer(self, name: str, value: Any) -> Any:
        self.asked += 1
        if name in self.silent:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:
        self._answer("init", None)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= self.count:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"A GPU"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return int(self._answer("power", 300_000))

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        self.clocks += 1
        return int(self._answer("clock", 1500 + self.clocks % 2))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return int(self._answer("temperature", 61))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return int(self._answer("reasons", self.bits))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self.energy_mj += 30_000
        return int(self._answer("energy", self.energy_mj))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def _counter(powercap: Path, folder: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    _write(powercap / folder / "name", name)
    _write(powercap / folder / "max_energy_range_uj", str(range_uj))
    return _write(powercap / folder / "energy_uj", str(energy_uj))


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, Path]:
    return {"powercap": tmp_path / "powercap", "processors": tmp_path / "processors"}


def _wait_for(told: Any) -> None:
    deadline_s = time.monotonic() + 60
    while not told():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_where_nothing_is_told_no_thread_is_started_and_the_record_says_why(
    nowhere: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("bench.power_gpu._DRIVER", nowhere["powercap"])
    before = threading.active_count()
    with PowerSampler(gpu_index=0, **nowhere) as sampler:
        assert threading.active_count() == before
    power = sampler.record()
    assert (power.gpu, power.processor_energy_j, power.processor_clock_hz, power.energy_j) == (None, None, None, None)
    assert [note.split(":")[0] for note in power.notes] == ["GPU", "RAPL", "Clock"]
    assert power.notes[0] == "GPU: no NVIDIA driver"
    assert Power.model_validate_json(power.model_dump_json()) == power


def test_a_driver_without_the_package_is_told_how_to_get_it(
    nowhere: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("bench.power_gpu._DRIVER", _write(tmp_path / "version", "NVRM"))
    assert "make setup GPU=1" in PowerSampler(gpu_index=0, **nowhere).record().notes[0]
    # A measurement on the processor has nothing to say of GPUs.
    assert not any("GPU" in note for note in PowerSampler(**nowhere).record().notes)


def test_a_gpu_tells_power_clock_temperature_and_why_it_is_not_faster(
    nowhere: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = _Nvml(bits=0b100101, count=2)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with PowerSampler(gpu_index=1, **nowhere) as sampler:
        _wait_for(lambda: nvml.asked > 30)
    power = sampler.record()
    assert nvml.opened == 0
    assert power.gpu is not None
    assert (power.gpu.name, power.gpu.uuid) == ("A GPU", "GPU-1")
    assert "number 1 of 2" in power.notes[0]
    assert len(power.gpu.samples) >= 3
    assert [each.at_s for each in power.gpu.samples] == sorted(each.at_s for each in power.gpu.samples)
    sample = power.gpu.samples[0]
    assert (sample.power_w, sample.temperature_c) == (300.0, 61)
    assert sample.reasons == ["idle", "software power cap", "software thermal slowdown"]
    assert power.gpu.mean_power_w == pytest.approx(300.0)
    count = len(power.gpu.samples)
    assert power.gpu.throttled_samples == {"software power cap": count, "software thermal slowdown": count}
    assert power.gpu.energy_j == power.energy_j == pytest.approx(30)
    assert Power.model_validate_json(power.model_dump_json()) == power


def test_what_a_gpu_does_not_tell_is_said_and_energy_is_then_mean_power_times_time(
    nowhere: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Nvml(silent=("clock", "reasons", "energy")))
    with PowerSampler(gpu_index=0, **nowhere) as sampler:
        pass
    power = sampler.record()
    assert "A GPU does not tell clock, throttle reasons" in power.notes[0]
    assert power.gpu is not None
    assert power.gpu.samples[0].sm_clock_mhz is None
    assert power.gpu.samples[0].reasons is None
    assert power.gpu.throttled_samples == {}
    assert power.gpu.energy_j is None
    assert power.energy_j == pytest.approx(300 * power.duration_s)


@pytest.mark.parametrize(("silent", "index", "said"), [(("init",), 0, "does not start"), ((), 3, "nothing of GPU 3")])
def test_an_nvml_that_does_not_work_is_said_and_left(
    nowhere: dict[str, Path], monkeypatch: pytest.MonkeyPatch, silent: tuple[str, ...], index: int, said: str
) -> None:
    nvml = _Nvml(silent=silent)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with PowerSampler(gpu_index=index, **nowhere) as sampler:
        pass
    power = sampler.record()
    assert power.gpu is None
    assert said in power.notes[0]
    assert nvml.opened == 0


def test_reasons_are_words_and_only_some_make_a_time_worthless() -> None:
    assert reasons_from_bits(0) == []
    assert reasons_from_bits(0x80 | 0x40) == ["hardware thermal slowdown", "hardware power brake"]
    assert reasons_from_bits(1 << 40) == ["reason 40"]
    assert harmful(["idle", "application clocks", "sync boost"]) == ["sync boost"]


def test_processor_energy_is_by_counter_and_wraps_around(nowhere: dict[str, Path]) -> None:
    powercap = nowhere["powercap"]
    package = _counter(powercap, "intel-rapl:0", "package-0", 999_000)
    core = _counter(powercap, "intel-rapl:0:0", "core", 5)
    memory = _counter(powercap, "intel-rapl:0:1", "dram", 7)
    _counter(powercap, "intel-rapl-mmio:0", "package-0", 1)
    (powercap / "intel-rapl").mkdir()
    with PowerSampler(**nowhere) as sampler:
        _write(package, "499_999")
        _write(core, "200005")
        _write(memory, "100007")
    power = sampler.record()
    # 999,000 -> range 1,000,000 -> 0 -> 499,999: 1,001 steps to zero and 499,999 more.
    assert power.processor_energy_j == pytest.approx({"package-0": 0.501, "core": 0.2, "dram": 0.1})
    # The core is within the package, memory is not.
    assert power.energy_j == pytest.approx(0.601)


def test_a_counter_that_cannot_be_read_for_a_moment_loses_nothing(tmp_path: Path) -> None:
    file = _counter(tmp_path, "intel-rapl:0", "package-0", 100)
    (counter,) = energy_counters(tmp_path, [])
    counter.read()
    file.unlink()
    counter.read()
    _write(file, "300100")
    counter.read()
    assert counter.energy_j == pytest.approx(0.3)


def test_counters_that_may_not_be_read_are_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _counter(tmp_path, "intel-rapl:0", "package-0", 0)
    _counter(tmp_path, "intel-rapl:1", "package-1", 0)
    (tmp_path / "intel-rapl:1" / "max_energy_range_uj").write_text("none")
    read = Path.read_text

    def guarded(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "energy_uj":  # The tests may run as root, who may read anything.
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    notes: list[str] = []
    assert energy_counters(tmp_path, notes) == []
    assert "sudo chmod a+r" in notes[0]
    assert "intel-rapl:1 cannot be read" in notes[1]
    with pytest.raises(PermissionError):
        EnergyCounter(tmp_path / "intel-rapl:0")


def test_processor_clocks_are_the_mean_of_the_cores(nowhere: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2})
    for core, clock_khz in ((0, "3000000"), (1, "1"), (2, "2000000")):
        _write(nowhere["processors"] / f"cpu{core}" / "cpufreq" / "scaling_cur_freq", clock_khz)
    with PowerSampler(**nowhere) as sampler:
        _write(nowhere["processors"] / "cpu2" / "cpufreq" / "scaling_cur_freq", "<unknown>")
    power = sampler.record()
    assert power.processor_clock_hz == [2.5e9]


def test_this_machine_tells_what_it_tells() -> None:
    with PowerSampler() as sampler:
        pass
    power = sampler.record()
    assert power.duration_s > 0
    for field, word in (("processor_energy_j", "RAPL"), ("processor_clock_hz", "Clock")):
        assert getattr(power, field) is not None or any(note.startswith(word) for note in power.notes)


@pytest.mark.gpu
def test_a_real_gpu_tells_its_power() -> None:
    pytest.importorskip("pynvml")
    with PowerSampler(gpu_index=0) as sampler:
        time.sleep(0.5)
    power = sampler.record()
    assert power.gpu is not None
    assert power.gpu.name
    assert len(power.gpu.samples) >= 3
    assert power.gpu.mean_power_w is not None
    assert math.isfinite(power.gpu.mean_power_w)
    assert power.gpu.mean_power_w > 0
