"""What the committed records say, in sentences: the block of the README that `python -m mclir_nb findings` rewrites."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mclir_nb import files, root
from mclir_nb.experiments import evidence, intervals, plans, timing
from mclir_nb.experiments.evidence import Record

BEGIN, END = "<!-- findings: begin, written by python -m mclir_nb findings -->", "<!-- findings: end -->"
LISTED = 8  # intervals of a record that are all written out; of a longer record only those that leave zero


def record(name: str | None) -> Record | None:
    """The committed record of that name, or None if it is not there (yet)."""
    return evidence.read_record(name) if name in evidence.recorded() else None


def by_task(record: Record, baseline: str = "plain") -> pd.DataFrame:
    """Paired differences for `figures.paired_differences`, with the task in the name of the arm."""
    table = intervals.by_weights(record.runs, baseline)
    return table.assign(arm=table["task"] + ": " + table["arm"])


def text(names: list[str] | None = None, top: str = "") -> str:
    """One paragraph per committed record in Markdown, computed from its runs.

    Args: names: which; None: all. top: the way to the top of the repository, for links ("../" from a notebook).
    """
    known = evidence.recorded()
    names = known if names is None else names
    if not names:
        return "No paired experiment is recorded in `data/records` yet, so nothing is claimed."
    return "\n".join(
        _paragraph(evidence.read_record(name), top)
        if name in known
        else f"- No record {name} yet: `python -m mclir_nb compare {name}`"
        for name in names
    )


def _paragraph(record: Record, top: str) -> str:
    runs, known = record.runs, plans.EXPERIMENTS.get(record.name)
    question, baseline = (known.question, known.baseline) if known else ("", "plain")
    seeds, diverged = runs["seed"].nunique(), int((runs["stopped"] != "").sum())
    head = f"- **[{record.name}]({top}data/records/{record.name}/README.md)** {question} {len(runs)} runs, "
    head += f"{seeds} seeds" + (f" of {len(known.seeds)} decided" if known else "") + f", {diverged} diverged. "
    try:
        table = intervals.gains(runs, baseline)
    except ValueError as error:
        return f"{head}No conclusion: {error}"
    clear = table[(table["low"] > 0) | (table["high"] < 0)]
    lines = [f"Of {len(table)} intervals {len(clear) or 'none'} lie{'s' * (len(clear) == 1)} beside zero."]
    shown = table if len(table) <= LISTED else clear
    lines += [f"  - {line}" for line in intervals.conclusion(shown).splitlines()] if len(shown) else []
    quiet = table.drop(clear.index)
    if len(quiet) and len(shown) < len(table):
        low, high = quiet["detectable"].min(), quiet["detectable"].max()
        lines.append(
            f"  - {'The other' if len(clear) else 'All'} {len(quiet)}: no effect visible at this size; they could have "
            f"shown differences of {low:.3f} to {high:.3f} dB four times in five."
        )
    return head + "\n".join(lines)


def price() -> str:
    """One paragraph about the recorded price of a step (`timing.recorded`)."""
    table = timing.recorded()
    ratio = table.pivot(index=["network", "threads"], columns=["step", "histories"], values="ratio")
    exact, plain, goals = ratio["ours", 4], ratio["ours", 0], timing.goals(table, timing.recorded("memory"))
    against = exact / ratio["reference", 4]
    return (
        f"- **[cost](data/records/cost/README.md)** On a CPU, {table.network.nunique()} networks at paper size: an "
        f"exact SPN step with four histories takes {against.min():.2f} to {against.max():.2f} of a naive one (median "
        f"{against.median():.2f}) and {(exact / plain).min():.1f} to {(exact / plain).max():.1f} of our plain step, "
        f"which takes {plain.min():.2f} to {plain.max():.2f} of a plain reference step. "
        f"{timing.verdict(goals)}; the others stand in [09_cost](notebooks/09_cost.ipynb) with their numbers."
    )


def block() -> str:
    """What stands between the marks of the README."""
    return f"{text()}\n{price()}"


def write(readme: Path | None = None) -> Path:
    """Put `block` between the marks of the README. Raises: ValueError if the marks are not there."""
    readme = root() / "README.md" if readme is None else readme
    page = readme.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{readme} does not hold the lines {BEGIN!r} and {END!r} once; put them back.")
    before, rest = page.split(BEGIN)
    files.write_file(readme, f"{before}{BEGIN}\n{block()}\n{END}{rest.split(END)[1]}")
    return readme
