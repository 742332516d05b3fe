"""The public data sets: who publishes them, how their files lie, how many there are. Pictures they share: `overlaps`.

One row per set, in `LAYOUTS`. The packings are those of the repositories named in brackets; a count is left out where
no source states it; "*" marks counts that are commonly quoted but were not found in a source file.

Sources (repository @ commit): [FFA] zhilin007/FFA-Net 6651bcf, [GDN] proteus1991/GridDehazeNet, [DF]
IDKiro/DehazeFormer 5af7c34, [AIR] XLearning-SCU/2022-CVPR-AirNet bedea82, [PIR] va1shn9v/PromptIR 49a78a3, [PRE]
csdwren/PReNet 6d908d1, [RST] swz30/Restormer, [IDT] jiexiaou/IDT d72510c, [DID] hezhangsprinter/DID-MDN 2c1fc92, [SPA]
stevewongv/SPANet 24e6950, [BSR] XPixelGroup/BasicSR 8d56e3a, [SWI] JingyunLiang/SwinIR 6545850, [SelfExSR]
jbhuang0604/SelfExSR 8f6dd8c, [NAF] megvii-research/NAFNet 2b4af71.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mclir_nb import check_choice
from mclir_nb.data.layouts import Packing
from mclir_nb.data.tasks import Task

Part = tuple[Packing, ...]  # the packings in which one part of a set may be found; the first there counts

BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html"
RESIDE = "https://sites.google.com/view/reside-dehaze-datasets"
JORDER = "http://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html"
EDSR = "https://cv.snu.ac.kr/research/EDSR/benchmark.tar"


@dataclass(frozen=True)
class Layout:
    """One public data set."""

    title: str
    tasks: tuple[str, ...]  # what its degraded files are for; its clean files, if they lie apart, serve every task
    where: str  # the page of its authors, or of who packed it so
    train: tuple[Part, ...] = ()
    val: tuple[Part, ...] = ()  # without it, a share is held out of `train`
    test: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()  # traps, for the reader of a report

    def parts(self, split: str) -> tuple[Part, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def table() -> pd.DataFrame:
    """Every set: dataset (the index) | what | tasks | train | test (published pairs; "?": no source says) | where."""

    def published(part: Part) -> str:  # several numbers for several releases, or cut in several ways
        counts = dict.fromkeys(count for packing in part for count in packing.counts)
        return " or ".join(f"{count:,}" for count in counts) or "?"

    rows = []
    for name, layout in LAYOUTS.items():
        counts = {split: " + ".join(map(published, layout.parts(split))) for split in ("train", "test")}
        tasks = ", ".join(layout.tasks) or "any, degraded here"
        rows.append({"dataset": name, "what": layout.title, "tasks": tasks, **counts, "where": layout.where})
    return pd.DataFrame(rows).set_index("dataset")


def get(name: str) -> Layout:
    """The data set called `name`. Raises: ValueError naming those there are."""
    check_choice("dataset", name, ["embedded", *LAYOUTS])
    return LAYOUTS[name]


def usable(part: Part, layout: Layout, task: Task) -> Part:
    """The packings of a part that a task can use: pairs made for it and its scale, and clean files."""
    fits = layout is FOLDER or task.name in layout.tasks  # your own folder serves your own tasks too
    scaled = (packing for packing in part if task.scale in (packing.scales or (task.scale,)))
    return tuple(packing for packing in scaled if fits or not packing.paired)


# hazy files carry their clear file's id: 1400_1 -> 1400
_CLEAR: dict[str, Any] = dict(gt="(clear|gt)/{id}", fit="centre")
_OTS: dict[str, Any] = dict(top="(RESIDE/|)(OTS|OTS_BETA)", pairs=(72_135, 313_950), **_CLEAR)
ITS = (
    Packing("(RESIDE/|)(ITS|ITS_v2)", lq="hazy/{id}_*", pairs=13_990, **_CLEAR),  # [FFA]
    Packing("(data/|)train/indoor", lq="hazy/{id}_*", **_CLEAR),  # [GDN]
)
OTS = (
    Packing(lq="hazy/{id}_*", **_OTS),  # [FFA]
    Packing(lq="part*/{id}_*", **_OTS),
    Packing(lq="hazy/part*/{id}_*", **_OTS),
    Packing("(data/|)Train/Dehaze", "original/{id}", "synthetic/part*/{id}_*", 72_135, "centre"),  # [AIR]
    Packing("(data/|)train/outdoor", lq="hazy/{id}_*", **_CLEAR),  # [GDN]
)
SOTS_INDOOR = (
    Packing("(RESIDE/|data/test/|test/|)SOTS/indoor", lq="hazy/{id}_*", pairs=500, **_CLEAR),
    Packing("(RESIDE/|)(SOTS/|)(indoor/|)nyuhaze500", lq="hazy/{id}_*", pairs=500, **_CLEAR),
)
SOTS_OUTDOOR = (
    Packing("(RESIDE/|data/test/|test/|)SOTS/outdoor", lq="hazy/{id}_*", pairs=500, **_CLEAR),
    Packing("test/dehaze", "target/{id}", "input/{id}_*", 500, "centre"),  # [AIR]
)
_REPEATED = r".*/([^_/]+)_"  # the scene where a clean file is repeated for each degraded one: GT/0001_0.8_0.2 -> 0001
_RESIDE_NOTES = (
    "Clear images may be 10 pixels larger on each side than hazy ones: they are centre-cropped.",
    "Hazy files are .jpg where clear ones are .png in some parts: names are compared without extension.",
)


def _dehazeformer(name: str, train: int | tuple[int, ...], test: int) -> dict:
    """[DF] data/NAME/{train,test}/{GT,hazy} with equal names."""
    top, sides = f"(data/|){name}", ("GT/{name}", "hazy/{name}")
    return dict(
        tasks=("dehaze",),
        where="https://github.com/IDKiro/DehazeFormer",
        train=((Packing(f"{top}/train", *sides, train, "centre", scene=_REPEATED),),),
        test=((Packing(f"{top}/test", *sides, test, "centre"),),),
        notes=("DehazeFormer's packing: clean files are repeated, one for each hazy file.",),
    )


BY_NAME = (
    "Pairs are made by name. The scoring scripts of IDT and Restormer pair by place in two listings instead, which "
    "mispairs unpadded numbers (10.png sorts before 2.png)."
)


def _rain100(kind: str, pairs: int) -> dict:
    """Rain100L/H: [PRE] flat folders and zero-padded test names, [AIR] and [RST] input and target folders."""
    train = [Packing(f"(datasets/train/|train/|)RainTrain{kind}", "norain-{n}", "rain-{n}", pairs)]
    test = [
        Packing(f"(datasets/test/|test/|)Rain100{kind}", "norain-{n}", "rainy/rain-{n}", 100),
        Packing(f"(Datasets/test/|test/|)(derain/|)Rain100{kind}", "target/{n}", "input/{n}", 100),
    ]
    if kind == "L":
        train.append(Packing("(data/|)(Train/|)Derain", "gt/norain-{n}", "rainy/rain-{n}", 200))
        test.append(Packing("(test/|)derain", "target/{n}", "input/{n}", 100))
    return dict(
        tasks=("derain",),
        where=f"{JORDER} ; packed by https://github.com/csdwren/PReNet",
        train=(tuple(train),),
        test=(tuple(test),),
        notes=(
            "Packings differ in size: 481x321 originals, 480x320 in the input and target folders.",
            BY_NAME,
            f"Not Rain200{kind}: the MCLIR tables print Rain200{kind} values under the name Rain100{kind}.",
        ),
    )


def _rain200(kind: str, word: str) -> dict:
    """Rain200L/H: the authors' folders, [IDT], and plain input and target folders."""

    def part(split: str, pairs: int) -> Part:
        own, idt = f"(Rain200{kind}/|)", ("groundtruth/norain-{n}", "input/rain-{n}", pairs)
        top = f"(Rain200{kind}/|Rain100{kind}/|)rain_data_{split}_{word}(/rain_{word.lower()}_{split}|)"
        flat = (Packing(f"({word}|Rain200{kind})", *idt),) if split == "train" else ()
        return (
            Packing(top, "norain/norain-{n}", "rain/norain-{n}(x2|)", pairs),
            Packing(top, "norain/norain-{n}", "rain/X2/norain-{n}x2", pairs),
            Packing(own + split, "norain/norain-{n}", "rain/X2/norain-{n}x2", pairs),
            Packing(f"({word}/|Rain200{kind}/|){split}", *idt),
            *flat,
            Packing(f"Rain200{kind}/{split}", "(norain|target|groundtruth)/{name}", "(rain|input)/{name}", pairs),
        )

    return dict(
        tasks=("derain",), where=JORDER, train=(part("train", 1800),), test=(part("test", 200),), notes=(BY_NAME,)
    )


