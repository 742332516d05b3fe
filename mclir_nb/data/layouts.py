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
from collections.abc import Iterator
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
    fit: str = "same"  # how the two are brought to one size; see `image_set`
    noise: float | None = None  # standard deviation (0..255) of Gaussian noise that makes lq, whatever the task
    scale: int = 1  # gt pixels per lq pixel in the files
    scene: str = ""  # what it shows; a scene is never shared out among training and validation

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.lq, self.gt, self.depth) if file]


Key = tuple[str | int, ...]  # what the placeholders of a template stand for
Pairs = dict[Key, tuple[Path | None, Path]]  # lq (None: to be made from gt) and gt


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

    def tree(self, scale: int = 1) -> str:
        """What it looks like, for a message; what is in [] may be missing."""
        top = _shown(self.top, scale)
        top += "" if not top or top.endswith("/]") else "/"
        if self.listing:
            return f"{top}{self.listing} and the pairs of files it lists"
        shown = [top + _shown(side, scale) for side in (self.lq, self.gt) if side]
        return "   with   ".join(shown) + ("  (lq and gt side by side in each file)" if self.fit == "halves" else "")


@dataclass
class Found:
    """What lies below a folder in one packing."""

    packing: Packing
    top: Path
    entries: list[Entry] = field(default_factory=list)  # complete pairs, or clean pictures, in natural order
    unpaired: list[Path] = field(default_factory=list)  # files without the partner that they should have
    twice: list[Path] = field(default_factory=list)  # files whose partner has another one already

    def counted(self, number: int) -> str:
        """So many of what it holds: "1 pair", "1,800 pictures"."""
        return f"{number:,} {'pair' if self.packing.paired else 'picture'}{'s' * (number != 1)}"


def find(packings: tuple[Packing, ...], root: Path, scale: int = 1) -> Found | None:
    """The first packing with at least one complete pair; else the first with any file; else None.

    Raises: ValueError for a folder that may not be looked into.
    """
    broken = None
    try:
        for packing in packings:
            for top in _tops(packing.top, root):
                found = _scan(packing, top, scale)
                if found.entries:
                    return found
                broken = broken or (found if found.unpaired else None)
    except PermissionError as error:
        raise ValueError(
            f"{printable(error.filename)} cannot be looked at: permission denied; give yourself the right to read it "
            f"and the folders on the way (chmod -R u+rX {printable(root)}), or copy the data set."
        ) from error
    return broken


def _shown(template: str, scale: int) -> str:
    """A template for a message: [a] for (a|), the first of (a|b), and names in capitals."""
    template = re.sub(r"\(([^|()]*)(\|[^()]*)?\|\)", r"[\1]", template.replace("{scale}", str(scale)))
    template = re.sub(r"\(([^|()]*)\|[^()]*\)", r"\1", template)
    return re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), template)


def alternatives(template: str) -> list[tuple[str, ...]]:
    """All readings of the (a|b) in a path, outermost first, each as the names of its folders."""
    match = re.search(r"\(([^()]*)\)", template)
    if not match:
        return [tuple(filter(None, template.split("/")))]
    before, after = template[: match.start()], template[match.end() :]
    return [full for choice in match[1].split("|") for full in alternatives(before + choice + after)]


def _tops(template: str, root: Path) -> list[Path]:
    """The folders that `template` may mean: below the root, which may itself be any of the folders that it names.

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
    if packing.listing:
        pairs = _listed(found)
    else:
        clean = _by_name(found, packing.gt, scale)
        if packing.lq is None:
            pairs = {key: (file if packing.paired else None, file) for key, file in clean.items()}
        else:
            pairs = _paired(found, packing.lq, clean, scale)
    for key, (lq, gt) in sorted(pairs.items(), key=lambda item: _natural(item[0])):
        _add(found, key, lq, gt, scale)
    return found


def _by_name(found: Found, template: str, scale: int) -> dict[Key, Path]:
    """The pictures that fit a template, one for each name; a second one of a name is noted."""
    kept: dict[Key, Path] = {}
    for key, file in _matching(found.top, template.replace("{scale}", str(scale)).split("/")):
        if kept.setdefault(key, file) != file:
            found.twice.append(file)
    return kept


def _paired(found: Found, template: str, clean: dict[Key, Path], scale: int) -> Pairs:
    """The degraded files with the clean ones of the same name."""
    pairs: Pairs = {}
    many, used = found.packing.many_to_one, set()
    for key, file in _matching(found.top, template.replace("{scale}", str(scale)).split("/")):
        name = (*key, _text(file.stem)) if many else key
        if key not in clean:
            found.unpaired.append(file)
        elif name in pairs:
            found.twice.append(file)
        else:
            pairs[name] = (file, clean[key])
            used.add(key)
    if not many:
        found.unpaired += [file for key, file in clean.items() if key not in used]
    return pairs


def _listed(found: Found) -> Pairs:
    """The pairs named in a text file; a path that leads out of its folder or to no file counts as missing."""
    pairs: Pairs = {}
    top, file = found.top, found.top / (found.packing.listing or "")
    for line in os.fsdecode(file.read_bytes()).splitlines() if file.is_file() else ():
        # The authors write ./a/b and /a/b for a/b.
        sides = [Path(os.path.normpath(f"{top}/{side}")) for side in line.split()]
        if len(sides) == 2 and all(side.is_relative_to(top) and side.is_file() for side in sides):
            name = sides[0].relative_to(top).with_suffix("")
            pairs[name.parts[1:] or name.parts] = (sides[0], sides[1])
        elif sides:
            found.unpaired.append(sides[0])
    return pairs


def _add(found: Found, key: Key, lq: Path | None, gt: Path, scale: int) -> None:
    packing = found.packing
    number = int(key[0]) if str(key[0]).isdecimal() else 0
    if gt.stem in packing.skip or not packing.first <= number <= (number if packing.last is None else packing.last):
        return
    name = str(key[-1]) if packing.many_to_one else "/".join(map(str, key))
    place = gt.relative_to(found.top).with_suffix("").as_posix()
    match = re.match(packing.scene, place) if packing.scene else None
    for sigma in packing.noise or (None,):
        shown = printable(name if sigma is None else f"{name} noise {sigma:g}")
        files = Entry(shown, gt, lq, None, packing.fit, sigma, 1 if lq is None else scale)
        found.entries.append(files._replace(scene=match[1] if match else place))


def _matching(place: Path, parts: list[str], key: Key = ()) -> Iterator[tuple[Key, Path]]:
    """Every picture below a folder whose path fits the parts of a template, with what its placeholders stand for."""
    part, *rest = parts
    if rest and not re.search(r"[{*(]", part):
        if (place / part).is_dir():
            yield from _matching(place / part, rest, key)
        return
    pattern = _pattern(part)
    for item in _items(place):
        stem, suffix = (item.name, "") if rest else os.path.splitext(item.name)
        match = pattern.fullmatch(_text(stem))
        if not match or item.name.startswith(".") or not (item.is_dir() if rest else item.is_file()):
            continue
        longer = key + tuple(int(value) if name == "n" else value for name, value in match.groupdict().items())
        if rest:
            yield from _matching(place / item.name, rest, longer)
        elif suffix.lower() in SUFFIXES:
            yield longer, place / item.name


def _items(place: Path) -> list[os.DirEntry]:
    """What a folder holds, by name."""
    with os.scandir(place) as found:
        return sorted(found, key=lambda item: item.name)


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


def _natural(key: Key) -> tuple:
    """A sorting key that puts 2 before 10."""
    pieces = itertools.chain.from_iterable(re.split(r"(\d{1,18})", str(part)) for part in key)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces)
