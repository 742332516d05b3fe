"""What a record allows to say: tables and sentences, computed from its runs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pandas as pd

from mclir_nb.experiments import evidence, intervals
from mclir_nb.experiments.evidence import Record
from mclir_nb.experiments.plans import EXPERIMENTS

SEEDS, PICTURES = intervals.SEEDS, 16  # below these a record is called weak
SAME = 0.005  # dB; what differs by less is not shown apart
ROUNDING = 0.01  # by which lambda for the same dose may differ from machine to machine
BURST = 100  # a term whose mean strength r is so many times its median is a flaw: a few steps make all of it
OFF = 2.0  # times the dose that was asked for; a measured dose beyond that, either way, is a flaw
AWAY_TOWARDS = ("spn", "history-positive")  # arms whose terms differ in sign alone
COLUMNS = """`gain`: mean paired difference in dB ± half of its 95 % interval over seeds, in brackets half of the
interval with Holm's correction; bold where that lies beside zero. `would show`: the true difference in dB that an
interval alone would have shown four times in five. `dose`: as asked for, and as `measured` inside the runs. `r`:
lambda * l_neg / l_rec. `cost`: counted multiplications of the run / those of the arm that is compared with."""


def results(record: Record, baseline: str = "plain") -> pd.DataFrame:
    """Everything that a gain has to be read with, one row per setting and arm, the largest gain of a setting first.

    Returns:
        Columns task, scale, network, arm; gain_raw, half_raw, holm_raw, gain_ema, half_ema, holm_ema (mean paired
        difference to the baseline in dB of both kinds of weights, half of its 95 % interval over seeds, alone and after
        Holm's correction for all intervals of this table); detectable (dB, the larger of both); dose (as asked for;
        NaN: lambda was given, or there is none), dose_measured and r (means over the log of the runs); run_cost
        (multiplications of the run / those of the baseline's); seeds; pictures (that were scored).

    Raises:
        ValueError: as `intervals.paired`.
    """
    key, names = [*intervals.SETTING, "arm"], {"mean": "gain", "half": "half", "half_holm": "holm"}
    table = intervals.paired(record.runs, baseline)
    kinds = {kind: table[table["score"] == f"psnr_{kind}"].set_index(key) for kind in ("raw", "ema")}
    found = pd.DataFrame({f"{new}_{kind}": part[old] for kind, part in kinds.items() for old, new in names.items()})
    runs = record.runs.assign(dose=record.runs["dose"].where(record.runs["objective"] != "plain"))
    arms = runs.groupby(key, sort=False)
    facts = arms[["macs", "dose", "dose_measured", "r"]].mean()
    of_baseline = facts["macs"].xs(baseline, level="arm").reindex(facts.index.droplevel("arm"))
    facts["run_cost"] = facts["macs"] / of_baseline.to_numpy()
    found["detectable"] = table.groupby(key, sort=False)["detectable"].max()
    found = found.join(facts[["dose", "dose_measured", "r", "run_cost"]])
    found["seeds"] = kinds["raw"]["seeds"]
    found = found.join(arms["pictures"].max()).reset_index().astype({"pictures": int})
    parts = [part.sort_values("gain_raw", ascending=False) for _, part in found.groupby(intervals.SETTING, sort=False)]
    return pd.concat(parts, ignore_index=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`results` for readers: "gain ± half (Holm's)" in dB, bold where it lies beside zero after the correction.

    The EMA has a column of its own where its mean or half differs from that of the raw weights by half a hundredth of a
    decibel anywhere, or where it alone lies beside zero.
    """

    def gains(kind: str) -> list[str]:
        said = []
        for mean, half, holm in table[[f"gain_{kind}", f"half_{kind}", f"holm_{kind}"]].to_numpy():
            text = f"{mean:+.3f}" if pd.isna(half) else f"{mean:+.3f} ± {half:.3f} ({holm:.3f})"
            said.append("a run diverged" if pd.isna(mean) else f"**{text}**" if abs(mean) > holm else text)
        return said

    columns = {"task": [intervals.place(row) for row in table.itertuples()], "arm": table["arm"]}
    if _same(table).all():
        columns["gain, raw = EMA"] = gains("raw")
    else:
        columns |= {"gain, raw weights": gains("raw"), "gain, EMA": gains("ema")}
    columns |= {"would show": table["detectable"].round(3), "dose": table["dose"]}
    columns |= {"measured": table["dose_measured"].round(3), "r": table["r"].round(4)}
    columns |= {"cost": table["run_cost"].round(2), "seeds": table["seeds"], "pictures": table["pictures"]}
    return pd.DataFrame(columns).dropna(axis=1, how="all")


def outcome(record: Record) -> str:
    """What a record allows to say, computed from its runs; a single seed allows nothing.

    Where some seeds had been seen when it was decided, what the fresh ones say alone is added.
    """
    decided = record.decision
    baseline, scores = decided.get("baseline", "plain"), decided.get("scores", intervals.BOTH)
    return _of_all_and_fresh(record, lambda runs: intervals.conclusion(intervals.paired(runs, baseline, scores)))


def towards(record: Record) -> str:
    """What a record compared with plain says of moving towards the past beside moving away from it, as `outcome`.

    Corrected together with the differences to plain. "" without the arms spn and history-positive.
    """

    def conclude(runs: pd.DataFrame) -> str:
        table, many = _towards(runs)
        return intervals.conclusion(table, many)

    return "" if _both_ways(record.runs).empty else _of_all_and_fresh(record, conclude)


def _both_ways(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of settings that can tell moving towards the past from moving away from it, beside plain training."""
    return runs.groupby(intervals.SETTING, sort=False).filter(lambda part: {"plain", *AWAY_TOWARDS} <= set(part["arm"]))


def _towards(runs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Differences of moving towards the past to moving away from it, and with how many others they are corrected."""
    both = _both_ways(runs)
    tables = intervals.paired(runs), intervals.paired(both[both["arm"].isin(AWAY_TOWARDS)], "spn")
    table = intervals.corrected(pd.concat(tables, ignore_index=True))
    return table[table["baseline"] == "spn"], int(table["p"].notna().sum())


def _of_all_and_fresh(record: Record, conclude: Callable[[pd.DataFrame], str]) -> str:
    """Sentences on the runs of a record, and on those of its fresh seeds, if it was decided after others were seen."""
    said, fresh = conclude(record.runs), _fresh(record)
    if fresh.empty:
        return said
    return "\n".join([said, *(f"Fresh seeds alone: {line}" for line in conclude(fresh).splitlines())])


def _fresh(record: Record) -> pd.DataFrame:
    """The runs of seeds that nobody had seen when a record was decided; none, if nothing had been seen."""
    seen = record.decision.get("seen", 0)
    return record.runs[record.runs["seed"].isin(record.decision["seeds"][seen:] if seen else [])]


def answer(record: Record) -> str:
    """Plain sentences, from the intervals: does SPN gain over plain training, does any other arm, and is towards
    the past another thing than away from it. Of which arm nothing is said, because a run of it diverged. Provisional,
    as long as decided seeds are not finished.
    """
    table, lost = results(record), _ahead(record) + _diverged(record.runs, "plain")
    if bare := [task for task, count in record.seeds.items() if count < 2]:
        lost += f" Of {' and '.join(bare)} there are not yet two seeds, so nothing is said there."
    table = table[table["half_raw"].notna()]
    if table.empty:
        return f"Not known yet: no arm of record {record.name} has two seeds and no run that diverged.{lost}"
    controls = [arm["name"] for arm in record.decision.get("arms", []) if arm.get("at_cost_of")]
    spn, bought = table[table["arm"] == "spn"], table[table["arm"].isin(controls)]
    rest = table[~table["arm"].isin(["spn", *controls])]
    verbs = {0: "shows no visible effect", 1: "is better than plain training", -1: "is worse than plain training"}
    verdicts = [f"{verbs[sign]} ({_amounts(part)})" for sign, part in spn.groupby(_sign(spn), sort=False)]
    weak, tasks = table.loc[table["seeds"] < SEEDS, "task"].unique(), table["task"].unique()
    on = f" on {' and '.join(weak)}" if len(weak) < len(tasks) else ""
    few = f" (weak evidence{on}: fewer than {SEEDS})" if len(weak) else ""
    seeds = " or ".join(map(str, sorted(set((table if spn.empty else spn)["seeds"]))))
    early = f"Provisional, for not all {record.decided} decided seeds are there: over" if record.is_open else "Over"
    said = f"{early} {seeds} paired seeds{few} SPN {' and '.join(verdicts) or 'cannot be judged'}"
    if len(bought):
        said += f", where plain training at its cost gains {_amounts(bought)}"
    elif (_sign(spn) > 0).any():
        said += (
            f", at {spn['run_cost'].max():.1f} times its multiplications, which plain training was not given; fresh "
            "seeds have to confirm it"
        )
    if rest.empty:
        alone = set(record.runs["arm"]) <= {"plain", "spn", *controls}
        return f"{said}.{' No other arm was compared.' * alone}{lost}"
    beside = rest[_sign(rest) != 0]
    if beside.empty:
        arms = rest["arm"].unique()
        other, each = f"None of the {len(arms)} other arms differs", "each"
        if len(arms) == 1:
            other, each = f"The other arm, {arms[0]}, does not differ", "it"
        return (
            f"{said}. {other} from plain training after Holm's correction; without that correction {each} would have "
            f"shown a true difference of {rest['detectable'].max():.2f} dB four times in five.{lost}"
        )
    listed = "; ".join(f"{arm} ({_amounts(part)})" for arm, part in beside.groupby("arm", sort=False))
    return f"{said}. These other arms differ from plain training after Holm's correction: {listed}.{lost}"


def fading(record: Record) -> pd.DataFrame:
    """r and the dose of SPN along its runs: does the push fade as r falls?

    Returns:
        Columns task, step, r, dose: means over the seeds at the steps where the dose was looked at, if any, as far as
        all runs of a task went.
    """
    curves = record.curves if "dose" in record.curves else record.curves.assign(dose=float("nan"))
    looked = curves[(curves["arm"] == "spn") & curves["dose"].notna()]
    names = looked.assign(task=[intervals.place(row) for row in looked.itertuples()])
    all_runs = names.groupby("task")["run"].transform("nunique")
    whole = names[names.groupby(["task", "step"])["run"].transform("nunique") == all_runs]
    return whole.groupby(["task", "step"], sort=False)[["r", "dose"]].mean().round(4).reset_index()


def flaws(record: Record) -> list[str]:
    """What is wrong with a record, computed from its decision and runs."""
    found, runs = [], record.runs
    arms = [arm["changes"] for arm in record.decision.get("arms", [])]
    if any(arm.get("objective", "spn") != "plain" and "dose" not in arm for arm in arms):
        strength = runs[runs["arm"] == "spn"].groupby("task", sort=False)["r"].mean()
        listed = ", ".join(f"{task} {value:.4f}" for task, value in strength.items())
        found.append(f"lambda was given, not a dose, so tasks and arms push with unequal strength (r of spn: {listed})")
    doses = runs.groupby(["task", "arm"], sort=False)[["dose", "dose_measured"]].mean().dropna()
    off = doses[_off(doses["dose_measured"], doses["dose"])]
    if len(off):
        listed = "; ".join(f"{arm}: {row.dose_measured:.2f} on {task}" for (task, arm), row in off.iterrows())
        found.append(
            f"on average over its runs an arm's dose was more than {OFF:g} times off what was asked for ({listed})"
        )
    found += _bursts(record) + _unequal(runs)
    pictures = runs.groupby("task", sort=False)["pictures"].max()
    decided = record.decided
    wanted = ((record.seeds, max(SEEDS, decided), "seeds"), (pictures, PICTURES, "test pictures"))
    for counts, enough, what in wanted:
        few, common = counts[counts < enough], counts.nunique() == 1
        for count, tasks in few.groupby(few):
            some = f"{count:.0f} {what if count != 1 else what.removesuffix('s')}"
            some = f"{count} of {decided} decided seeds" if what == "seeds" and count < decided else some
            found.append(some if common else f"{some} of {' and '.join(tasks.index)}")
    return found + ([record.withdrawn] if record.withdrawn else [])


def _bursts(record: Record) -> list[str]:
    """Arms whose r is a few steps' doing: its mean over whole runs beside its median over the steps that were kept."""
    key, pushed = ["task", "arm"], record.curves["r"] > 0  # 0: before lambda sets in
    strength = record.runs.groupby(key, sort=False)[["r"]].mean()
    strength["usual"] = record.curves[pushed].groupby(key)["r"].median()
    burst = strength[strength["r"] > BURST * strength["usual"]]
    listed = (f"{arm} on {task}: mean r {r.r:.2g}, median {r.usual:.1g}" for (task, arm), r in burst.iterrows())
    said = "an arm's term was strong in a few steps alone, which its dose, measured in others, does not show"
    return [f"{said} ({'; '.join(listed)})"] if len(burst) else []


def _unequal(runs: pd.DataFrame) -> list[str]:
    """What a record says to be equal in its runs and is not: lambda for a dose, and the machine of a seed."""
    found, dosed = [], runs[runs["dose"].notna() & (runs["objective"] != "plain")]
    per_dose = dosed["lambda_used"] / dosed["dose"]
    history = [name for name in ("history_of", "history_every", "history_decay", "negatives") if name in dosed]
    of_one = per_dose.groupby([dosed[name].astype(str) for name in ("task", "objective", *history)], sort=False)
    for (task, objective, *_), values in of_one:
        if values.max() > (1 + ROUNDING) * values.min():
            found.append(
                f"lambda for a dose was chosen more than once for {objective} on {task}: a dose of 1 would be lambda "
                f"{values.min():.4g} in some runs and {values.max():.4g} in others"
            )
    where = {"device": "on different devices", "processor": "on different processors"}
    where["revision"] = "with different revisions of the workbook"
    for column, said in where.items():  # older rows lack some
        if column in runs and (runs.groupby(["task", "seed"])[column].nunique() > 1).any():
            values = runs[column].dropna().unique()
            listed = ", ".join(value[:7] if column == "revision" else value for value in values)
            found.append(f"arms of one seed ran {said} ({listed})")
    return found


def summary(top: str = "") -> str:
    """One line of Markdown per record, one for the older ones and one for what is not run; computed from the runs.

    A record that another one continues with more seeds is named in the line of that one. `top` is the way to the top of
    the repository, for links ("../" from a notebook).
    """
    known = {name: record for name in evidence.NEWER if (record := evidence.committed(name))}
    lines = []
    for name in _last(known):
        own = f"- **{_link(name, top)}**{_continues(name, known, top)}"
        lines.append(f"{own} {EXPERIMENTS[name].question} {state(known[name])}")
    if old := [record for name in evidence.OLDER if (record := evidence.committed(name))]:
        links = ", ".join(_link(record.name, top) for record in old)
        tables = [intervals.paired(record.runs, record.decision["baseline"]) for record in old]
        beside = sum(int(intervals.clear(table).sum()) for table in tables)
        seeds = sorted({int(n) for table in tables for n in table["seeds"]})
        lines.append(
            f"- Older and weak ({seeds[0]} to {seeds[-1]} seeds, {old[0].runs['pictures'].max():.0f} test pictures, "
            f"lambda given and not a dose): {links}. {_counted(sum(map(len, tables)), beside, 'plain')}."
        )
    if waiting := [_link(name, top) for name in evidence.NEWER if name not in known]:
        lines.append(f"- Decided and not run yet: {', '.join(waiting)}.")
    return "\n".join(lines)


def state(record: Record) -> str:
    """How many seeds there are, and which intervals lie beside zero after correction; those of `towards` as well."""
    counted = ", ".join(f"{task} {count}" for task, count in record.seeds.items())
    counted += f" of {record.decided} seeds"
    baseline = record.decision["baseline"]
    table, lost = intervals.paired(record.runs, baseline), _diverged(record.runs, baseline)
    if table["p"].isna().all():
        return f"{counted}. No conclusion yet.{lost}"
    beside = table[intervals.clear(table)]
    listed = [f"{row.arm}, {_gain(row)}" for row in beside.itertuples()]
    said = f"{_counted(int(table['p'].notna().sum()), len(beside), baseline)}{': ' * bool(listed)}{'; '.join(listed)}."
    return f"{counted}{', so provisional' * record.is_open}. {said}{_ahead(record)}{lost}"


def _ahead(record: Record) -> str:
    """Where moving towards the past differs from moving away from it after correction, with what fresh seeds say alone;
    "" if nowhere.
    """
    if _both_ways(record.runs).empty:
        return ""
    table, _ = _towards(record.runs)
    gains = "; ".join(map(_gain, table[intervals.clear(table)].itertuples()))
    if not gains:
        return ""
    said = f" Towards the past (history-positive) differs from away from it (spn) after correction: {gains}."
    fresh = _fresh(record)
    if (count := fresh["seed"].nunique()) < 2:
        return said
    alone, _ = _towards(fresh)
    amounts = "; ".join(f"{_gain(row)} ± {row.half:.3f}" for row in alone.itertuples())
    beside = int(intervals.clear(alone).sum())
    return (
        f"{said} The {count} seeds that nobody had seen before, alone: {amounts}; of these "
        f"{beside or 'none'} can be told from zero after correction."
    )


def _gain(row) -> str:
    """A row of `intervals.paired` in a few words."""
    return f"{intervals.place(row)}, {row.score[5:]} {row.mean:+.3f} dB"


def measured(arms: str, tasks: str = "", network: str = "", dataset: str = "", top: str = "") -> list[str]:
    """The records that compared these arms (names, with blanks between) in any of these tasks; "": any.

    Those at equal dose come first. A record that another one continues is named beside that one.

    Returns:
        Markdown, such as "[C1](data/records/C1/README.md) plain, spn on sr (demo networks, embedded pictures)"; `top`:
        as in `summary`.
    """
    found = {}
    there = set(evidence.recorded() if arms else [])
    for name in [*(name for name in evidence.NEWER if name in there), *sorted(there.difference(evidence.NEWER))]:
        runs = evidence.read_record(name).runs
        for column, wanted in (("network", network), ("dataset", dataset)):
            runs = runs[runs[column] == wanted] if wanted else runs
        compared = runs.groupby("task")["arm"].agg(set)
        where = [task for task in tasks.split() or compared.index if set(arms.split()) <= compared.get(task, set())]
        if where:
            own = runs[runs["task"].isin(where)]
            sizes, data = (" and ".join(own[column].unique()) for column in ("network_size", "dataset"))
            found[name] = f"{', '.join(arms.split())} on {', '.join(where)} ({sizes} networks, {data} pictures)"
    return [f"{_link(name, top)}{_continues(name, found, top)} {found[name]}" for name in _last(found)]


def _last(names: Collection[str]) -> list[str]:
    """Those of some records that none of the others continues."""
    return [name for name in names if not any(_earlier(other, [name]) for other in names)]


def _earlier(name: str, names: Collection[str]) -> list[str]:
    """Which of these records that one continues with more seeds."""
    decided = EXPERIMENTS.get(name)
    return [other for other in names if decided and other in EXPERIMENTS and decided.continues(EXPERIMENTS[other])]


def _continues(name: str, names: Collection[str], top: str) -> str:
    """In brackets, the one of these records that this one continues; "" for none."""
    return "".join(f" (which continues {_link(other, top)})" for other in _earlier(name, names)[:1])


def _diverged(runs: pd.DataFrame, baseline: str) -> str:
    """A sentence for each arm and setting with a run that diverged; "" if none did."""
    lost = runs[runs["psnr_raw"].isna()]
    said = ""
    for arm, where in dict.fromkeys((row.arm, intervals.place(row)) for row in lost.itertuples()):
        of = "any arm there" if arm == baseline else "it"
        said += f" A run of {arm} on {where} diverged, so nothing is said of {of}."
    return said


def _signs(table: pd.DataFrame) -> list[pd.Series]:
    """Of rows of `results`, raw weights and EMA: 1 or -1 where they lie beside zero after correction, else 0."""
    return [np.sign(table[f"gain_{k}"]) * (table[f"gain_{k}"].abs() > table[f"holm_{k}"]) for k in ("raw", "ema")]


def _sign(table: pd.DataFrame) -> pd.Series:
    """What `_signs` says of the raw weights, else of the EMA."""
    raw, ema = _signs(table)
    return raw.where(raw != 0, ema)


def _same(table: pd.DataFrame) -> pd.Series:
    """In which rows of `results` raw weights and EMA say the same."""
    raw, ema = _signs(table)
    apart = [(table[f"{part}_raw"] - table[f"{part}_ema"]).abs() >= SAME for part in ("gain", "half")]
    return ~(apart[0] | apart[1] | (raw != ema))


def _amounts(table: pd.DataFrame) -> str:
    """Gains by setting, that of the EMA too where it differs, and the measured dose where it is far off."""
    said = []
    for row, same in zip(table.itertuples(), _same(table), strict=True):
        raw, ema = f"{row.gain_raw:+.3f} ± {row.half_raw:.3f}", f"{row.gain_ema:+.3f} ± {row.half_ema:.3f}"
        said.append(f"{intervals.place(row)} {raw} dB" + ("" if same else f", with the EMA {ema} dB"))
        said[-1] += f", at a measured dose of {row.dose_measured:.2f}" if _off(row.dose_measured, row.dose) else ""
    return "; ".join(said)


def _off(measured, dose):
    """Whether a measured dose is more than `OFF` times another than was asked for; False where there is none."""
    return (measured > OFF * dose) | (OFF * measured < dose)


def _link(name: str, top: str) -> str:
    return f"[{name}]({top}data/records/{name}/README.md)"


def _counted(many: int, beside: int, baseline: str) -> str:
    return f"Of {many} differences to {baseline}, {beside or 'none'} can be told from zero after correction"