_DID_TOP, _INPUT_TARGET = "(DID-MDN-datasets/|DID-Data/|)", ("(target|groundtruth)/{name}", "input/{name}")
_DID_SCENE = r".*/(\d+)$"
DID_TRAIN = (
    Packing(_DID_TOP + "DID-MDN-training", "Rain_{density}/train2018new/{n}", None, 12_000, "halves", scene=_DID_SCENE),
    Packing("(DID-MDN|DID-Data)(/train|)", *_INPUT_TARGET, 12_000),  # [IDT]
)
DID_TEST = (
    Packing(_DID_TOP + "DID-MDN-test", "{n}", None, 1_200, "halves"),
    Packing("(DID-MDN|DID-Data)/test", *_INPUT_TARGET, 1_200),
    Packing("(Datasets/test/|test/|)Test1200", *_INPUT_TARGET, 1_200),  # [RST]
)

_DDN = ("(ground_truth|groundtruth)/{id}", "(rainy_image|input)/{id}_*")  # 7_14 -> 7; ids 1 to 900 train
_DDN_EQUAL = ("(norain|target)/{name}", "(rain|input)/{name}")
DDN_TRAIN = (
    Packing("(rainy_image_dataset|DDN-Data|Rain1400)/(training|train)", *_DDN, 12_600),
    Packing("(datasets/train/|train/|)Rain12600", *_DDN, 12_600),  # [PRE], [IDT]
    Packing("(rainy_image_dataset|DDN-Data)", *_DDN, 12_600, first=1, last=900),  # not split yet
    Packing("DDN-Data/train", *_DDN_EQUAL, 12_600, scene=_REPEATED),
)
DDN_TEST = (
    Packing("(rainy_image_dataset|DDN-Data|Rain1400)/(testing|test)", *_DDN, 1_400),
    Packing("(datasets/test/|test/|)Rain1400", *_DDN, 1_400, first=901, last=1000),  # [PRE]
    Packing("(rainy_image_dataset|DDN-Data)", *_DDN, 1_400, first=901, last=1000),
    Packing("DDN-Data/test", *_DDN_EQUAL, 1_400),
)

