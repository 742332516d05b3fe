"""MathJax and reveal.js for the book and the slides, from installed packages: a page asks no other machine for them.

The Jupyter project packs MathJax for its server, sphinx-revealjs packs reveal.js; both are in the extra `book`.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

MATHJAX = {  # MathJax 2, as the package has it: formulas as HTML, in the fonts that lie beside the script
    "config": ["TeX-AMS-MML_HTMLorMML-full.js", "Safe.js"],
    "messageStyle": "none",
    "HTML-CSS": {"availableFonts": [], "webFont": "STIX-Web", "imageFont": None},
}
LEFT_OUT = ("localization", "SVG", "mathmaps", "*.map", "*.esm.js", "*.eot", "*.ttf", "*.scss")


def copy_mathjax(folder: Path) -> None:
    """Put MathJax.js and what it loads into a folder `mathjax` of this one."""
    _copy(_package("jupyter_server_mathjax") / "static", folder / "mathjax")


def copy_reveal(folder: Path) -> None:
    """Put reveal.js, its themes and its speaker's view into a folder `reveal` of this one."""
    for part in ("dist", "plugin/notes"):
        _copy(_package("sphinx_revealjs") / "_static" / "revealjs" / part, folder / "reveal" / part)


def _package(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    found = find_spec(name)
    if not found or not found.origin:
        raise RuntimeError(f"{name} is not installed; it is in the extra `book`: pip install -e '.[book]'")
    return Path(found.origin).parent


def _copy(source: Path, place: Path) -> None:
    shutil.copytree(source, place, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
