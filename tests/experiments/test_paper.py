"""The paper's numbers: digits as printed, and every statement about them recomputed here."""

import hashlib
import re
import shutil

import pandas as pd
import pytest

from mclir_nb import networks, root
from mclir_nb.data import datasets
from mclir_nb.experiments import evidence, paper
from mclir_nb.training import macs, paper_recipes

FOLDER = root() / "data" / "paper"


@pytest.fixture(scope="module")
def claims():
    return paper.claims()


def test_digits_are_as_recorded():
    """The folder's README.md holds a checksum per file: a corrected digit is not the paper's any more."""
    listed = dict(re.findall(r"\| `(\w+\.csv)` \|.*\| `([0-9a-f]{64})` \|", (FOLDER / "README.md").read_text()))
    assert set(listed) == {path.name for path in FOLDER.glob("*.csv")}
    for name, checksum in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == checksum, name


def test_the_layout_keeps_every_printed_digit_and_marks_the_best():
    for task in (*paper.RESULTS, paper.HEAD_TO_HEAD):
        table = paper.layout(task).set_index("method")
        digits = pd.read_csv(FOLDER / f"{task}.csv", dtype=str, keep_default_na=False)
        for row in digits.itertuples():
            name = f"{row.network} {getattr(row, 'scale', '')}".strip()
            cell = table.loc[name if row.objective == "none" else f"{name} + {row.objective}", row.dataset]
            assert cell.replace("*", "") == f"{row.psnr_db} / {row.ssim}"
    indoor = paper.layout("dehazing").set_index("method")["SOTS-indoor"]
    assert list(indoor.index[indoor.str.startswith("**")]) == ["FFANet + SPN"]
    assert paper.layout("deblurring").set_index("method").loc["NAFNet + SPN", "gain"] == "+0.06 / +0.0013"
    gains = pd.concat([paper.layout(task).set_index("method")["gain"] for task in ("dehazing", "super_resolution")])
    assert gains["DehazeFormer-B + SPN"].startswith("+0.35 /")  # 0.345, rounded half up as by hand
    assert gains["EDSR-light x2 + SPN"].startswith("+0.13 /")  # 0.125


def test_a_cell_says_not_run_until_a_record_holds_it(monkeypatch):
    assert set(paper.layout("deblurring").set_index("method").loc["NAFNet + SPN, here", ["GoPro"]]) == {"not run"}
    there = dict(arm=["spn", "spn", "plain"], network="nafnet", network_size="paper", dataset="gopro", scale=1)
    runs = pd.DataFrame(there | dict(psnr_raw=[32.0, 33.0, 10.0], ssim_raw=[0.95, 0.97, 0.1]))
    monkeypatch.setattr(evidence, "recorded", lambda: ["E5"])
    monkeypatch.setattr(evidence, "read_record", lambda name: evidence.Record(name, {}, runs, runs, runs))
    assert paper.layout("deblurring").set_index("method").loc["NAFNet + SPN, here", "GoPro"] == "32.50 / 0.9600 (E5)"


def test_averages_recomputed():
    averages = paper.arithmetic()
    assert len(averages) == 2 * (8 + 8)  # PSNR and SSIM of eight deraining and eight super-resolution rows
    row = averages.query("network == 'SwinIR' and objective == 'SPN' and metric == 'psnr_db'").squeeze(axis=0)
    assert (row["printed"], row["recomputed"]) == (28.93, 28.94) and row["mean"] == pytest.approx(28.9375)
    off = averages.query("verdict != 'agrees'")
    assert [tuple(row) for row in off[["network", "objective", "metric", "verdict"]].to_numpy()] == [
        ("SwinIR", "none", "ssim", "last digit"),
        ("SwinIR", "SPN", "psnr_db", "last digit"),
    ]


def test_retrainings():
    runs = paper.retrainings().set_index(["network", "dataset"])
    assert runs.loc[("SwinIR", "Urban100"), "difference_db"] == pytest.approx(26.94 - 27.07)
    assert not runs.loc[("SwinIR", "Urban100"), "gain_is_larger"]
    small = runs.loc[("DehazeFormer-S", "SOTS-indoor")]
    batch = paper_recipes.fields("dehazeformer-s")["batch_size"]
    assert small["gain_is_larger"] and small["same_recipe"] == "yes" and f"batch {batch} as in" in small["note"]
    assert len(runs) == len(paper.read("elsewhere").query("kind == 'retrained'"))