_SPA_EQUAL = ("(norain|target|groundtruth)/{name}", "(rain|input)/{name}")
SPA_TRAIN = (
    Packing("(SPA-Data/|)(Training/|)", listing="real_world.txt", pairs=638_464, scene=r"[^/]+/(\d+)/"),  # [SPA]
    Packing("(sparain|SPA-Data)(/train|)", *_SPA_EQUAL, 638_464),  # [IDT]
)
SPA_TEST = (
    Packing("(SPA-Data/|)(Testing/|)", listing="real_test_1000.txt", pairs=1_000),  # [SPA]
    Packing("(SPA-Data/|)(Testing/|)real_test_1000(/real_test_1000|)", "gt/{n}gt", "rain/{n}", 1_000),
    Packing("(sparain|SPA-Data)/test", *_SPA_EQUAL, 1_000),
)

# photographs of BSDS500 that are also in a public test set; found by correlation and by SIFT with RANSAC
BSDS_EXCLUDED = {
    "302003": "Set5 'woman' is this photograph reduced by 1.39",
    "100075": "clean image of a Rain100L test pair",
    "105019": "clean image of a Rain100L test pair",
    "188091": "clean image behind a heavy-rain test input named 15.png (Rain100H by name, size and density)",
}
_BSDS_TOP = "(BSR/|)(BSDS500/|)(data/|)images"
BSDS_VAL = Packing(_BSDS_TOP, "val/{n}", None, 100, "multiple-16")


def _bsds500(title: str, folders: str, count: int, note: str) -> Layout:
    train = (Packing(_BSDS_TOP, f"{folders}/{{n}}", None, count, skip=BSDS_EXCLUDED),)
    return Layout(title, (), BERKELEY, (train,), test=((BSDS_VAL,),), notes=(note,))


