"""A comparison in words: tables for the terminal, and Markdown that goes into a pull request as it is."""

from __future__ import annotations

from bench.compare import gathered
from bench.comparison import Comparison, RunComparison, TrialComparison
from bench.paired import AccuracyChange, Paired
from bench.parity import Parity
from bench.sides import JudgedTrial
from bench.tables import markdown_table
from bench.time_comparison import TimeComparison
from bench.time_tables import interval_text

VERDICT_COLUMNS = ["run", "trial", "verdict", "change", "agreement", "accuracy change"]
ANSWER_COLUMNS = [
    "run",
    "answers of",
    "films",
    "changed",
    "right: both, OLD, NEW, none",
    "McNemar p",
    "accuracy OLD",
    "accuracy NEW",
    "loss (90 %)",
    "loss < margin",
    "macro-F1",
    "macro-F1 loss (90 %)",
]

TIME_COLUMNS = ["run", "trial", "OLD ms", "NEW ms", "NEW / OLD (95 %)", "NEW is", "measured"]

_CHANGES = {
    "lost": "PASS lost",
    "gained": "PASS gained",
    "changed": "changed",
    "unchanged": "",
    "missing": "not measured in NEW",
    "added": "not measured in OLD",
    "unmeasured": "not measured",
}
_MOST_FILMS = 10

READING = """\
OLD -> NEW. Agreement and accuracy change are those of a candidate against its own checkpoint on the judged films. The
second table holds OLD's and NEW's answers to the same films against each other: accuracy with its 95 % Wilson interval,
McNemar's exact two-sided p, the loss (OLD - NEW) with Tango's 90 % interval, and the p of "the loss is at least the
margin of NEW". A large McNemar p is no evidence that the two are equal; the interval says what loss is still possible.
No p is corrected for the number of rows.
NEW / OLD is a duration, with Welch's 95 % interval over the processes of both sides. Where eager PyTorch was measured
in turn on both sides it is the yardstick; by their times alone, the machine's drift between the two is in the ratio."""


def verdict_rows(comparison: Comparison) -> list[list[str]]:
    """Return one row of VERDICT_COLUMNS per trial."""
    return [_verdict_row(run, trial) for run in comparison.runs for trial in run.trials]


def _verdict_row(run: RunComparison, trial: TrialComparison) -> list[str]:
    words = [_word(trial.old_word, trial.old), _word(trial.new_word, trial.new)]
    parities = [each.result.parity if each else None for each in (trial.old, trial.new)]
    return [
        run.name,
        trial.trial,
        _arrow(words),
        _CHANGES[trial.change],
        _arrow([_agreement(parity) for parity in parities]),
        _arrow([_accuracy_change(parity) for parity in parities]),
    ]


def _word(word: str, judged: JudgedTrial | None) -> str:
    step = judged.step if judged and word == "FAIL" else ""  # Of the other words there is one step each.
    return f"{word or 'none'} ({step})" if step else word or "none"


