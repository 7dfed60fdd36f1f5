"""Ask everything, and sum up in one line what this machine is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.machine import core_count
from harness.core.progress import Progress
from harness.doctor.child import answers_to
from harness.doctor.findings import Finding
from harness.doctor.gpu import gpu_findings
from harness.doctor.machine import machine_findings
from harness.doctor.runtimes import (
    CORE_MODULES,
    PROVIDERS,
    core_findings,
    onnxruntime_findings,
    openvino_finding,
    torch_findings,
)

COLUMNS = ("component", "status", "detail", "remedy")
# A first import of torch from a slow disk takes most of a minute.
_LIMIT_S = 120.0
# Each answer is a process of up to 0.8 GB.
_AT_ONCE = 4
# Name of the answer -> probe and its arguments; the slow ones first, so that the others fill the gaps.
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("imagenet",),
    "torch": ("torch",),
    "tensorrt-rtx": ("flavour", "rtx"),
    "tensorrt": ("flavour", "tensorrt"),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    **{f"onnxruntime {name}": ("onnxruntime_provider", full) for name, full in PROVIDERS.items()},
    **{name: (name,) for name in ("driver", "nvml", "cuda", "pycuda")},
    **{name: ("module", module) for name, module in CORE_MODULES.items()},
}


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All findings, in the order in which people read them."""

    findings: Sequence[Finding]

    @property
    def core_is_broken(self) -> bool:
        """Tell whether something fails without which the project does not work."""
        return any(each.required and each.status in ("absent", "broken") for each in self.findings)

    def works(self, *components: str) -> bool:
        """Tell whether each was found to work, if only in part; a core package that imports has no line of its own."""
        working = {each.component for each in self.findings if each.status in ("ok", "limited")}
        return working.union(self._facts("core packages")).issuperset(components)

    def builds(self) -> list[str]:
        onnx = ["ONNX"] if self.works("torch", "torchvision", "onnx", "onnxscript") else []
        return onnx + self._flavours("builds")

    def runs(self) -> list[str]:
        runs = []
        if self.works("torch", "torchvision"):
            runs.append(f"PyTorch (CPU{', GPU' if self._facts('torch')['devices'] else ''})")
        loaded = [name for name in PROVIDERS if self._facts(f"onnxruntime {name}").get("runs")]
        if loaded:
            runs.append(f"ONNX Runtime ({', '.join(loaded)})")
        if self.works("openvino"):
            runs.append("OpenVINO (CPU)")
        return runs + self._flavours("runs")

    def _flavours(self, verb: str) -> list[str]:
        names = {"tensorrt": "TensorRT engines", "tensorrt-rtx": "TensorRT-RTX engines"}
        return [words for component, words in names.items() if self._facts(component).get(verb)]

    def _facts(self, component: str) -> Mapping[str, Any]:
        return next((each.facts for each in self.findings if each.component == component), {})

    def closing_line(self) -> str:
        builds, runs = (", ".join(names) or "nothing" for names in (self.builds(), self.runs()))
        return f"This machine builds: {builds}; runs: {runs}."

    def rows(self) -> list[list[str]]:
        return [each.row() for each in self.findings]

    def summary(self) -> list[dict[str, Any]]:
        """Return every finding and, as the last, what they come to."""
        last = Finding(
            component="this machine",
            status="broken" if self.core_is_broken else "ok",
            detail=self.closing_line(),
            facts={"builds": self.builds(), "runs": self.runs()},
        )
        return [each.summary() for each in (*self.findings, last)]


def examine(progress: Progress, *, limit_s: float = _LIMIT_S) -> Examination:
    """Examine this machine; what takes longer than `limit_s` seconds counts as broken."""
    answers = answers_to(QUESTIONS, at_once=min(core_count(), _AT_ONCE), limit_s=limit_s, progress=progress)
    machine = machine_findings()
    features = next(each.facts["features"] for each in machine if each.component == "processor")
    gpu, *need_gpu = gpu_findings(answers)
    return Examination(
        findings=[
            *machine,
            gpu,
            *core_findings(answers),
            *torch_findings(answers, bf16="bf16" in features),
            *onnxruntime_findings(answers),
            openvino_finding(answers),
            *need_gpu,
        ]
    )