def test_every_row_of_the_paper_has_a_training(monkeypatch):
    monkeypatch.setattr(macs, "count", lambda recipe: macs.Counts(10**9, 10**8, 6 * 10**8, 4))
    table = paper.effort(10.0)
    assert sum(len(rows.split(", ")) for rows in table["rows"]) == 30
    assert (table["hours SPN"] > table["hours plain"]).all() and table["command"].is_unique
    whose = table.set_index(["network", "trained on"])["recipe"]
    assert [whose["DehazeFormer-T", data] for data in ("reside-its", "reside-6k")] == ["ours", "authors"]
    for ours in (("FFANet", "reside-6k"), ("DehazeFormer-S", "reside-6k"), ("DehazeFormer-B", "reside-its")):
        assert whose[ours] == "ours"
    assert set(whose["IDT"]) == {"ours"} and whose["NAFNet", "gopro"] == "authors"
    assert table["hours plain"][0] == pytest.approx(3 * 10**9 * 4 * 500_000 / 1e13 / 3600)
    with pytest.raises(ValueError, match="tera_macs"):
        paper.effort(0)


def test_every_claim_has_a_second_opinion(claims):
    assert list(claims.columns) == ["claim", "paper_says", "arithmetic_says", "code_says", "measured", "note", "source"]
    assert claims.index.is_unique and len(claims) == 15
    assert (claims[["claim", "paper_says", "note", "source"]] != "").all().all()
    assert ((claims["arithmetic_says"] != "") | (claims["code_says"] != "")).all()
    assert list(claims.index[claims["arithmetic_says"] == ""]) == ["recipe", "EMA", "sign"]
    for table in (paper.read("elsewhere"), claims):
        assert table["source"].str.contains(r"@ [0-9a-f]{7}|github.com/|arXiv").all()


def test_what_arithmetic_says(claims):
    said = claims["arithmetic_says"]
    assert said["IDT SPA"] == "48.04 - 47.34 = +0.70 dB, not +0.47 dB"
    assert said["FFANet indoor"] == "39.80 - 36.39 = +3.41 dB"
    parts = {
        "DehazeFormer indoor": ["that of DehazeFormer-B"],
        "SwinIR average": ["28.9375, so 28.94 against 28.93"],
        "Rain200": ["'Rain100L' 40.74 / 0.9884 is what IDT prints for Rain200L", "for Rain200H"],
        "Manga109 x2": ["0.19 dB", "4.59 to 5.94", "32.0625 (printed 32.06)", "34.06 and 34.19"],  # 38.54 for 30.54
        "noise": ["3 of 6 gains exceed"],
        "all gains": ["30 of 30 printed gains are positive, +0.02 to +3.41 dB"],
        "rivals": ["SPN +3.41", "PCL +0.03"],
    }
    assert all(part in said[key] for key, wanted in parts.items() for part in wanted)


def test_the_network_of_a_claim_is_the_row_with_its_gain():
    gains, claims = paper.gains(), paper.read("claims")
    told = claims[(claims["network"] != "") & claims["paper_says"].str.fullmatch(r"\+\d\.\d\d dB")]
    for claim in told.itertuples():
        own = gains[gains["network"] == paper.NETWORKS[claim.network]]
        assert float(claim.paper_says.split()[0]) in set(own["gain_db"]), claim.claim
    assert set(told["network"]) == {"ffanet", "dehazeformer-b", "swinir-light"}


def test_what_the_paper_says_is_in_the_tables(claims):
    """Numbers quoted in claims.csv are the printed ones, of the tables or of the abstract."""
    printed = {f"{value:.2f}" for value in paper.read("elsewhere").query("kind == 'abstract gain'")["value_db"]}
    for table in map(paper.read, (*paper.RESULTS, paper.HEAD_TO_HEAD)):
        printed |= {f"{value:.2f}" for value in table["psnr_db"]} | {f"{value:.4f}" for value in table["ssim"]}
    quoted = [number for text in claims["paper_says"] for number in re.findall(r"\d+\.\d+", text)]
    assert len(quoted) >= 12 and set(quoted) <= printed


