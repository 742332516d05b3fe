"""How the files of a data set lie on disk, and which degraded file belongs to which clean one.

A `Packing` says it with two templates; `find` looks for them below a folder. The notation of a template:

    {id} {n} {name} ...   a part of the name by which files are paired: {n} digits (read as a number, so that 001 is 1),
                          {id} anything without "_", any other anything
    *                     anything, not used for pairing
    (a|b)                 one or the other; (a|) may be missing

Extensions are left out: a .jpg may belong to a .png. Names are compared as Unicode text (NFC), for macOS writes an Ü as
two characters where others write one; bytes that are no text are kept as they are. Hidden files (macOS writes
._name.png beside name.png) and files that match no template (Rain100L's rainstreak-1.png) are passed over.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mclir_nb.data.images import SUFFIXES
from mclir_nb.files import printable


class Entry(NamedTuple):
    """Where one picture's files are."""

    name: str  # unique in its set, printable
    gt: Path
    lq: Path | None = None  # None: the task makes it
    depth: Path | None = None
    fit: str = "same"  # how the two are brought to one size; see `image_set.fit`
    noise: float | None = None  # standard deviation (0..255) of Gaussian noise that makes lq, whatever the task
    scale: int = 1  # gt pixels per lq pixel in the files

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.lq, self.gt, self.depth) if file]


Pairs = dict[tuple, tuple[Path | None, Path]]  # by key: lq (None: to be made from gt) and gt


@dataclass(frozen=True)
class Packing:
    """One way in which the files of one part of a data set are laid out."""

    top: str  # the folder that holds them, below the data root; "(A/|)B" where the outer folder may be missing
    gt: str = ""  # template of the clean file below `top`, without extension; {scale} stands for the task's scale
    lq: str | None = None  # template of the degraded file; None: clean files only
    pairs: int | tuple[int, ...] = ()  # published pairs, several for several releases; () where no source states it
    fit: str = "same"  # see `Entry.fit`
    first: int = 0  # the smallest {id} that belongs to this part
    last: int | None = None  # the largest; None: any
    # A regular expression on the clean file's path below `top`; pictures with an equal first group show the same scene
    # and stay on the same side of a train / validation cut. None: the clean file is the scene.
    scene: str | None = None
    noise: tuple[float, ...] = ()  # make lq with Gaussian noise of these standard deviations, one entry each
    repeat: int = 1  # how often an entry counts in training, relative to others of a mixture
    listing: str | None = None  # a text file below `top` with paths "lq gt" in each line; replaces the templates
    scales: tuple[int, ...] = ()  # for which these files exist; () for all
    skip: dict[str, str] = field(default_factory=dict, hash=False)  # file stems left out, with the reason

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.pairs,) if isinstance(self.pairs, int) else self.pairs

    @property
    def paired(self) -> bool:
        """Whether lq comes from files."""
        return self.lq is not None or self.listing is not None or self.fit == "halves"

    @property
    def many_to_one(self) -> bool:
        """Whether several degraded files share a clean one, of which spares may then exist."""
        return self.lq is not None and "*" in self.lq

    def tree(self) -> str:
        """What it looks like, for a message."""
        top = "/".join(alternatives(self.top)[0])
        top = top + "/" if top else ""
        if self.listing:
            return f"{top}{self.listing} and the pairs of files it lists"
        shown = []
        for side in filter(None, (self.lq, self.gt)):
            side = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), side)
            shown.append(top + re.sub(r"\(([^|()]*)\|[^()]*\)", r"\1", side))
        return "   with   ".join(shown) + ("  (lq and gt side by side in each file)" if self.fit == "halves" else "")


