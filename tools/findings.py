"""Rewrite what README and docs/findings.md say of the committed records: `python tools/findings.py`."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from mclir_nb import files, root
from mclir_nb.experiments import evidence, intervals, measure, push_study, verdicts
from mclir_nb.experiments.plans import EXPERIMENTS
from mclir_nb.views import evidence_figures
from mclir_nb.views.style import render

BEGIN, END = "<!-- findings: begin, written by python tools/findings.py -->", "<!-- findings: end -->"
PROBED = ["push", "towards", "push - foreign", "push - noise", "oldest", "smooth", "pull"]
UNKNOWN = "Not run yet. What is asked, of what and how often is decided in record {}."
CHANGE = """## What would change our mind

- That SPN helps: an arm that beats plain training *at equal cost*, at equal dose, with an interval without zero
  after Holm's correction, and again with eight fresh seeds that were decided before.
- That it is history that helps: the own past better than another network's past and than noise at the same dose, as
  measured and not only as asked for (V), away from it better than towards it (D3), and a push that points down the
  held-out loss more than its controls do (P).
- That it does not help: intervals that hold zero and are narrow, at sizes, lengths and learning rates nearer to the
  paper's. Small networks and a few thousand steps speak for themselves only.

## What a GPU should run next

`python -m mclir_nb measure` first (is everything right there, and what does a step cost), then, seed by seed and at
equal dose, experiments that are decided: super-resolution x4 with EDSR baseline at paper size, 20,000 steps: plain,
SPN, smooth, sampled, plain at equal cost ([E1](../data/records/E1/README.md)); dehazing with FFA-Net of 3 x 6 blocks,
patches of 128: the same arms ([E2](../data/records/E2/README.md)); SwinIR-light: plain and SPN
([E5](../data/records/E5/README.md)).
"""


def block() -> str:
    """One line per record; its page, which is linked, has every interval."""
    name, seen, done = push_study.NAME, "Not run yet.", push_study.whole(push_study.recorded()[0])
    if len(done):
        count, many = len(done[push_study.CELL].drop_duplicates()), len(list(push_study.cells()))
        seen = f"Runs looked at: {count} of {many}. {push_study.answer(done)}"
    lines = [f"- **[{name}](data/records/{name}/README.md)** {push_study.QUESTION} {seen}", verdicts.summary()]
    if lent := measure.read():
        lines.append(f"- **[gpu](data/records/gpu/checks.csv)** {' '.join(measure.summary(lent).splitlines())}")
    return "\n".join(lines)


def write(readme: Path) -> None:
    """Put a line per record between the marks of a page; ValueError if the marks are not there."""
    page = readme.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{readme} does not hold the lines {BEGIN!r} and {END!r} once; put them back.")
    before, rest = page.split(BEGIN)
    files.write_file(readme, f"{before}{BEGIN}\n{block()}\n{END}{rest.split(END)[1]}")


def write_page(page: Path) -> None:
    """The page "What we found": a section with a figure for each record that is there, a sentence where none is."""
    answers = []
    for main in evidence.strongest():
        answers.append(f"**{verdicts.answer(main)}** (Record [{main.name}](../data/records/{main.name}/README.md).)")
        answers += _weak(main)
    parts = [
        "# What we found",
        "Written by `python tools/findings.py` from `data/records`; no number on this page is typed by hand. A "
        "gain is a mean paired difference over seeds with its 95 % interval; raw and EMA weights are scored apart. "
        "The dose is how long the second term's part of an optimiser step is beside that of L1. The newer records "
        "give all objectives the same dose: lambda is chosen for it before a run, and what it turned out to be is "
        "in the column `measured`. The older records (C1, A1, B1) do not. `sr x4 edsr` is super-resolution to four "
        "times the side with the network EDSR, `derain nafnet` the removal of rain with NAFNet; an arm is one way "
        "to train, and a table in [07_ablate](../notebooks/07_ablate.ipynb) says what each changes and asks.",
        *(answers or ["No experiment is recorded yet, so nothing is claimed."]),
        f"In the tables {' '.join(verdicts.COLUMNS.split())} In the figures bars are 95 % intervals without the "
        "correction; in the one over the dose a grey line leads to the dose as measured.",
        "## Does the push help where it is applied?",
        *_probe(page),
    ]
    for name, title, draw in SECTIONS:
        parts += [f"## {title}", *_section(page, name, draw)]
    parts += [CHANGE.rstrip(), "## All records", block().replace("](data/", "](../data/")]
    files.write_file(page, "\n\n".join(parts) + "\n")


def _section(page: Path, name: str, draw: Callable[[evidence.Record], Figure]) -> list[str]:
    """What a record says, with its figure; that it is not run yet, if it is not."""
    record, link = evidence.committed(name), f"[{name}](../data/records/{name}/README.md)"
    if record is None:
        return [UNKNOWN.format(link)]
    question = EXPERIMENTS[name].question
    table = files.as_markdown(verdicts.shown(verdicts.results(record, record.decision["baseline"])))
    said = f"Record {link}: {question} {verdicts.state(record)}"
    lines = verdicts.outcome(record).splitlines() if record.decision.get("seen") else []
    more = "\n".join(f"- {line}" for line in lines + verdicts.towards(record).splitlines())
    picture = _picture(page, name, question, draw(record))
    return [said, *_weak(record), picture, table, *([more] if more else [])]


def _weak(record: evidence.Record) -> list[str]:
    """A paragraph on what is wrong with a record, if anything is."""
    weak = [flaw for flaw in verdicts.flaws(record) if flaw != record.withdrawn]
    return [f"What is weak about this record: {'; '.join(weak)}."] if weak else []


def _probe(page: Path) -> list[str]:
    """The same of record P, which is of another kind."""
    helps, link = push_study.recorded()[0], f"[{push_study.NAME}](../data/records/{push_study.NAME}/README.md)"
    if push_study.whole(helps).empty:
        return [UNKNOWN.format(link)]
    table = push_study.summary(helps)
    tables = {"raw weights": table, "EMA": push_study.summary(helps, "help_plain_ema")}
    figure = evidence_figures.probe(tables, [name for name in PROBED if name in set(table["direction"])])
    rates = ", at the recipe's learning rate (demo) or at an eighth of it (eighth)" * (table["rate"].nunique() > 1)
    note = (
        f"Record {link}; seeds: {' or '.join(map(str, sorted(set(table['seeds']))))}. {push_study.answer(helps)}\n\n"
        "Right of zero, a small step along the direction lowers a held-out loss: a step from the network's own weights "
        "(raw weights), or from those of their average (EMA)"
        f"{rates}. Orange: the push, and what is left of it when its controls, the past of another network and "
        "noise of the same distance, are taken off. Blue: the push with its sign turned (towards); away from the "
        "oldest history alone (oldest); the EMA's output away from the EMA's own past (smooth); L1 alone (pull). "
        "Filled: while training plain; hollow: with SPN."
    )
    return [note, _picture(page, push_study.NAME, push_study.QUESTION, figure)]


def _picture(page: Path, name: str, what: str, figure: Figure) -> str:
    """Write a figure beside the page; the line that shows it there."""
    file = page.parent / "findings" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    files.write_file(file, render(figure, "png", colours=64))
    return f"![{what}](findings/{file.name})"


def _paired(record: evidence.Record) -> Figure:
    baseline = record.decision["baseline"]
    return evidence_figures.paired_differences(intervals.by_weights(record.runs, baseline), baseline=baseline)


SECTIONS: list[tuple[str, str, Callable[[evidence.Record], Figure]]] = [
    ("S", "Does it gain, and does the step at the price of a plain one do the same?", _paired),
    ("D", "How much of it?", lambda record: evidence_figures.dose_response(verdicts.results(record))),
    ("D3", "Away from the past, or towards it, with more seeds?", _paired),
    ("V", "Which part does the work, and is there something better?", _paired),
    ("R", "Beside the published rivals?", _paired),
    ("L", "At a small learning rate, and for longer?", _paired),
    ("C2", "On three tasks?", _paired),
    ("B2", "What is left of the first variants?", _paired),
    ("E1", "With a network as large as the paper's: EDSR?", _paired),
    ("E2", "FFA-Net, on indoor haze?", _paired),
    ("E5", "SwinIR-light?", _paired),
]

if __name__ == "__main__":
    write(root() / "README.md")
    write_page(root() / "docs" / "findings.md")
    print("README.md and docs/findings.md: written")