def _benchmark(title: str, name: str, pairs: int, where: str, more: Part = (), **facts) -> Layout:
    """[SWI] HR + LR_bicubic (as EDSR's benchmark.tar), [BSR] GTmod12 + LRbicxS, [SelfExSR] image_SRF_S."""
    top, selfex = f"(benchmark/|){name}", "image_SRF_{scale}/{name}_SRF_{scale}_"
    scales = (4,) if name == "Urban100" else ()  # its image_SRF_2 has half-size HR: not the x2 benchmark
    packings = (
        Packing(top, "HR/{name}", "LR_bicubic/X{scale}/{name}x{scale}", pairs, "corner"),
        Packing(top, "GTmod12/{name}", "LRbicx{scale}/{name}", pairs, "corner"),
        Packing(top, f"{selfex}HR", f"{selfex}LR", pairs, "corner", scales=scales),
        Packing(top, "HR/{name}", None, pairs),  # no LR of this scale: made here
        Packing(top, "GTmod12/{name}", None, pairs),
    )
    notes = (
        "GTmod12 files are cropped to multiples of 12: scores differ slightly from those on the HR files.",
        "Where LR files are missing they are made by MATLAB's bicubic of today, which differs at the border from the "
        "older one of SelfExSR's Set14 and B100.",
    )
    return Layout(title, ("sr",), where, test=((*packings, *more),), notes=notes, **facts)


def _div2k(split: str, pairs: int) -> Part:
    """[BSR] whole images, and for training the sub-images of extract_subimages.py, first where they exist."""
    top, lr = "(datasets/|)(DIV2K/|)", f"DIV2K_{split}_LR_bicubic/X{{scale}}"
    whole, sub, scene = f"DIV2K_{split}_HR/", f"DIV2K_{split}_HR_sub/", r".*/(\d+)_s\d+$"
    return (
        Packing(top, sub + "{name}", lr + "_sub/{name}", 32_592, "corner", scene=scene),
        Packing(top, sub + "{name}", None, 32_592, scene=scene),
        Packing(top, whole + "{id}", lr + "/{id}x{scale}", pairs, "corner"),
        Packing(top, whole + "{id}", None, pairs),
    )[0 if split == "train" else 2 :]


def _gopro(split: str, pairs: int) -> Part:
    """The release (blur and sharp per sequence) and [NAF] (input and target, sequence-frame.png)."""
    top, scene = f"(datasets/|)(GoPro/|GOPRO_Large/|GOPRO/|){split}", r"(.*GOPR\d+_\d+_\d+)"
    return (
        Packing(top, "{seq}/sharp/{frame}", "{seq}/blur/{frame}", pairs, scene=scene),
        Packing(top, "target/{name}", "input/{name}", pairs, scene=scene),
        Packing(top, "(sharp_crops|sharp)/{name}", "(blur_crops|blur)/{name}", scene=scene),
    )


_NOISE, _MOD16 = (15.0, 25.0, 50.0), "centre-16"
AIRNET = Layout(
    "the AirNet / PromptIR mixture: denoise (15, 25, 50), derain (Rain100L), dehaze (OTS, SOTS outdoor)",
    ("denoise", "derain", "dehaze"),
    "https://github.com/va1shn9v/PromptIR (INSTALL.md names the authors of the five sets)",
    train=(  # repeats as in [PIR] utils/dataset_utils.py
        (Packing("(data/|)Train/Denoise", "{name}", None, (), _MOD16, noise=_NOISE, repeat=3),),
        (Packing("(data/|)Train/Derain", "gt/norain-{n}", "rainy/rain-{n}", 200, _MOD16, repeat=120),),
        (
            Packing("(data/|)Train/Dehaze", "original/{id}", "synthetic/part*/{id}_*", 72_135, _MOD16),
            Packing("(data/|)Train/Dehaze", "original/{id}", "synthetic/{id}_*", 72_135, _MOD16),
        ),
    ),
    test=(
        (Packing("(data/|)test/denoise/(bsd68|BSD68|CBSD68)", "{name}", None, 204, _MOD16, noise=_NOISE),),
        (Packing("(data/|)test/derain(/Rain100L|)", "target/{n}", "input/{n}", 100, _MOD16),),
        (Packing("(data/|)test/dehaze", "target/{id}", "input/{id}_*", 500, _MOD16),),
    ),
    notes=("Pictures are centre-cropped to multiples of 16, as both repositories do.",),
)


def _own(split: str) -> Part:
    return Packing(split, "gt/{name}", "lq/{name}"), Packing(split, "{name}")


FOLDER = Layout(
    "your own pictures",
    ("dehaze", "derain", "deblur", "sr", "denoise"),
    "your own disk",
    train=((*_own("train"), *_own("")),),
    val=(_own("val"),),
    test=(_own("test"),),
    notes=("Without val/ or test/ these are held out of the training pictures.",),
)