@dataclass
class Found:
    """What lies below a folder in one packing."""

    packing: Packing
    top: Path
    entries: list[Entry] = field(default_factory=list)  # complete pairs, or clean pictures, in natural order
    scenes: list[str] = field(default_factory=list)  # the scene that each entry shows
    lq_alone: list[Path] = field(default_factory=list)  # degraded files without a partner
    gt_alone: list[Path] = field(default_factory=list)
    twice: list[Path] = field(default_factory=list)  # files whose partner has another one already

    def counted(self, number: int) -> str:
        """So many of what it holds: "1 pair", "1,800 pictures"."""
        return f"{number:,} {'pair' if self.packing.paired else 'picture'}{'s' * (number != 1)}"

    @property
    def unpaired(self) -> list[Path]:
        """The files without a partner that should have one."""
        return self.lq_alone + ([] if self.packing.many_to_one else self.gt_alone)


def find(packings: tuple[Packing, ...], root: Path, scale: int = 1) -> Found | None:
    """The first packing with at least one complete pair; else the first with any file; else None."""
    broken = None
    for packing in packings:
        if packing.scales and scale not in packing.scales:
            continue
        for top in _tops(packing.top, root):
            found = _scan(packing, top, scale)
            if found.entries:
                return found
            broken = broken or (found if found.lq_alone or found.gt_alone else None)
    return broken


def alternatives(template: str) -> list[tuple[str, ...]]:
    """All readings of the (a|b) in a path, outermost first, each as the names of its folders."""
    match = re.search(r"\(([^()]*)\)", template)
    if not match:
        return [tuple(filter(None, template.split("/")))]
    before, after = template[: match.start()], template[match.end() :]
    return [full for choice in match[1].split("|") for full in alternatives(before + choice + after)]


def _tops(template: str, root: Path) -> list[Path]:
    """The folders that `template` may mean: below the root, which may itself be any folder on the way down.

    So data/RESIDE, data/RESIDE/SOTS and data/RESIDE/SOTS/outdoor all name the same set; nothing outside the root is
    ever looked at.
    """
    root = Path(os.path.abspath(root))
    places = []
    for names in alternatives(template):
        inside = [n for n in range(1, len(names) + 1) if root.parts[-n:] == names[:n]]
        places += [root.joinpath(*names[n:]) for n in (0, *inside)]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _scan(packing: Packing, top: Path, scale: int) -> Found:
    found = Found(packing, top)
    pairs: Pairs
    if packing.listing:
        pairs, found.lq_alone = _listed(top, packing.listing)
    elif packing.lq is None:
        clean = _by_name(top, packing.gt, scale, found)
        pairs = {tuple(key.values()): (file if packing.paired else None, file) for key, file in clean}
    else:
        pairs = _paired(packing, top, scale, found)
    for key, (lq, gt) in sorted(pairs.items(), key=lambda item: _natural(item[0])):
        _add(found, key, lq, gt, scale)
    return found


def _by_name(top: Path, template: str, scale: int, found: Found) -> list[tuple[dict, Path]]:
    """The pictures that fit a template, one for each name; a second one of a name is noted."""
    kept: dict[tuple, tuple[dict, Path]] = {}
    for key, file in _matching(top, template, scale):
        if kept.setdefault(tuple(sorted(key.items())), (key, file))[1] != file:
            found.twice.append(file)
    return list(kept.values())


def _paired(packing: Packing, top: Path, scale: int, found: Found) -> Pairs:
    """Files of both sides, matched by the names the two templates share."""
    gts = {tuple(sorted(key.items())): file for key, file in _by_name(top, packing.gt, scale, found)}
    pairs: Pairs = {}
    used = set()
    for groups, file in _matching(top, packing.lq or "", scale):
        key = tuple(sorted(groups.items()))
        name = (*groups.values(), _text(file.stem)) if packing.many_to_one else tuple(groups.values())
        if key not in gts:
            found.lq_alone.append(file)
        elif name in pairs:
            found.twice.append(file)
        else:
            pairs[name] = (file, gts[key])
            used.add(key)
    found.gt_alone = [file for key, file in gts.items() if key not in used]
    return pairs


