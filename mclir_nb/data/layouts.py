"""How the files of a data set lie on disk, and which degraded file belongs to which clean one.

A `Packing` says it with two templates; `find` looks for them below a folder. The notation of a template:

    {id} {n} {name} ...   a part of the name by which files are paired: {n} digits (read as a number, so that
                          001 is 1), {id} anything without "_", any other anything
    *                     anything, not used for pairing
    (a|b)                 one or the other; (a|) may be missing

Extensions are left out: a .jpg may belong to a .png. Hidden files (macOS writes ._name.png beside name.png)
    and files
that match no template (Rain100L's rainstreak-1.png) are passed over.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mclir_nb.data.images import SUFFIXES


class Entry(NamedTuple):
    """Where one picture's files are.

    Attributes:
        name: unique in its set.
        gt: the clean file. lq: the degraded file; None when the task makes it. depth: the depth layer, if
            any.
        fit: how the two are brought to one size; a key of `datasets.FITS`.
        noise: the standard deviation (0..255) of Gaussian noise that makes lq, whatever the task; None: none.
        scale: gt pixels per lq pixel in the files.
    """

    name: str
    gt: Path
    lq: Path | None = None
    depth: Path | None = None
    fit: str = "same"
    noise: float | None = None
    scale: int = 1


@dataclass(frozen=True)
class Packing:
    """One way in which the files of one part of a data set are laid out.

    Attributes:
        top: the folder that holds them, below the data root; "(A/|)B" where the outer folder may be missing.
        lq, gt: templates of the degraded and the clean file below `top`, without extension. lq None: clean
            files only. `{scale}` stands for the task's scale.
        pairs: how many pairs are published, several for several releases; () where no source states it.
        fit: see `Entry.fit`.
        first, last: the smallest and the largest {id} that belongs to this part.
        scene: a regular expression on the clean file's path below `top`; pictures with an equal first group
            show the same scene and stay on the same side of a train / validation cut. None: the clean file is
            the scene.
        noise: make lq with Gaussian noise of these standard deviations, one entry each.
        repeat: how often an entry counts in training, relative to others of a mixture.
        listing: a text file below `top` with one pair "lq gt" of paths in each line; replaces the templates.
        scales: the scales for which these files exist; () for all.
        skip: file stems that are left out, with the reason.
    """

    top: str
    gt: str = ""
    lq: str | None = None
    pairs: int | tuple[int, ...] = ()
    fit: str = "same"
    first: int = 0
    last: int | None = None
    scene: str | None = None
    noise: tuple[float, ...] = ()
    repeat: int = 1
    listing: str | None = None
    scales: tuple[int, ...] = ()
    skip: dict[str, str] = field(default_factory=dict, hash=False)

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
        top = alternatives(self.top)[0]
        top = top + "/" if top else ""
        if self.listing:
            return f"{top}{self.listing} and the pairs of files it lists"
        shown = [top + _shown(side) for side in (self.lq, self.gt) if side]
        return "   with   ".join(shown) + ("  (lq and gt side by side in each file)" if self.fit == "halves" else "")


@dataclass
class Found:
    """What lies below a folder in one packing.

    Attributes:
        entries: the complete pairs (or clean pictures), in natural order of their names.
        lq_alone, gt_alone: files without a partner. twice: files whose partner has another one already.
        scenes: for every entry, the scene it shows.
    """

    packing: Packing
    top: Path
    entries: list[Entry] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    lq_alone: list[Path] = field(default_factory=list)
    gt_alone: list[Path] = field(default_factory=list)
    twice: list[Path] = field(default_factory=list)

    @property
    def files(self) -> int:
        return len(self.entries) + len(self.lq_alone) + len(self.gt_alone)


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
            broken = broken or (found if found.files else None)
    return broken


def alternatives(template: str) -> list[str]:
    """All readings of the (a|b) in a template, outermost first."""
    match = re.search(r"\(([^()]*)\)", template)
    if not match:
        return [re.sub("/+", "/", template).strip("/")]
    before, after = template[: match.start()], template[match.end() :]
    return [full for choice in match[1].split("|") for full in alternatives(before + choice + after)]


def _tops(template: str, root: Path) -> list[Path]:
    """The folders `template` may mean: below the root, or around it when the root lies inside the tree."""
    root = Path(os.path.abspath(root))
    places = []
    for top in alternatives(template):
        places.append(root / top)
        first = top.split("/")[0]
        inside = [i for i, part in enumerate(root.parts) if part == first]
        places += [Path(*root.parts[:i]) / top for i in reversed(inside)]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


# ------------------------------------------------------------------------------------------------- one
# packing


def _scan(packing: Packing, top: Path, scale: int) -> Found:
    found = Found(packing, top)
    if packing.listing:
        pairs, found.lq_alone = _listed(top, packing.listing)
    elif packing.lq is None:
        files = _matching(top, packing.gt, scale)
        pairs = _first_of_each(files, found)
        if packing.paired:  # both sides in one file
            pairs = {key: (gt, gt) for key, (_, gt) in pairs.items()}
    else:
        pairs = _paired(packing, top, scale, found)
    for key, (lq, gt) in sorted(pairs.items(), key=lambda item: _natural(item[0])):
        _add(found, key, lq, gt, scale)
    return found


def _first_of_each(files: list[tuple[dict, Path]], found: Found) -> dict[tuple, tuple[None, Path]]:
    kept: dict[tuple, tuple[None, Path]] = {}
    for groups, file in files:
        if kept.setdefault(tuple(groups.values()), (None, file))[1] != file:
            found.twice.append(file)
    return kept


def _paired(packing: Packing, top: Path, scale: int, found: Found) -> dict[tuple, tuple[Path, Path]]:
    """Files of both sides, matched by the names the two templates share."""
    gts: dict[tuple, Path] = {}
    for groups, file in _matching(top, packing.gt, scale):
        key = tuple(sorted(groups.items()))
        if gts.setdefault(key, file) != file:
            found.twice.append(file)
    pairs: dict[tuple, tuple[Path, Path]] = {}
    used = set()
    for groups, file in _matching(top, packing.lq or "", scale):
        key = tuple(sorted(groups.items()))
        name = (*groups.values(), file.stem) if packing.many_to_one else tuple(groups.values())
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
    if gt.stem in packing.skip or not _within(packing, key):
        return
    name = str(key[-1]) if packing.many_to_one else "/".join(map(str, key))
    place = gt.relative_to(found.top).with_suffix("").as_posix()
    match = re.match(packing.scene, place) if packing.scene else None
    for sigma in packing.noise or (None,):
        shown = name if sigma is None else f"{name} noise {sigma:g}"
        files_scale = scale if lq is not None else 1
        found.entries.append(Entry(shown, gt, lq, None, packing.fit, sigma, files_scale))
        found.scenes.append(match[1] if match else place)


def _within(packing: Packing, key: tuple) -> bool:
    if not packing.first and packing.last is None:
        return True
    number = int(key[0]) if str(key[0]).isdigit() else 0
    return packing.first <= number <= (number if packing.last is None else packing.last)


def _matching(top: Path, template: str, scale: int) -> list[tuple[dict, Path]]:
    """Every picture below `top` that fits the template, with what its placeholders stand for."""
    parts = template.replace("{scale}", str(scale)).split("/")
    places: list[tuple[dict, Path]] = [({}, top)]
    for level, part in enumerate(parts):
        last = level == len(parts) - 1
        places = [step for groups, place in places for step in _step(groups, place, part, last)]
    return places


def _step(groups: dict, place: Path, part: str, last: bool) -> list[tuple[dict, Path]]:
    """One level down: folders (at the last level pictures) whose name fits one part of a template."""
    if not last and not re.search(r"[{*(]", part):
        below = place / part
        return [(groups, below)] if below.is_dir() else []
    pattern, steps = _pattern(part), []
    for item in _items(place):
        stem, suffix = os.path.splitext(item.name) if last else (item.name, "")
        if item.name.startswith(".") or (last and suffix.lower() not in SUFFIXES):
            continue
        match = pattern.fullmatch(stem)
        if match and (item.is_file() if last else item.is_dir()):
            new = {key: int(value) if key == "n" else value for key, value in match.groupdict().items()}
            if all(groups.get(key, value) == value for key, value in new.items()):
                steps.append((groups | new, place / item.name))
    return sorted(steps, key=lambda step: step[1].name)


def _items(place: Path) -> list[os.DirEntry]:
    """What a folder holds. Raises: ValueError if it may not be listed."""
    try:
        with os.scandir(place) as items:
            return list(items)
    except PermissionError as error:
        raise ValueError(
            f"the folder {place} cannot be listed: permission denied; give yourself the right to read it and what it "
            "holds (chmod -R u+rX), or copy the data set."
        ) from error


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
    return re.compile(text)


def _natural(key: tuple) -> tuple:
    """A sorting key that puts 2 before 10."""
    pieces = itertools.chain.from_iterable(re.split(r"(\d{1,18})", str(part)) for part in key)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces)


def _shown(template: str) -> str:
    text = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), template)
    return re.sub(r"\(([^|()]*)\|[^()]*\)", r"\1", text)


def _listed(top: Path, listing: str) -> tuple[dict[tuple, tuple[Path, Path]], list[Path]]:
    """The pairs named in a text file; a path that leads out of `top` or to no file counts as missing."""
    file = top / listing
    if not file.is_file():
        return {}, []
    pairs, alone = {}, []
    for line in file.read_text(errors="replace").splitlines():
        sides = [Path(os.path.normpath(top / side.lstrip("./"))) for side in line.split()]
        if len(sides) == 2 and all(side.is_relative_to(top) and side.is_file() for side in sides):
            name = sides[0].relative_to(top).with_suffix("")
            pairs[name.parts[1:] or name.parts] = (sides[0], sides[1])
        elif sides:
            alone.append(sides[0])
    return pairs, alone


# ------------------------------------------------------------------------------------------ a validation
# share

LARGEST_SHARE = 20  # scenes


def hold_out(found: Found, shares: int = 1) -> list[list[Entry]]:
    """The entries cut into [what remains, share 1, share 2 ...] by whole scenes.

    A share is a tenth of the scenes, at least 1 and at most 20, taken from the end in natural order of their
    names, so that neighbouring frames of a film stay together. Empty lists where there are too few scenes.
    """
    scenes = list(dict.fromkeys(found.scenes))
    size = min(LARGEST_SHARE, max(1, len(scenes) // 10))
    cuts = [max(0, len(scenes) - size * i) for i in range(shares + 1)]  # from the end
    of_scene = {}
    for share in range(shares):
        of_scene |= {scene: shares - share for scene in scenes[cuts[share + 1] : cuts[share]]}
    parts: list[list[Entry]] = [[] for _ in range(shares + 1)]
    for entry, scene in zip(found.entries, found.scenes, strict=True):
        parts[of_scene.get(scene, 0)].append(entry)
    return parts
