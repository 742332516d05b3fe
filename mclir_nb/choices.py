"""A name against the names that are accepted: one sentence for a wrong one, with the nearest right one."""

import difflib
from collections.abc import Iterable


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
