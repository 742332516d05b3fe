"""What records allow to say: tables, sentences, and what is wrong with them."""

import math

import pandas as pd
import pytest

from mclir_nb.experiments import evidence, verdicts


def table(gain: float, seeds: int = 3, arms=("spn",)) -> pd.DataFrame:
    """Runs of plain and other arms: a gain with a small spread."""
    rows = []
    for seed in range(seeds):
        for number, arm in enumerate(("plain", *arms)):
            score = 20 + seed + (gain + 0.01 * seed * (-1) ** number if number else 0)
            run = dict(task="derain", scale=1, network="nafnet", arm=arm, seed=seed, stopped="", psnr_raw=score)
            run |= dict(objective="spn" if number else "plain", device="cpu", lambda_used=0.002)
            facts = dict(dose=0.1, dose_measured=0.12, r=0.01, pictures=4, steps=9, macs=1.0 + number)
            rows.append(run | dict(psnr_ema=score) | facts)
    return pd.DataFrame(rows)


@pytest.fixture
def record(monkeypatch):
    """Make `evidence` answer with records of these tables."""
    decided = {"question": "Does it?", "seeds": [0, 1, 2, 3, 4], "baseline": "plain", "scores": ["psnr_raw"]}

    def known(**tables):
        there = {name: evidence.Record(name, decided, runs, runs, runs) for name, runs in tables.items()}
        monkeypatch.setattr(evidence, "recorded", lambda: sorted(there))
        monkeypatch.setattr(evidence, "read_record", lambda name: there[name])

    return known


def test_results_say_everything_a_gain_has_to_be_read_with():
    dosed = evidence.read_record("D")
    derain = dosed.runs[dosed.runs["task"] == "derain"]
    found = verdicts.results(dosed).query("task == 'derain'").set_index("arm")
    assert set(found.index) == set(derain["arm"]) - {"plain"}
    pairs = derain.pivot(index="seed", columns="arm", values="psnr_raw")
    gain = pairs["spn"] - pairs["plain"]
    macs = derain.groupby("arm")["macs"].mean()
    assert found.loc["spn", "gain_raw"] == pytest.approx(gain.mean())
    assert found.loc["spn", "half_raw"] == pytest.approx(2.3646 * gain.std() / 8**0.5, rel=1e-4)  # t(0.975, 7)
    assert found["holm_raw"].ge(found["half_raw"]).all()
    assert found["run_cost"].tolist() == pytest.approx([macs[arm] / macs["plain"] for arm in found.index])
    spn = derain[derain["arm"] == "spn"]
    assert found.loc["spn", ["r", "dose_measured"]].tolist() == pytest.approx(spn[["r", "dose_measured"]].mean())
    assert set(found["pictures"]) == {100} and set(found["seeds"]) == {8}
    asked = verdicts.results(evidence.read_record("S"), "spn").set_index(["task", "arm"])["dose"]
    assert asked["sr", "sampled"] == 0.1 and math.isnan(asked["sr", "plain"])  # whose recipe has the field, too
    shown = verdicts.shown(verdicts.results(dosed))
    assert "spn" in shown.to_string() and "dose" in shown
    assert "dose" not in verdicts.shown(verdicts.results(evidence.read_record("C1")))  # lambda was given


def test_a_summary_has_one_line_per_record_and_one_for_what_is_not_run(record):
    record(D=table(0.5), C1=table(0.0))
    told = verdicts.summary("../").splitlines()
    dose, older, waiting = told
    assert "(../data/records/D/README.md)" in dose and "derain 3 of 5 seeds" in dose
    assert "Of 2 differences to plain, 2 can be told from zero after correction: spn, derain nafnet, raw +0.4" in dose
    assert "not run yet" in waiting and all(f"[{name}]" in waiting for name in evidence.NEWER if name != "D")
    assert older.count("[C1]") == 1 and "none can be told from zero" in older
    assert evidence.committed("C1").name == "C1" and evidence.committed("E9") is None