def _arrow(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[1] else f"{texts[0] or 'none'} -> {texts[1] or 'none'}"


def _agreement(parity: Parity | None) -> str:
    return "" if parity is None else f"{100 * parity.agreement:.2f} %"


def _accuracy_change(parity: Parity | None) -> str:
    if parity is None or parity.accuracy is None or parity.reference_accuracy is None:
        return ""
    return f"{100 * (parity.accuracy - parity.reference_accuracy):+.2f} pp"


def answer_rows(comparison: Comparison) -> list[list[str]]:
    """Return one row of ANSWER_COLUMNS per pair of answers: of a run's two checkpoints, then of its candidates."""
    rows = []
    for run in comparison.runs:
        if run.checkpoints is not None:
            rows.append([run.name, "the checkpoints", *_answer_cells(run.checkpoints)])
        rows += [[run.name, each.trial, *_answer_cells(each.paired)] for each in run.trials if each.paired]
    return rows


def _answer_cells(pair: Paired) -> list[str]:
    cells, change = [str(pair.images), str(len(pair.changed))], pair.accuracy
    if change is None:
        return [*cells, "no labels", *[""] * 7]
    low, high = (100 * each for each in change.loss_interval_90)
    loss = 100 * (change.old_accuracy - change.new_accuracy)
    f1_low, f1_high = change.macro_f1_loss_interval_90
    return [
        *cells,
        ", ".join(map(str, change.table)),
        f"{change.mcnemar_p:.3g}",
        _accuracy(change.old_accuracy, change.old_accuracy_interval_95),
        _accuracy(change.new_accuracy, change.new_accuracy_interval_95),
        f"{loss:+.2f} pp [{low:+.2f}, {high:+.2f}]",
        _non_inferiority(change),
        f"{change.old_macro_f1:.3f} -> {change.new_macro_f1:.3f}",
        f"[{f1_low:+.3f}, {f1_high:+.3f}]",
    ]


def _accuracy(share: float, interval: tuple[float, float]) -> str:
    return f"{100 * share:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _non_inferiority(change: AccuracyChange) -> str:
    if change.margin is None or change.non_inferiority_p is None:
        return ""
    return f"p = {change.non_inferiority_p:.3g} at {100 * change.margin:g} pp"


def time_rows(comparison: Comparison) -> list[list[str]]:
    """Return one row of TIME_COLUMNS per trial that was timed on both sides."""
    return [
        [run.name, trial.trial, *_time_cells(trial.time)]
        for run in comparison.runs
        for trial in run.trials
        if trial.time is not None
    ]


def _time_cells(times: TimeComparison) -> list[str]:
    milliseconds = [f"{1e3 * each:.2f}" for each in (times.old_s, times.new_s)]
    ratio = times.ratio
    if ratio is None:
        return [*milliseconds, "", "not compared", times.refused]
    return [*milliseconds, interval_text(ratio.estimate, ratio.low, ratio.high, ".3f"), times.word, times.basis]


def detail_lines(comparison: Comparison) -> list[str]:
    """Return what the tables leave out, one thing a line: reasons, differences, notes, and the films that changed."""
    lines = []
    for run in comparison.runs:
        changed = [trial for trial in run.trials if trial.change != "unchanged"]
        lines += [f"{run.name} {trial.trial}: {_change_text(trial)}" for trial in changed]
        lines += [f"{run.name}, the two sides differ: {text}" for text in run.differences]
        lines += [f"{run.name}, note: {text}" for text in run.notes]
        lines += [f"{run.name}, {text}" for text in _film_texts(run)]
    return lines


def _change_text(trial: TrialComparison) -> str:
    sides = []
    for word, judged in ((trial.old_word, trial.old), (trial.new_word, trial.new)):
        if judged is None:
            sides.append("no record")
            continue
        margin = f"margin {100 * judged.result.margin:g} pp"
        why = judged.notes[0] if word in {"STALE", "UNTRUSTED"} and judged.notes else judged.reason
        step = f"{judged.step}; " if judged.step and word == judged.word else ""
        sides.append(f"{word} ({step}{margin}): {' '.join(why.split())}")
    return f"{sides[0]} -> {sides[1]}"


def _film_texts(run: RunComparison) -> list[str]:
    """Return which films are not in the pairs, and which are answered differently."""
    pairs = [("the checkpoints", run.checkpoints), *((each.trial, each.paired) for each in run.trials)]
    left_out, changed = [], []
    for whose, pair in pairs:
        if pair is None:
            continue
        if pair.only_old or pair.only_new:
            counts = f"{pair.only_old} that only OLD answers and {pair.only_new} that only NEW answers"
            left_out.append((whose, f"films left out of the pairs: {counts}"))
        if pair.relabelled:
            left_out.append((whose, f"{pair.relabelled} films have another label in NEW and count for no accuracy"))
        for each in pair.changed:
            changed.append((whose, f"film {each.path} ({each.label or 'no label'}): {each.old} -> {each.new}"))
    films = gathered(changed)
    more = [f"{len(films) - _MOST_FILMS} more changed answers: --json has all"] if len(films) > _MOST_FILMS else []
    return [*gathered(left_out), *films[:_MOST_FILMS], *more]


def closing_lines(comparison: Comparison, *, strict: bool, max_slowdown: float | None = None) -> list[str]:
    """Return what follows from the comparison, in sentences, and what must be said beside it.

    `max_slowdown` is a fraction.
    """
    lost = comparison.counts()["lost"]
    lines = ["A PASS was lost: do not ship NEW in place of OLD." if lost else "No PASS was lost."]
    unproved = sum(trial.pass_unproved for run in comparison.runs for trial in run.trials)
    if unproved:
        fails = "so --strict fails" if strict else "--strict makes this exit code 3"
        lines.append(f"Not measured in NEW though PASS in OLD: {unproved}. Nothing is known about these; {fails}.")
    lines += _slowdown_lines(comparison, strict=strict, limit=max_slowdown)
    if any(run.synthetic for run in comparison.runs):
        lines.append("Made from synthetic phantoms: nothing here is about films.")
    return [*lines, "Not for clinical use."]


def _slowdown_lines(comparison: Comparison, *, strict: bool, limit: float | None) -> list[str]:
    """Return which trials are too slow, or may be, where a limit was set."""
    if limit is None:
        return []
    shown = comparison.too_slow(limit, strict=False)
    unknown = comparison.untimed()
    perhaps = [each for each in comparison.too_slow(limit, strict=True) if each not in shown and each not in unknown]
    fails = "so --strict fails" if strict else "--strict makes this exit code 3"
    lines = [f"Slower than OLD by more than {100 * limit:g} %: {_named(shown)}."] if shown else []
    if perhaps:
        lines.append(
            f"Perhaps slower by more than {100 * limit:g} %, and not shown: {_named(perhaps)}; {fails}. "
            "`harness bench --strict` on both sides narrows the interval."
        )
    if unknown:
        lines.append(f"Timed in OLD and not comparable in NEW: {_named(unknown)}. Nothing is known of these; {fails}.")
    timed = any(trial.time is not None and trial.time.ratio for run in comparison.runs for trial in run.trials)
    if not timed:
        lines.append("No trial was timed on both sides: nothing is known about speed.")
    elif not shown and not perhaps:
        lines.append(f"No trial that was timed on both sides is slower than OLD by more than {100 * limit:g} %.")
    return lines


def _named(trials: list[TrialComparison]) -> str:
    return ", ".join(each.trial for each in trials)


def markdown(comparison: Comparison, *, strict: bool, max_slowdown: float | None = None) -> str:
    """Return the comparison as Markdown: the headline, the tables, then the details."""
    lines = [
        f"### Parity: {comparison.headline()}",
        "",
        f"**{' '.join(closing_lines(comparison, strict=strict, max_slowdown=max_slowdown))}**",
        "",
        f"OLD is `{comparison.old}`, NEW is `{comparison.new}`.",
        "",
        *markdown_table(VERDICT_COLUMNS, verdict_rows(comparison)),
        "",
    ]
    answers = answer_rows(comparison)
    if answers:
        lines += ["The same films, answered by OLD and by NEW:", "", *markdown_table(ANSWER_COLUMNS, answers), ""]
    times = time_rows(comparison)
    if times:
        lines += ["Time per call, end to end:", "", *markdown_table(TIME_COLUMNS, times), ""]
    details = detail_lines(comparison)
    if details:
        lines += ["#### Details", "", *(f"- {line}" for line in details), ""]
    return "\n".join([*lines, READING, ""])