# fmt: off
LAYOUTS: dict[str, Layout] = {
    "folder": FOLDER,
    "reside-its": Layout(
        "RESIDE indoor training set (ITS); tested on SOTS indoor", ("dehaze",), RESIDE, (ITS,),
        test=(SOTS_INDOOR,),
        notes=(*_RESIDE_NOTES, "ITS has two releases: 13,990 hazy images (standard), about 110,000 (v0)."),
    ),
    "reside-ots": Layout(
        "RESIDE outdoor training set (OTS); tested on SOTS outdoor", ("dehaze",), RESIDE, (OTS,),
        test=(SOTS_OUTDOOR,),
        notes=(*_RESIDE_NOTES, "OTS has two releases: 72,135 hazy images (beta), 313,950 (v0)."),
    ),
    "sots-indoor": Layout("SOTS indoor", ("dehaze",), RESIDE, test=(SOTS_INDOOR,), notes=_RESIDE_NOTES),
    "sots-outdoor": Layout("SOTS outdoor", ("dehaze",), RESIDE, test=(SOTS_OUTDOOR,), notes=_RESIDE_NOTES),
    "reside-6k": Layout("RESIDE-6K (MCLIR: SOTS-mix)", **_dehazeformer("RESIDE-6K", 6_000, 1_000)),  # *
    "reside-in": Layout("RESIDE-IN: ITS v0 and SOTS indoor", **_dehazeformer("RESIDE-IN", (), 500)),
    "reside-out": Layout("RESIDE-OUT: OTS and SOTS outdoor", **_dehazeformer("RESIDE-OUT", (), 500)),
    "spa-data": Layout(
        "SPA-Data, real rain", ("derain",), "https://stevewongv.github.io/derain-project.html",
        (SPA_TRAIN,), test=(SPA_TEST,), notes=(BY_NAME,),
    ),
    "rain100l": Layout("Rain100L, light rain", **_rain100("L", 200)),
    "rain100h": Layout("Rain100H, heavy rain", **_rain100("H", 1_800)),
    "rain200l": Layout("Rain200L, light rain", **_rain200("L", "Light")),
    "rain200h": Layout("Rain200H, heavy rain", **_rain200("H", "Heavy")),
    "did": Layout(
        "DID-Data (DID-MDN), three rain densities", ("derain",), "https://github.com/hezhangsprinter/DID-MDN",
        (DID_TRAIN,), test=(DID_TEST,),
        notes=(BY_NAME, "As released, each file holds both images: the left half is rainy, the right half clean.",),
    ),
    "ddn": Layout(
        "DDN-Data (Rain1400): 1,000 clean images with 14 rains each", ("derain",),
        "https://xueyangfu.github.io/projects/cvpr2017.html", (DDN_TRAIN,), test=(DDN_TEST,),
        notes=(BY_NAME, "Without folders of their own, ids 1 to 900 train and 901 to 1000 test."),
    ),
    "div2k": Layout(
        "DIV2K; tested on its 100 validation images", ("sr",), "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        (_div2k("train", 800),), test=(_div2k("valid", 100),),
    ),
    "set5": _benchmark("Set5", "Set5", 5, EDSR),
    "set14": _benchmark("Set14", "Set14", 14, EDSR),
    "b100": _benchmark("B100 (BSD100)", "(B100|BSD100|BSDS100)", 100, BERKELEY, (BSDS_VAL,)),
    "urban100": _benchmark("Urban100", "Urban100", 100, "https://github.com/jbhuang0604/SelfExSR"),
    "manga109": _benchmark("Manga109", "Manga109", 109, "http://www.manga109.org"),
    "gopro": Layout(
        "GoPro camera shake", ("deblur",), "https://seungjunnah.github.io/Datasets/gopro",
        (_gopro("train", 2_103),), test=(_gopro("test", 1_111),),
        notes=("LMDB files are not read: unpack them to input/ and target/, or use the original release.",
               "blur_gamma/ of the release is not used."),
    ),
    "bsds500": _bsds500(
        "BSDS500 photographs, degraded by the task; tested on images/val", "(train|test)", 396,
        "4 of the 400 photographs in train and test are left out: they are in a public test set.",
    ),
    "bsds500-test": _bsds500(
        "BSDS500 photographs without images/train, to train deraining on; tested on images/val", "test", 200,
        "Clean pictures of Rain100L/H are photographs of images/train; those of images/test are newer.",
    ),
    "airnet": AIRNET,
}
# fmt: on