def test_a_record_that_another_continues_has_no_line_of_its_own(record):
    record(D=table(0.5), D2=table(0.5))
    assert "[D]" in verdicts.summary().splitlines()[0]  # has other arms than D2
    record(D2=table(0.5), D3=table(0.5))
    line, waiting = verdicts.summary("../").splitlines()
    assert line.startswith(
        "- **[D3](../data/records/D3/README.md)** (which continues [D2](../data/records/D2/README.md)) With three times"
    )
    assert "[D2]" not in waiting


def test_an_answer_is_two_sentences_from_the_intervals(record):
    record(D=table(0.5, arms=("spn", "vgg")), C1=table(0.0), L=table(0.0, seeds=5), R=table(0.5, seeds=1))
    clear, null, one = (verdicts.answer(evidence.read_record(name)) for name in ("D", "L", "R"))
    assert clear.startswith(
        "Provisional, for not all 5 decided seeds are there: over 3 paired seeds (weak evidence: fewer than 5) SPN is "
        "better than plain training (derain"
    )
    assert "at 2.0 times its multiplications, which plain training was not given; fresh seeds" in clear
    assert "3 of 5 seeds, so provisional" in verdicts.state(evidence.read_record("D"))
    assert null.startswith("Over 5") and "rovisional" not in verdicts.state(evidence.read_record("L"))
    assert "differ from plain training after Holm's correction: vgg" in clear
    assert "no visible effect" in null and "weak" not in null and "No other arm" in null
    assert one.startswith("Not known yet")
    assert evidence.main_record("R", "E9", "C1", "D").name == "C1" and evidence.main_record("R").name == "R"


def test_towards_is_compared_with_away_and_corrected_with_all_the_rest():
    runs, decided = table(0.5, seeds=6, arms=("spn", "history-positive")), {"seeds": [*range(6)], "seen": 2}
    ahead = (runs["arm"] == "history-positive") * (0.3 + 0.02 * (runs["seed"] % 3))
    runs = runs.assign(psnr_raw=runs["psnr_raw"] + ahead)
    kept = evidence.Record("D2", decided | {"baseline": "plain"}, runs, runs, runs)
    told = verdicts.towards(kept).splitlines()
    raw, ema, fresh, _ = told
    assert raw.startswith("derain nafnet, history-positive against spn (PSNR, raw weights): better by 0.3")
    assert "6 seeds), also after Holm's correction for 6 intervals" in raw and "EMA" in ema
    assert fresh.startswith("Fresh seeds alone: derain nafnet, history-positive") and "4 seeds" in fresh
    assert "after correction: spn, derain" in verdicts.state(kept)
    for said in (verdicts.state(kept), verdicts.answer(kept)):
        assert "differs from away from it (spn) after correction: derain nafnet, raw +0.3" in said
        assert "The 4 seeds that nobody had seen before, alone: derain nafnet, raw +0.3" in said
        assert "of these 2 can be told from zero" in said
    one = verdicts.state(kept._replace(decision=kept.decision | {"seen": 5}))
    assert "nobody had seen" not in one  # of one seed there is no interval
    bare = runs[runs["arm"] != "history-positive"].assign(task="sr", scale=4)  # a task with fewer arms is left out
    mixed = kept._replace(runs=pd.concat([runs, bare]))
    assert "raw +0.3" in verdicts.state(mixed) and "derain" in verdicts.answer(mixed)
    assert {line.split(",")[0].split(": ")[-1] for line in verdicts.towards(mixed).splitlines()} == {"derain nafnet"}
    assert verdicts.towards(evidence.read_record("V")) == ""  # has no such arm
    assert "away from it" not in verdicts.state(evidence.read_record("V"))


def test_an_answer_names_the_control_at_equal_cost():
    runs = table(0.5, arms=("spn", "plain at equal cost"))
    arms = [{"name": "spn", "changes": {"dose": 0.1}}, {"name": "plain at equal cost", "at_cost_of": "spn"}]
    decided = {"seeds": [0, 1, 2], "baseline": "plain", "arms": arms}
    said = verdicts.answer(evidence.Record("V", decided, runs, runs, runs))
    assert "where plain training at its cost gains derain nafnet +0.5" in said and "No other arm" in said