def test_arithmetic_follows_the_files(tmp_path, monkeypatch):
    """Nothing under "arithmetic says" is typed: another table, another sentence; a missing one is named."""
    shutil.copytree(FOLDER, tmp_path / "data" / "paper")
    table = tmp_path / "data" / "paper" / "deraining.csv"
    table.write_text(table.read_text().replace("48.04", "47.81"))
    monkeypatch.setattr(paper, "root", lambda: tmp_path)
    says = paper.claims()["arithmetic_says"]
    assert says["IDT SPA"] == "47.81 - 47.34 = +0.47 dB" and "38.03, not 37.99" in says["averages"]
    table.unlink()
    with pytest.raises(FileNotFoundError, match="deraining.csv"):
        paper.gains()


def test_measured_names_records_that_hold_the_arms_the_task_and_the_data(claims, monkeypatch):
    measured = claims["measured"]
    for key in ("FFANet indoor", "IDT SPA", "SwinIR-light Manga109", "GoPro SSIM"):  # about a printed number
        assert measured[key] == ""
    assert "[R]" in measured["rivals"] and "C1" not in measured["rivals"]  # only R has all of them
    assert measured["all gains"].index("[C2]") < measured["all gains"].index("[C1]")  # equal dose first
    assert "A1" in measured["sign"] and "C1" not in measured["sign"]  # C1 has no arm with the other sign
    runs = [dict(arm=arm, task="sr", network="edsr", network_size="gpu", dataset="div2k") for arm in ("plain", "spn")]
    found = evidence.Record("E1", {}, pd.DataFrame(runs), None, None)
    monkeypatch.setattr(evidence, "recorded", lambda: ["E1"])
    monkeypatch.setattr(evidence, "read_record", lambda name: found)
    measured = paper.claims()["measured"]
    assert "E1" in measured["Manga109 x2"] and "gpu" in measured["EMA"] and measured["SwinIR average"] == ""


def scored():
    """Two pictures scored, as `evaluate` returns them."""
    columns = dict(psnr_input=20.0, ssim_input=0.7, psnr_restored=[24.0, 26.0], ssim_restored=0.8)
    table = pd.DataFrame({"image": ["a", "b"]} | columns)
    table.attrs = {"protocol": "basicsr-rgb", "crop": 0, "network": "Same, 1 parameters"}
    return table


def test_the_paper_stands_beside_the_measurement_and_each_row_says_whose_it_is():
    rows = paper.beside_paper(scored(), "ffanet", "sots-indoor")
    assert list(rows.source) == ["paper", "paper", "measured here", "measured here"]
    assert list(rows.psnr_db[:2]) == [36.39, 39.80] and rows.what[1] == "FFANet + SPN, SOTS-indoor"
    assert rows.what[3] == "Same, 1 parameters"  # never the paper's name for something smaller
    assert rows.protocol[3] == "basicsr-rgb, crop 0" and rows.protocol[0] == "not stated in the paper"
    assert rows.low[3] <= rows.psnr_db[3] <= rows.high[3] and rows.pictures[3] == 2


def test_the_paper_tables_traps_are_named():
    rows = paper.beside_paper(scored(), "idt", "rain200l")
    assert rows.psnr_db[0] == 40.74 and "Rain200L values under the name Rain100L" in rows.note[0]
    assert list(paper.beside_paper(scored(), "idt", "rain100l").source) == ["measured here"] * 2
    rows = paper.beside_paper(scored(), "edsr", "manga109", 2)
    assert list(rows.psnr_db[:2]) == [30.54, 30.64] and "8 dB too low" in rows.note[0]
    assert list(paper.beside_paper(scored(), "edsr", "manga109", 4).psnr_db[:2]) == [30.35, 30.51]


def test_every_name_of_the_mapping_exists():
    assert set(paper.NETWORKS) <= set(networks.names()) and set(paper.DATASETS) <= set(datasets.names())
    for network, dataset, scale in (("swinir", "urban100", 4), ("nafnet", "gopro", 1), ("idt", "spa-data", 1)):
        assert len(paper.beside_paper(scored(), network, dataset, scale)) == 4
