"""The verdict of the real bench on a bed, and whether it is the right one. Nothing is timed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.gate import Word
from bench.many import BenchRequest, bench_many
from harness.core.progress import SILENT
from tests.mutants.bed import Bed
from tests.mutants.caller import Harm
from tests.mutants.mutant import Mutant

MARGIN = 0.01
BATCH_SIZE = 8
_REFUSED = "REFUSED"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The gate's word, the step that decided and its reason; REFUSED: bench ended with an error instead."""

    word: str
    step: str
    reason: str

    @property
    def stops(self) -> bool:
        """Whether nobody would ship on it."""
        return self.word in {Word.FAIL.value, _REFUSED}


def judgement_of(bed: Bed, backend: str) -> Judgement:
    """Run bench on a bed: its worker process, its loaded model, its gate."""
    request = BenchRequest.from_options(
        backends=(backend,), batch_sizes=(BATCH_SIZE,), threads=(1,), margin=100 * MARGIN, mode="untimed", force=True
    )
    outcome = bench_many([bed.run], request, SILENT)
    # PyTorch eager has the checkpoint for its artifact; every other backend finds the bed's one file.
    results = [each for each in outcome.results if each.trial.backend == backend]
    for result in results:
        if result.verdict is not None:
            return Judgement(word=result.verdict.word.value, step=result.verdict.step, reason=result.verdict.reason)
    if outcome.failures and not any(result.status == "unavailable" for result in results):
        return Judgement(word=_REFUSED, step="refused", reason=outcome.failures[0].error.message)
    return Judgement(word="UNAVAILABLE", step="", reason="; ".join(result.reason for result in results))


@dataclass(frozen=True, kw_only=True)
class MutantRow:
    """One mutant: `harm` is None where it cannot be run or measured."""

    mutant: Mutant
    harm: Harm | None
    judgement: Judgement

    @property
    def harmful(self) -> bool:
        return self.mutant.lie or (self.harm is not None and self.harm.beyond(MARGIN))

    @property
    def caught(self) -> bool:
        """Whether it was stopped by a step that the mutant allows, in words that speak of its bug."""
        right_step = self.judgement.step in self.mutant.steps
        return self.judgement.stops and right_step and re.search(self.mutant.reason, self.judgement.reason) is not None

    @property
    def missed(self) -> bool:
        return self.harmful and not self.caught

    @property
    def remark(self) -> str:
        """Nothing where it is harmful by its answers, and was caught."""
        if self.missed:
            return "WRONG REASON" if self.judgement.stops else "MISSED"
        if self.harm is not None and self.harm.beyond(MARGIN):
            return ""
        return "by what it says" if self.harmful else "harmless"


@dataclass(frozen=True, kw_only=True)
class RebuildRow:
    """One honest rebuild, which must not be accused."""

    name: str
    file: str
    backend: str
    harm: Harm | None
    judgement: Judgement

    @property
    def accused(self) -> bool:
        return self.judgement.stops