def _add(found: Found, key: tuple, lq: Path | None, gt: Path, scale: int) -> None:
    packing = found.packing
    number = int(key[0]) if str(key[0]).isdecimal() else 0
    if gt.stem in packing.skip or not packing.first <= number <= (number if packing.last is None else packing.last):
        return
    name = str(key[-1]) if packing.many_to_one else "/".join(map(str, key))
    place = gt.relative_to(found.top).with_suffix("").as_posix()
    match = re.match(packing.scene, place) if packing.scene else None
    for sigma in packing.noise or (None,):
        shown = printable(name if sigma is None else f"{name} noise {sigma:g}")
        found.entries.append(Entry(shown, gt, lq, None, packing.fit, sigma, 1 if lq is None else scale))
        found.scenes.append(match[1] if match else place)


def _matching(top: Path, template: str, scale: int) -> list[tuple[dict, Path]]:
    """Every picture below `top` that fits the template, with what its placeholders stand for."""
    *folders, stem = template.replace("{scale}", str(scale)).split("/")
    places: list[tuple[dict, Path]] = [({}, top)]
    for part in folders:
        places = [step for groups, place in places for step in _step(groups, place, part, last=False)]
    return [step for groups, place in places for step in _step(groups, place, stem, last=True)]


def _step(groups: dict, place: Path, part: str, last: bool) -> list[tuple[dict, Path]]:
    """One level down: folders (at the last level pictures) whose name fits one part of a template."""
    if not last and not re.search(r"[{*(]", part):
        below = place / part
        return [(groups, below)] if below.is_dir() else []
    pattern, steps = _pattern(part), []
    try:
        with os.scandir(place) as found:
            items = list(found)
    except PermissionError as error:
        raise ValueError(
            f"the folder {printable(place)} cannot be listed: permission denied; give yourself the right to read it "
            "and what it holds (chmod -R u+rX), or copy the data set."
        ) from error
    for item in items:
        stem, suffix = os.path.splitext(item.name) if last else (item.name, "")
        if item.name.startswith(".") or (last and suffix.lower() not in SUFFIXES):
            continue
        match = pattern.fullmatch(_text(stem))
        if match and (item.is_file() if last else item.is_dir()):
            new = {key: int(value) if key == "n" else value for key, value in match.groupdict().items()}
            if all(groups.get(key, value) == value for key, value in new.items()):
                steps.append((groups | new, place / item.name))
    return sorted(steps, key=lambda step: step[1].name)


def _text(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _pattern(part: str) -> re.Pattern:
    """The regular expression of one part of a template."""
    kinds = {"n": r"\d{1,18}", "id": r"[^_]+"}
    text = ""
    for piece in re.split(r"(\{\w+\}|\*|\(|\||\))", part):
        if piece.startswith("{"):
            name = piece[1:-1]
            text += f"(?P<{name}>{kinds.get(name, '.+')})"
        else:
            text += {"*": ".*", "(": "(?:", "|": "|", ")": ")"}.get(piece, re.escape(piece))
    return re.compile(text, re.DOTALL)


def _natural(key: tuple) -> tuple:
    """A sorting key that puts 2 before 10."""
    pieces = itertools.chain.from_iterable(re.split(r"(\d{1,18})", str(part)) for part in key)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces)


def _listed(top: Path, listing: str) -> tuple[Pairs, list[Path]]:
    """The pairs named in a text file; a path that leads out of `top` or to no file counts as missing."""
    file = top / listing
    if not file.is_file():
        return {}, []
    pairs: Pairs = {}
    alone = []
    for line in os.fsdecode(file.read_bytes()).splitlines():
        # The authors write ./a/b and /a/b for a/b.
        sides = [Path(os.path.normpath(f"{top}/{side}")) for side in line.split()]
        if len(sides) == 2 and all(side.is_relative_to(top) and side.is_file() for side in sides):
            name = sides[0].relative_to(top).with_suffix("")
            pairs[name.parts[1:] or name.parts] = (sides[0], sides[1])
        elif sides:
            alone.append(sides[0])
    return pairs, alone
