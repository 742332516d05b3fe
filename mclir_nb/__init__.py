"""Learning from history: a workbook on the self-prior guided negative (SPN) loss for image restoration.

Here is what every room uses and no room owns: where the workbook lies, a name against the names that are accepted, what
counts as a whole number, and the one source of randomness.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__version__ = "0.1.0"


def root() -> Path:
    """The workbook's folder: the nearest one above the package or the current folder with `notebooks/`.

    Raises: FileNotFoundError if the package was installed without the rest of the workbook.
    """
    for start in (Path(__file__).resolve().parent, Path.cwd().resolve() / "any"):
        for folder in start.parents:
            if (folder / "environment.yml").is_file() and (folder / "notebooks").is_dir():
                return folder
    raise FileNotFoundError(
        "cannot find the workbook's folder (one with environment.yml and notebooks/); "
        "clone the whole repository and install it with `pip install -e .`"
    )


def did_you_mean(word: object, accepted: Iterable[str]) -> str:
    """' (did you mean ...?)' if an accepted name is close to `word`, else nothing."""
    known = {name.lower(): name for name in accepted if isinstance(name, str)}
    near = difflib.get_close_matches(str(word).lower(), known, n=1)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""


def check_choice(what: str, word: object, accepted: Iterable[str]) -> None:
    """Raise ValueError unless `word` is one of the accepted names; `what` says whose name it is, such as "network"."""
    known = list(accepted)
    if word not in known:
        raise ValueError(f"unknown {what} {word!r}{did_you_mean(word, known)}; choose one of {', '.join(known)}.")


def whole(value: object) -> int | None:
    """The whole number that `value` is, NumPy's among them; None for anything else, such as True, 2.0 and "2"."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def stream(seed: int, *key) -> torch.Generator:
    """A CPU generator for one purpose: equal (seed, key) give equal numbers, other keys unrelated ones.

    Every consumer of randomness has one of its own, so nothing depends on how many workers load, on what was drawn
    before, or on where a run was interrupted.
    """
    import torch  # here, so that the package alone is imported at once

    digest = hashlib.sha256(repr((int(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
