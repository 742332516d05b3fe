"""Progress that reads well in three places: a live notebook, a terminal, and a saved log."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm


def is_watched() -> bool:
    """Whether somebody looks on: a terminal, or a notebook that can answer questions (papermill and nbval cannot)."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        return shell.kernel.get_parent().get("content", {}).get("allow_stdin", True)
    return sys.stderr.isatty()


class Progress:
    """Iterate with a live bar, or with about ten plain lines where a bar would stay frozen in the saved output.

    Set `note` inside the loop to show numbers. Plain lines hold no times, so that the same run prints the same text.
    `total` (None: `len(items)`) counts `start` items that were done before; `quiet` shows nothing.
    """

    def __init__(self, items: Iterable, label: str, total: int | None = None, start: int = 0, quiet: bool = False):
        self.items, self.label, self.note = items, label, ""
        self.total = len(items) if total is None else total  # type: ignore[arg-type]  # it has a length then
        self.start, self.quiet = start, quiet

    def __iter__(self) -> Iterator:
        live = is_watched() and not self.quiet
        every = max(1, self.total // 10)
        with tqdm(total=self.total, initial=self.start, desc=self.label, disable=not live) as bar:
            for done, item in enumerate(self.items, start=self.start + 1):
                yield item
                if live:
                    bar.set_postfix_str(self.note, refresh=False)
                    bar.update()
                elif not self.quiet and (done % every == 0 or done == self.total):
                    print(f"{self.label}: {done}/{self.total} {self.note}".rstrip(), flush=True)
