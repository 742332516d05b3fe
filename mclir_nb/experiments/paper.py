"""The paper's numbers, and what is known to be wrong about them.

The result tables of "Learning from History" (arXiv 2309.06023) as its official README prints them, typing errors
included, live in `data/paper/`; nothing there is corrected. This module reads them, takes the differences, recomputes
the averages, and puts beside each claim: paper says | arithmetic says | official code says | measured. Every figure
under "arithmetic says" is computed from the CSV files when the function is called.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import pandas as pd

from mclir_nb import root
from mclir_nb.evaluation import evaluate
from mclir_nb.experiments import evidence, intervals, verdicts
from mclir_nb.training import macs, paper_recipes, recipes

# tables of base networks with and without SPN, and their task here
RESULTS = {"dehazing": "dehaze", "deraining": "derain", "super_resolution": "sr", "deblurring": "deblur"}
HEAD_TO_HEAD = "losses_head_to_head"  # one network under several losses

NETWORKS = {  # name here: name in the tables
    "ffanet": "FFANet",
    "dehazeformer-t": "DehazeFormer-T",
    "dehazeformer-s": "DehazeFormer-S",
    "dehazeformer-b": "DehazeFormer-B",
    "idt": "IDT",
    "edsr": "EDSR-light",
    "swinir-light": "SwinIR-light",
    "swinir": "SwinIR",
    "nafnet": "NAFNet",
}
DATASETS = {  # name here: (name in the tables, what to know before comparing)
    "reside-its": ("SOTS-indoor", ""),
    "reside-in": ("SOTS-indoor", ""),
    "sots-indoor": ("SOTS-indoor", ""),
    "reside-6k": ("SOTS-mix", "SOTS-mix is RESIDE-6K"),
    "rain200l": ("Rain100L", "the paper prints IDT's Rain200L values under the name Rain100L"),
    "rain200h": ("Rain100H", "the paper prints IDT's Rain200H values under the name Rain100H"),
    "did": ("DID", ""),
    "ddn": ("DDN", ""),
    "spa-data": ("SPA", "the abstract's gain contradicts this row"),
    "set14": ("Set14", ""),
    "b100": ("B100", ""),
    "bsds500": ("B100", "images/val is B100; LR is made here"),
    "urban100": ("Urban100", ""),
    "manga109": ("Manga109", "the x2 values are most likely 8 dB too low, a slip of one digit"),
    "gopro": ("GoPro", "which SSIM gave the SPN value is not known; NAFNet's own is the 3-D one"),
}
UNKNOWN = {  # what is not available
    "ablations": "the paper's ablations: number of negatives, interval, lambda, EMA against frozen copies, "
    "kind of negative",
    "schedules": "lambda, number and interval of the negatives for every network except FFA-Net",
    "seeds": "how many runs stand behind a number, and their spread",
    "cost": "hardware, training time and memory, with or without SPN",
    "same-recipe baseline": "a base network retrained with the SPN recipe but without the SPN term",
    "EMA": "whether the super-resolution rows were scored with EMA weights",
    "GoPro SSIM": "which SSIM function gave the value of NAFNet + SPN",
    "extension": "the formula of the uncertainty-aware loss and the all-in-one table of the extended version",
    "weights": "weights of DehazeFormer, IDT and NAFNet with SPN (EDSR, SwinIR and FFA-Net have links)",
}


def read(name: str, **options) -> pd.DataFrame:
    """One table of data/paper, whose README.md says what its columns are; `options` are those of `pandas.read_csv`.

    Text that is not there is "", and a result table without a column scale gets an empty one.

    Raises: FileNotFoundError.
    """
    path = root() / "data" / "paper" / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout -- data/paper`")
    table = pd.read_csv(path, keep_default_na=False, na_values={"ssim": [""]}, **options)
    if "dataset" in table and "scale" not in table:
        table.insert(table.columns.get_loc("dataset"), "scale", "")
    return table


OUR_ABLATIONS = {  # question of neighbours.csv: {setting: arm of record A1}
    "number of negatives": {"1": "one history", "2": "two histories", "4": "spn"},
    "interval": {"as decided": "spn", "4 times as long": "refreshed 4 times less often"},
    "weight": {"λ / 10": "lambda x 0.1", "λ": "spn", "10 λ": "lambda x 10"},
}


def our_ablations(record: evidence.Record) -> pd.DataFrame:
    """The gains over plain that a record with the arms of A1 holds for the questions of neighbours.csv.

    Columns: question | setting | mean | low | high (dB, 95 % over paired seeds, raw weights) | record.
    """
    found = intervals.paired(record.runs, scores=["psnr_raw"]).set_index("arm")[["mean", "low", "high"]]
    rows = [
        {"question": question, "setting": setting, **found.loc[arm], "record": record.name}
        for question, settings in OUR_ABLATIONS.items()
        for setting, arm in settings.items()
        if arm in found.index
    ]
    return pd.DataFrame(rows, columns=["question", "setting", "mean", "low", "high", "record"])


VENUES = {  # of the tables in which the paper prints none
    "MIMO-UNet": "ICCV'21",
    "HINet": "CVPRW'21",
    "MAXIM": "CVPR'22",
    "Restormer": "CVPR'22",
    "UFormer": "CVPR'22",
    "NAFNet": "ECCV'22",
    "EDSR-light": "CVPRW'17",
    "EDSR": "CVPRW'17",
    "SwinIR-light": "ICCVW'21",
    "SwinIR": "ICCVW'21",
    "FFANet": "AAAI'20",
}


def layout(task: str) -> pd.DataFrame:
    """A result table (of `RESULTS`, or `HEAD_TO_HEAD`) as a paper prints it, as Markdown text.

    Below each row with SPN stands what was measured here: "not run" unless a committed record trained the network at
    paper size on that data.

    Returns:
        Columns method | venue (in italics where the paper prints none) | a "PSNR / SSIM" per data set, the best of each
        scale in bold | gain (mean over the data sets, dB / SSIM).
    """
    table, digits = read(task), read(task, dtype=str)
    table["shown"] = list(zip(digits["psnr_db"], digits["ssim"], strict=True))  # as printed, zeros at the end too
    records = [evidence.read_record(name) for name in evidence.recorded()]
    rows = []
    for _, block in table.groupby("network" if task == HEAD_TO_HEAD else "scale", sort=False):
        best = block.groupby("dataset")[["psnr_db", "ssim"]].max()
        for (network, scale, objective), cells in block.groupby(["network", "scale", "objective"], sort=False):
            values, name, row = cells.set_index("dataset"), f"{network} {scale}".strip(), {}
            for place, value in values.iterrows():
                pairs = zip(value["shown"], ("psnr_db", "ssim"), strict=True)
                marked = (f"**{text}**" if value[score] == best.loc[place, score] else text for text, score in pairs)
                row[place] = " / ".join(marked)
            if objective == "none":
                venue = next((v for v in cells.get("venue", []) if v), "") or f"*{VENUES.get(network, '')}*"
                rows.append({"method": name, "venue": venue} | row | {"gain": ""})
                continue
            base = block[(block["network"] == network) & (block["objective"] == "none")].set_index("dataset")
            gain = _mean_gain(values["shown"], base["shown"])
            rows.append({"method": f"{name} + {objective}"} | row | {"gain": gain})
            if objective == "SPN":
                measured = {place: _measured_cell(records, network, scale, place) for place in values.index}
                rows.append({"method": f"{name} + SPN, here"} | measured)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    last = [name for name in ("average", "gain") if name in columns]
    return pd.DataFrame(rows).fillna("")[[name for name in columns if name not in last] + last]


def _mean_gain(after: pd.Series, before: pd.Series) -> str:
    """The mean gain over the data sets in dB / SSIM, from the printed digits and rounded half up; averages left out."""
    gains = []
    for score, unit in enumerate(("0.01", "0.0001")):
        steps = [Decimal(after[at][score]) - Decimal(before[at][score]) for at in after.index if at != "average"]
        gains.append(f"{(sum(steps, Decimal(0)) / len(steps)).quantize(Decimal(unit), ROUND_HALF_UP):+}")
    return " / ".join(gains)


def _measured_cell(records: Sequence[evidence.Record], network: str, scale: str, place: str) -> str:
    """The mean over seeds of the SPN runs that some record holds of this cell."""
    for record in records:
        runs = record.runs[(record.runs["network_size"] == "paper") & (record.runs["arm"] == "spn")]
        names = runs["network"].map(NETWORKS) == network
        places = runs["dataset"].map(lambda name: DATASETS.get(name, ("",))[0]) == place
        scales = runs["scale"].isin([int(scale[1:])] if scale else [1])
        if len(cells := runs[names & places & scales]):
            return f"{cells['psnr_raw'].mean():.2f} / {cells['ssim_raw'].mean():.4f} ({record.name})"
    return "not run"


def gains() -> pd.DataFrame:
    """What SPN adds to each base network on each dataset, in the paper's numbers (averages left out).

    Columns: task | network | scale | dataset | psnr_base | psnr_spn | gain_db | ssim_base | ssim_spn | gain_ssim.
    """
    key, parts = ["network", "scale", "dataset"], []
    for task in RESULTS:
        rows = read(task).rename(columns={"psnr_db": "psnr"}).query("dataset != 'average'")
        base, spn = (rows.query("objective == @name")[[*key, "psnr", "ssim"]] for name in ("none", "SPN"))
        parts.append(base.merge(spn, on=key, suffixes=("_base", "_spn"), validate="1:1").assign(task=task))
    table = pd.concat(parts, ignore_index=True)
    table["gain_db"] = (table["psnr_spn"] - table["psnr_base"]).round(2)
    table["gain_ssim"] = (table["ssim_spn"] - table["ssim_base"]).round(4)
    return table[["task", *key, "psnr_base", "psnr_spn", "gain_db", "ssim_base", "ssim_spn", "gain_ssim"]]


def arithmetic() -> pd.DataFrame:
    """Every printed average beside the mean of the cells it was made from, in exact decimal arithmetic.

    Columns: task | network | objective | scale | metric | printed | mean (exact) | recomputed (rounded half
    up to the printed digits) | verdict: "agrees" (no nearer value could be printed), "last digit" (off, by
    no more than averaging unrounded cells could explain), or "wrong".
    """
    rows = []
    for task in RESULTS:
        digits = read(task, dtype=str)  # text keeps the digits as printed
        for key, group in digits.groupby(["network", "objective", "scale"], sort=False):
            average = group["dataset"] == "average"
            for metric in ("psnr_db", "ssim"):
                cells = [Decimal(cell) for cell in group.loc[~average, metric]]
                mean = sum(cells, Decimal(0)) / len(cells)
                for printed in map(Decimal, group.loc[average, metric]):  # one, or none where no average is printed
                    unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
                    error, rounded = abs(printed - mean), mean.quantize(unit, ROUND_HALF_UP)
                    verdict = "agrees" if error <= unit / 2 else "last digit" if error <= unit else "wrong"
                    rows.append((task, *key, metric, float(printed), float(mean), float(rounded), verdict))
    columns = ["task", "network", "objective", "scale", "metric", "printed", "mean", "recomputed", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def retrainings() -> pd.DataFrame:
    """The claimed gain beside how far an independent retraining of the base landed from the quoted value.

    Columns: network | scale | dataset | psnr_base | retrained | difference_db | gain_db | gain_is_larger |
    same_recipe (of elsewhere.csv) | source | note. One run each, by users: a hint of the size of the noise, not a
    measurement of it.
    """
    key = ["network", "scale", "dataset"]
    runs = read("elsewhere").query("kind == 'retrained'").rename(columns={"value_db": "retrained"})
    table = gains().merge(runs[[*key, "retrained", "same_recipe", "source", "note"]], on=key, validate="1:1")
    table["difference_db"] = (table["retrained"] - table["psnr_base"]).round(2)
    table["gain_is_larger"] = table["gain_db"] > table["difference_db"].abs()
    columns = ["psnr_base", "retrained", "difference_db", "gain_db", "gain_is_larger", "same_recipe", "source", "note"]
    return table[[*key, *columns]]


def effort(tera_macs: float) -> pd.DataFrame:
    """What it would take to repeat the rows with SPN: one row per training run.

    Args:
        tera_macs: 10^12 multiply-accumulates per second that a GPU sustains in training; > 0. It decides the hours
            alone, and no GPU was measured here.

    Returns:
        Columns network, trained on, rows of the tables, recipe (whose steps, batch and patch: "authors" or "ours", see
        `paper_recipes.whose`), steps, batch, patch, GMACs (network, one patch), ratio (SPN step / plain step, by MACs),
        hours plain, hours SPN, command (to type, with the folders of one's own).
    """
    if not tera_macs > 0:
        raise ValueError(f"tera_macs is {tera_macs!r}; give the speed of your GPU, a number above 0")
    networks = {theirs: ours for ours, theirs in NETWORKS.items()}
    places = {theirs: ours for ours, (theirs, _) in reversed(DATASETS.items())}  # of several the first
    table, rows = gains(), []
    table["data"] = table["dataset"].map(places).mask(table["task"] == "super_resolution", "div2k")
    for (theirs, task, data, scale), part in table.groupby(["network", "task", "data", "scale"], sort=False):
        network, task, factor = networks[theirs], RESULTS[task], int(scale.removeprefix("x") or 1)
        recipe = recipes.get("paper", task, network=network, scale=factor, dataset=data)
        counts = macs.count(recipe)
        hours = 3 * counts.network * recipe.batch_size * recipe.steps / (tera_macs * 1e12) / 3600
        words = f"-p recipe paper -p task {task} -p network {network} -p dataset {data} -p data_root DATA"
        words += f" -p scale {factor}" if factor > 1 else ""
        row = {"network": f"{theirs} {scale}".strip(), "trained on": data, "rows": ", ".join(part["dataset"])}
        row["recipe"] = paper_recipes.whose(network, factor, data)
        row |= {"steps": recipe.steps, "batch": recipe.batch_size, "patch": recipe.patch_size}
        row |= {"GMACs": counts.network / 1e9, "ratio": 1 + counts.surplus, "hours plain": hours}
        row["hours SPN"] = hours * row["ratio"]
        row["command"] = f"papermill notebooks/03_train.ipynb out.ipynb {words} -p features_weights VGG16"
        rows.append(row)
    return pd.DataFrame(rows)


def claims() -> pd.DataFrame:
    """What the paper says, beside arithmetic, the official code, and the records of this workbook.

    Index: a short key. Columns, all text, "" where there is nothing to say: claim | paper_says | arithmetic_says |
    code_says | measured (the committed records that hold the arms, tasks, network and data of the claim, as links from
    a notebook, see `verdicts.measured`) | note | source.
    """
    table = read("claims").set_index("key")
    computed = _arithmetic_says()
    table["arithmetic_says"] = [computed.get(key, "") for key in table.index]
    asked = table[["arms", "tasks", "network", "dataset"]].itertuples(index=False)
    table["measured"] = [", ".join(verdicts.measured(c.arms, c.tasks, c.network, c.dataset, "../")) for c in asked]
    columns = ["claim", "paper_says", "arithmetic_says", "code_says", "measured", "note", "source"]
    return table[columns]


def beside_paper(scores: pd.DataFrame, network: str, dataset: str, scale: int = 1) -> pd.DataFrame:
    """The measured means below the paper's rows for the same network and benchmark; every row says whose it is.

    `scores` is what `evaluate.evaluate` returns; the names are this workbook's.

    Returns:
        Columns source ("paper" or "measured here") | what | pictures (NaN for the paper, which does not say) |
        psnr_db | low | high (of `evaluate.summary`) | ssim | protocol | note. Without a row in the paper only what was
        measured.
    """
    name, (place, note) = NETWORKS.get(network), DATASETS.get(dataset, (None, ""))
    table = pd.concat(map(read, RESULTS))
    wanted = (table.network == name) & (table.dataset == place) & table.scale.isin(["", f"x{scale}"])
    known, rows = {"source": "paper", "protocol": "not stated in the paper", "note": note}, []
    for row in table[wanted].itertuples():
        what = f"{name}{' + SPN' if row.objective == 'SPN' else ''}, {place}"
        rows.append(known | {"what": what, "psnr_db": row.psnr_db, "ssim": row.ssim})
    means, facts = evaluate.summary(scores), scores.attrs
    here = {"source": "measured here", "protocol": f"{facts.get('protocol', '')}, crop {facts.get('crop', 0)}"}
    here["note"] = "" if rows else "the paper has no such row"
    for kind, what in (("input", "untouched input"), ("restored", facts.get("network", network))):
        row = means.loc[f"psnr_{kind}"]
        found = {"what": what, "pictures": row.pictures, "psnr_db": row["mean"], "low": row.low, "high": row.high}
        rows.append(here | found | {"ssim": means.loc[f"ssim_{kind}", "mean"]})
    columns = ["source", "what", "pictures", "psnr_db", "low", "high", "ssim", "protocol", "note"]
    return pd.DataFrame(rows, columns=columns)


def _arithmetic_says() -> dict[str, str]:
    """{key of a claim: the sentence that the numbers support}; claims without numbers are absent."""
    table = gains()
    gain, rows = table["gain_db"], arithmetic()
    off = rows.query("verdict != 'agrees'")
    slips = [
        f"{r.network} {r.objective} {r.scale} {r.metric} {r.printed:g}, not {r.recomputed:g}" for r in off.itertuples()
    ]
    swinir = rows.query("network == 'SwinIR' and objective == 'SPN' and metric == 'psnr_db'").squeeze(axis=0)
    runs = retrainings()
    noise = [f"{row.network} {row.dataset} {row.gain_db:+.2f} ({row.difference_db:+.2f})" for row in runs.itertuples()]
    return {
        "all gains": f"{(gain > 0).sum()} of {len(gain)} printed gains are positive, {gain.min():+.2f} to "
        f"{gain.max():+.2f} dB, median {gain.median():+.2f} dB; {(gain <= 0.1).sum()} of them are 0.10 dB or less",
        "FFANet indoor": _against_abstract("FFANet", "SOTS-indoor"),
        "DehazeFormer indoor": _sizes_of_dehazeformer(),
        "IDT SPA": _against_abstract("IDT", "SPA"),
        "SwinIR-light Manga109": _against_abstract("SwinIR-light", "Manga109", "x4"),
        "Manga109 x2": _manga109(),
        "SwinIR average": f"the cells give {swinir['mean']:.4f}, so {swinir['recomputed']:.2f} against "
        f"{swinir['printed']:.2f} dB",
        "averages": f"{len(rows) - len(off)} of {len(rows)} agree with their cells; not so: "
        f"{'; '.join(slips) or 'none'}",
        "Rain200": _rain200(),
        "GoPro SSIM": f"{table.set_index('dataset').loc['GoPro', 'gain_ssim']:+.4f}, a gain only if both come from the "
        "same function",
        "noise": f"{runs['gain_is_larger'].sum()} of {len(runs)} gains exceed what one independent retraining of the "
        f"base was off by; gain (retrained base minus quoted base), dB: {', '.join(noise)}",
        "rivals": _rivals(),
    }


def _in_abstract(network: str) -> float:
    """The gain that the abstract names for a network, in dB."""
    rows = read("elsewhere").query("kind == 'abstract gain'").set_index("network")
    return float(rows.loc[network, "value_db"])


def _against_abstract(network: str, dataset: str, scale: str = "") -> str:
    key, told = ["network", "dataset", "scale"], _in_abstract(network)
    row = gains().set_index(key).sort_index().loc[(network, dataset, scale)]
    found = f"{row['psnr_spn']:.2f} - {row['psnr_base']:.2f} = {row['gain_db']:+.2f} dB"
    return found if row["gain_db"] == told else f"{found}, not {told:+.2f} dB"


def _sizes_of_dehazeformer() -> str:
    rows = gains().query("dataset == 'SOTS-indoor' and network.str.startswith('DehazeFormer')")
    sizes = ", ".join(f"{row.network} {row.gain_db:+.2f}" for row in rows.itertuples())
    told = rows[rows["gain_db"] == _in_abstract("DehazeFormer")]["network"]
    return f"{sizes} dB; the abstract's value is that of {', '.join(told) or 'none of them'}"


def _manga109() -> str:
    base = gains().query("network == 'EDSR-light'").pivot(index="dataset", columns="scale", values="psnr_base")
    step = (base["x2"] - base["x4"]).round(2)
    others = step.drop("Manga109")
    averages = arithmetic().query("network == 'EDSR-light' and scale == 'x2' and metric == 'psnr_db'")
    with_slip = " and ".join(f"{row.mean:.4f} (printed {row.printed:.2f})" for row in averages.itertuples())
    without = " and ".join(f"{mean + 8 / 4:.2f}" for mean in averages["mean"])  # 8 dB in one of four cells
    return (
        f"x2 lies {step['Manga109']:.2f} dB above x4, on the other sets {others.min():.2f} to "
        f"{others.max():.2f} dB: most likely 8 dB too low, a slip of one digit. The averages contain it: the "
        f"printed cells give {with_slip}; 8 dB more would give {without}"
    )


def _rain200() -> str:
    theirs = read("elsewhere").query("kind == 'published' and network == 'IDT'").rename(columns={"value_db": "psnr_db"})
    ours = read("deraining").query("network == 'IDT' and objective == 'none'")
    same = ours.merge(theirs, on=["psnr_db", "ssim"], suffixes=("", "_idt")).query("dataset != dataset_idt")
    listed = "; ".join(
        f"'{row.dataset}' {row.psnr_db:.2f} / {row.ssim:.4f} is what IDT prints for {row.dataset_idt}"
        for row in same.itertuples()
    )
    return listed or "no number is printed under two names"


def _rivals() -> str:
    blocks = []
    for (network, dataset), rows in read(HEAD_TO_HEAD).groupby(["network", "dataset"], sort=False):
        steps = rows.set_index("objective")["psnr_db"]
        steps = (steps - steps["none"]).drop("none")
        listed = ", ".join(f"{objective} {step:+.2f}" for objective, step in steps.items())
        blocks.append(f"{network} on {dataset}: {listed}")
    return f"gain over the base, dB: {'; '.join(blocks)}"