def test_an_answer_names_a_measured_dose_that_is_far_from_what_was_asked_for():
    runs = table(0.5, arms=("spn", "vgg"))
    runs["dose_measured"] = runs["arm"].map({"spn": 0.15, "vgg": 0.45})
    said = verdicts.answer(evidence.Record("D", {}, runs, runs, runs))
    assert said.count("measured dose") == 1 and said.endswith(" dB, at a measured dose of 0.45).")
    given = runs.assign(dose=math.nan)  # lambda was given
    assert "measured dose" not in verdicts.answer(evidence.Record("C1", {}, given, given, given))


def diverged(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The runs with the first one of an arm gone astray."""
    scores = {"psnr_raw": math.nan, "psnr_ema": math.nan, "pictures": 0, "stopped": "step 2: the loss is not finite"}
    return runs.assign(**{k: runs[k].mask((runs["arm"] == arm) & (runs["seed"] == 0), v) for k, v in scores.items()})


def test_an_arm_that_diverged_is_named_and_nothing_false_is_said(record):
    both = table(0.5, arms=("spn", "vgg"))
    record(D=diverged(both, "vgg"), L=diverged(table(0.5), "spn"), V=diverged(both, "spn"), R=diverged(both, "plain"))
    other, spn, rest, plain = (evidence.read_record(name) for name in "DLVR")
    assert "SPN is better" in verdicts.answer(other) and "No other arm" not in verdicts.answer(other)
    for kept, arm in ((other, "vgg"), (spn, "spn"), (rest, "spn"), (plain, "plain")):
        for said in (verdicts.answer(kept), verdicts.state(kept)):
            assert f"A run of {arm} on derain nafnet diverged, so nothing is said of" in said
    assert verdicts.answer(spn).startswith("Not known yet") and "no two seeds" not in verdicts.answer(spn)
    assert "SPN cannot be judged" in verdicts.answer(rest) and "Holm's correction: vgg" in verdicts.answer(rest)
    assert verdicts.results(other).set_index("arm")["pictures"].to_dict() == {"spn": 4, "vgg": 4}


def test_the_main_record_is_the_one_with_the_most_seeds(record, monkeypatch):
    settings = [{"task": "sr x4"}, {"task": "derain"}]
    derain, sr = table(0.0, seeds=8), table(0.0, seeds=8).assign(task="sr", scale=4)
    one = derain[derain["seed"] < 1]
    record(S=pd.concat([sr, derain]), D=sr, V=pd.concat([sr, one]))
    for kept in map(evidence.read_record, "SDV"):
        kept.decision["settings"] = settings
    assert evidence.main_record("V", "D", "S").name == "S"  # D lacks derain, V has a seed of it
    for name, count in (("D", 0), ("V", 1)):
        kept = evidence.read_record(name)
        assert "Of derain there are not yet two seeds" in verdicts.answer(kept)
        assert f"derain {count} of 5 seeds" in verdicts.state(kept)
        assert f"{count} of 5 decided seeds of derain" in verdicts.flaws(kept)
    assert "not yet two" not in verdicts.answer(evidence.read_record("S"))
    kept = evidence.read_record("S")
    part = kept._replace(runs=kept.runs[(kept.runs["task"] == "sr") | (kept.runs["seed"] < 2)])
    said = verdicts.answer(part)
    assert "over 2 or 8 paired seeds (weak evidence on derain: fewer than 5) SPN " in said
    record(A1=table(0.0), V=evidence.read_record("D").runs)
    evidence.read_record("V").decision["settings"] = settings
    assert evidence.main_record("V", "A1").name == "V"  # eight seeds of one task say more than three of each
    for seeds, names in ((8, ["S"]), (9, ["S", "D3"])):
        record(S=kept.runs, D3=table(0.0, seeds=seeds))
        assert [kept.name for kept in evidence.strongest()] == names
    record(S=kept.runs, E2=table(0.0, seeds=2))  # fewer seeds, but of a network as large as the paper's
    assert [kept.name for kept in evidence.strongest()] == ["S", "E2"]


def test_a_verdict_of_the_ema_alone_is_told_with_its_numbers():
    runs = table(0.006, seeds=8)
    spn = runs["arm"] == "spn"
    noise = [0.006 * (-1) ** seed for seed in runs["seed"]]
    runs["psnr_ema"] = (20.0 + runs["seed"]).where(~spn, 20.006 + runs["seed"] + [value / 10 for value in noise])
    runs["psnr_raw"] = (20.0 + runs["seed"]).where(~spn, 20.004 + runs["seed"] + noise)
    kept = evidence.Record("D", {"baseline": "plain"}, runs, runs, runs)
    assert "is better" in verdicts.answer(kept) and "with the EMA +0.006" in verdicts.answer(kept)
    assert "**+0.006" in verdicts.shown(verdicts.results(kept))["gain, EMA"][0]


def test_a_record_without_spn_is_no_answer_about_it(record):
    record(D=table(0.5, arms=("vgg",)))
    said = verdicts.answer(evidence.read_record("D"))
    assert "SPN cannot be judged" in said and "correction: vgg (derain" in said


def test_fading_shows_r_and_the_dose_along_the_runs():
    whole = evidence.read_record("D")
    record = whole._replace(curves=whole.curves[whole.curves["task"] == "derain"])
    found = verdicts.fading(record)
    spn = record.curves[(record.curves["arm"] == "spn") & record.curves["dose"].notna()]
    assert len(found) and found["dose"].mean() == pytest.approx(spn["dose"].mean(), abs=1e-3)
    assert verdicts.fading(evidence.read_record("C1")).empty  # its runs did not look
    last, curves = found["step"].max(), record.curves
    ended = record._replace(curves=curves[(curves["step"] < last) | (curves["seed"] < 1)])  # one run is shorter
    assert verdicts.fading(ended)["step"].tolist() == found["step"][found["step"] < last].tolist()


def test_flaws_are_computed():
    old = verdicts.flaws(evidence.read_record("A1"))
    assert any("lambda was given" in flaw for flaw in old) and "3 seeds" in old and "4 test pictures" in old
    whole = evidence.read_record("D")
    part = whole._replace(runs=whole.runs[whole.runs["seed"] < 7])
    assert "7 of 8 decided seeds" in verdicts.flaws(part) and "decided seeds" not in str(verdicts.flaws(whole))
    new = {"arms": [{"changes": {"objective": "plain"}}, {"changes": {"objective": "spn", "dose": 0.1}}]}
    runs = table(0.1, seeds=8).assign(pictures=100)
    assert verdicts.flaws(evidence.Record("D", new, runs, runs, runs)) == []
    (flaw,) = verdicts.flaws(evidence.Record("D", new, runs.assign(dose=0.1, dose_measured=0.25), runs, runs))
    assert "spn: 0.25 on derain" in flaw
    more = pd.concat([runs, table(0.1, seeds=3).assign(pictures=5, task="sr")])
    assert verdicts.flaws(evidence.Record("D", new, more, more, more)) == ["3 seeds of sr", "5 test pictures of sr"]
    few = pd.concat([table(0.1, seeds=n).assign(pictures=100, task=task) for n, task in ((2, "sr"), (3, "derain"))])
    assert verdicts.flaws(evidence.Record("D", new, few, few, few)) == ["2 seeds of sr", "3 seeds of derain"]


def test_a_term_that_is_strong_in_a_few_steps_alone_is_a_flaw():
    runs = table(0.1, seeds=8).assign(pictures=100, dose_measured=0.1)

    def flaws(mean, *kept):
        curves = pd.concat(runs.assign(step=step, r=r) for step, r in enumerate(kept))
        return verdicts.flaws(evidence.Record("D", {}, runs.assign(r=mean), runs, curves))

    (flaw,) = flaws(5.0, 700.0, 0.01, 0.02)
    assert "strong in a few steps alone" in flaw and "spn on derain: mean r 5, median 0.02" in flaw
    assert len(flaws(5.0, 0.01, 0.02, 0.03)) == 1  # none of those steps was kept
    assert flaws(1.9, 190.0, 0.01, 0.02) == []
    assert flaws(0.5, 0.0, 0.0, 1.0) == []  # lambda set in late
    assert flaws(0.0, 0.0, 0.0, 0.0) == []  # plain training
    (flaw,) = (flaw for flaw in verdicts.flaws(evidence.read_record("V")) if "few steps" in flaw)
    assert "ratio on sr" in flaw and "ratio on derain" in flaw and flaw.count("median") == 2


def test_what_should_be_equal_in_a_record_and_is_not_is_a_flaw():
    runs = table(0.1, seeds=8, arms=("spn", "spn 0.2")).assign(pictures=100, dose_measured=0.1)
    runs["dose"] = runs["dose"].mask(runs["arm"] == "spn 0.2", 0.2)

    def flaws(**changes):
        return verdicts.flaws(evidence.Record("D", {}, runs.assign(**changes), runs, runs))

    (lambdas,) = flaws()  # the same lambda for two doses
    assert "lambda for a dose was chosen more than once for spn on derain" in lambdas and "0.01 " in lambdas
    right = runs["lambda_used"] * runs["dose"] / 0.1
    assert flaws(lambda_used=right) == []
    assert flaws(lambda_used=right, history_every=runs["arm"]) == []  # other histories, another lambda
    (device,) = flaws(lambda_used=right, device=runs["arm"].map({"plain": "cpu"}).fillna("gpu"))
    assert "different devices (cpu, gpu)" in device
    mixed = runs["arm"].map({"plain": "a" * 40}).fillna("b" * 40)
    (revision,) = flaws(lambda_used=right, revision=mixed)
    assert revision.endswith("revisions of the workbook (aaaaaaa, bbbbbbb)")
    known = mixed.where(runs["arm"] == "plain")  # older rows do not know their processor
    assert flaws(lambda_used=right, processor=known) == []
    assert any("chosen more than once for spn on sr" in flaw for flaw in verdicts.flaws(evidence.read_record("D")))


def test_what_a_record_measured_is_said_of_the_tasks_that_are_named(record):
    runs = table(0.5).assign(dataset="bsds500-test", network_size="tiny")
    record(D=pd.concat([runs, runs.assign(task="sr", dataset="bsds500", network_size="paper")]))
    assert "plain, spn on derain (tiny networks, bsds500-test pictures)" in verdicts.measured("plain spn", "derain")[0]
    assert "on derain, sr (tiny and paper networks" in verdicts.measured("plain spn")[0]


def test_measured_has_records_of_any_of_the_tasks_those_at_equal_dose_first_and_none_that_another_continues(record):
    runs = table(0.5, arms=("spn", "history-positive")).assign(dataset="bsds500", network_size="tiny")
    record(C1=runs, D3=runs, D2=runs)
    three, one = verdicts.measured("plain spn", "dehaze derain")
    assert three.startswith("[D3](") and "(which continues [D2](" in three and "plain, spn on derain (" in three
    assert one.startswith("[C1](") and verdicts.measured("plain spn", "dehaze") == []


def test_nothing_is_claimed_without_records_or_with_one_seed(record):
    record()
    (waiting,) = verdicts.summary().splitlines()
    assert "not run yet" in waiting and waiting.count("](") == len(evidence.NEWER)
    record(D=table(0.5, seeds=1))
    assert "No conclusion" in verdicts.summary()


def test_a_record_may_compare_with_another_arm_than_plain(record):
    """S asks for the difference of two ways to take SPN's step; the answer is about plain training all the same."""
    runs = table(0.5, arms=("spn", "sampled"))
    decided = {"question": "Does it?", "seeds": [0, 1, 2], "baseline": "spn", "scores": ["psnr_raw"]}
    kept = evidence.Record("S", decided, runs, runs, runs)
    assert "sampled against spn" in verdicts.outcome(kept) and "plain against spn" in verdicts.outcome(kept)
    assert "differences to spn" in verdicts.state(kept) and "SPN is better" in verdicts.answer(kept)
    assert set(verdicts.results(kept)["arm"]) == {"spn", "sampled"}
