"""The workbook as a site: `make book`, or `python tools/book.py` where the extra `book` is installed.

It is made of what is committed: nothing is executed, nothing is fetched, neither here nor by its pages. Chapters are
the executed notebooks; pages are README, docs/ and the records; the API comes from the docstrings, the recipes from the
package. Every warning is an error, and so is a link that leads nowhere.
"""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import page_scripts
import pandas as pd
from sphinx.application import Sphinx

import mclir_nb
from mclir_nb import files, root
from mclir_nb.data import tasks
from mclir_nb.training import paper_recipes, recipes
from mclir_nb.training.recipes import Recipe
from mclir_nb.views import embedded

COPIED = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "docs", "notebooks"]
COPIED += ["data/README.md", "data/records", "data/figures", "tests/README.md"]
ROOMS = ("method", "networks", "data", "evaluation", "training", "experiments", "views")
EXTENSIONS = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
STYLE = """/* tables of ten columns fit beside the contents, and so do the lines that a cell prints */
.bd-article table {font-size: 0.8rem}
.bd-article td, .bd-article th {padding: 0.25rem 0.35rem}
.cell_output .stream pre {font-size: 0.75rem}
"""


def build(out: Path, source: Path) -> None:
    """Write the site into `out`; `source` is a folder for the pages that it is made of, written anew.

    Raises RuntimeError with the warnings, or the links that lead nowhere.
    """
    shutil.rmtree(source, ignore_errors=True)
    for name in COPIED:
        place = root() / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copy(place, source / name)
    for notebook in (source / "notebooks").glob("*.ipynb"):
        notebook.write_text(json.dumps(fold(embedded.embed(json.loads(notebook.read_text()))), ensure_ascii=False))
    page_scripts.copy_mathjax(source / "static")
    (source / "static" / "book.css").write_text(STYLE)
    for page in (*source.rglob("*.md"), *source.rglob("*.ipynb")):  # an interval stays on one line
        page.write_text(page.read_text().replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))
    write_recipes(source / "recipes.md")
    write_api(source / "api")
    readme = source / "README.md"
    readme.write_text(readme.read_text() + contents(source))
    with open(source / "warnings.txt", "w") as warnings:
        site = Sphinx(source, None, out, source / ".doctrees", "html", settings(), sys.stdout, warnings, freshenv=True)
        site.connect("autodoc-process-docstring", as_markup, priority=100)  # before napoleon reads the sections
        site.build()
    if found := (source / "warnings.txt").read_text():
        raise RuntimeError(f"the book has warnings:\n{found}")
    shutil.copy(out / "README.html", out / "index.html")  # the first page
    if lost := broken_links(out):
        raise RuntimeError(f"links that lead nowhere: {'; '.join(lost)}")
    if fetched := from_elsewhere(out):
        raise RuntimeError(f"fetched from another machine: {'; '.join(fetched)}")


def fold(notebook: dict) -> dict:
    """A notebook (as JSON) whose cells that JupyterLab folds are folded by the book as well, by MyST-NB's tags."""
    for cell in notebook["cells"]:
        hidden = cell["metadata"].get("jupyter", {})
        folded = {"hide-input": "source_hidden", "hide-output": "outputs_hidden"}
        cell["metadata"].setdefault("tags", []).extend(tag for tag, key in folded.items() if hidden.get(key))
    return notebook


def broken_links(site: Path) -> list[str]:
    """Links and pictures of a site's pages that point to no file beside them, also those in cells' outputs."""
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    return [
        f"{page.relative_to(site)}: {link}"
        for page in pages
        for link in re.findall(r'(?:href|src)="([^"#:?]+)["#?]', page.read_text())
        if not (page.parent / unquote(link)).exists()
    ]


def from_elsewhere(site: Path) -> list[str]:
    """Scripts, style sheets, fonts and pictures that a site's pages would fetch from another machine."""
    tags = r"""<(?:(?:script|img|iframe|source|video)\b[^>]*?\ssrc|link\b[^>]*?\shref)=["']((?:https?:)?//[^"']+)"""
    urls = r"""(?:@import\s+["']|url\(\s*["']?)((?:https?:)?//[^"')\s]+)"""
    return [
        f"{page.relative_to(site)}: {address}"
        for kind, pattern in (("html", tags), ("css", urls))
        for page in sorted(site.rglob(f"*.{kind}"))
        for address in re.findall(pattern, page.read_text())
    ]


def settings() -> dict:
    """Sphinx's configuration."""
    theme: dict = {"show_navbar_depth": 1, "home_page_in_toc": True}
    if address := repository():
        theme |= {"repository_url": address, "use_repository_button": True}
        theme["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    return {
        "project": "Learning from history",
        "author": "",
        "release": mclir_nb.__version__,
        "extensions": EXTENSIONS,
        "root_doc": "README",
        "nb_execution_mode": "off",
        "myst_enable_extensions": ["dollarmath"],
        "html_static_path": ["static"],
        "html_css_files": ["book.css"],
        "mathjax_path": "mathjax/MathJax.js",
        "mathjax2_config": page_scripts.MATHJAX | {"tex2jax": {"processClass": "math"}},
        "myst_heading_anchors": 4,
        "html_theme": "sphinx_book_theme",
        "html_theme_options": theme,
        "html_title": "Learning from history",
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "nb_render_markdown_format": "myst",
        "autodoc_member_order": "bysource",
        "napoleon_use_ivar": True,
        "suppress_warnings": ["ref.python"],  # attributes of two classes may have one name; nothing links to them by it
        "autodoc_inherit_docstrings": False,
        "exclude_patterns": [".doctrees"],
    }


def repository() -> str | None:
    """Where the workbook is published: `Repository` below [project.urls] of pyproject.toml, if there is one."""
    return tomllib.loads((root() / "pyproject.toml").read_text())["project"].get("urls", {}).get("Repository")


def contents(source: Path) -> str:
    """The table of contents, hidden on the page and shown beside it."""
    records = sorted(str(path.relative_to(source).with_suffix("")) for path in source.glob("data/records/*/README.md"))
    parts = {
        "Notebooks": [f"notebooks/{path.stem}" for path in sorted((source / "notebooks").glob("[0-9]*.ipynb"))],
        "Pages": ["recipes", *(f"docs/{path.stem}" for path in sorted((source / "docs").glob("*.md")))],
        "Records": records,
        "Package": [f"api/{room}" for room in ROOMS],
        "Project": ["CONTRIBUTING", "CHANGELOG", "data/README", "tests/README"],
    }
    return "".join(
        f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in parts.items()
    )


SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Source:", "Yields:")


def as_markup(site, what, name, thing, options, lines: list[str]) -> None:
    """Our docstrings are plain text: what is indented outside the sections stays as it is, and | * _ are no marks."""
    made: list[str] = []
    section = literal = False
    for line in lines:
        section = line.startswith(SECTIONS) or (section and (not line or line.startswith(" ")))
        inside = line.startswith("    ") and not section
        if inside and not literal:
            made += ["", "::", ""]
        if literal and line and not inside:
            made.append("")
        literal = inside or (literal and not line)
        made.append(line if literal else re.sub(r"`[^`]+`|[|*]|(?<=\w)_(?!\w)", _plain, line))
    lines[:] = made


def _plain(mark: re.Match) -> str:
    return f"`{mark[0]}`" if mark[0].startswith("`") else f"\\{mark[0]}"


def write_recipes(page: Path) -> None:
    """Every named recipe by task, and what each field means, from the package."""
    fields = Recipe.model_fields
    said = "What each named recipe sets for each task; every other field has the default named at the end."
    text = [f"# Recipes\n\n{said}"]
    for name in recipes.names():
        chosen = pd.DataFrame({task: dict(recipes.get(name, task)) for task in tasks.names()}).drop(["name", "task"])
        own = [field for field, row in chosen.iterrows() if any(value != fields[field].default for value in row)]
        table = chosen.loc[own].astype(str).rename_axis("field").reset_index()
        text.append(f"## {name}\n\n{files.as_markdown(table)}")
    for network in paper_recipes.RECIPES:
        text.append(f"## {network}, as its authors trained it\n\n{files.as_markdown(paper_recipes.table(network))}")
    for network in paper_recipes.ON_RESIDE_6K:
        table = files.as_markdown(paper_recipes.table(network, "reside-6k"))
        text.append(f"## {network} on RESIDE-6K, as its authors trained it\n\n{table}")
    meaning = [
        (name, "" if field.is_required() else str(field.default), " ".join((field.description or "").split()))
        for name, field in fields.items()
    ]
    table = pd.DataFrame(meaning, columns=["field", "default", "meaning"])
    text.append(f"## What the fields mean\n\n{files.as_markdown(table)}")
    page.write_text("\n\n".join(text) + "\n")


def write_api(folder: Path) -> None:
    """A page per room, a section per file."""
    folder.mkdir()
    for room in ROOMS:
        modules = sorted(path.stem for path in (root() / "mclir_nb" / room).glob("[a-z]*.py"))
        names = [f"mclir_nb.{room}", *(f"mclir_nb.{room}.{module}" for module in modules)]
        section = "## {0}\n\n```{{eval-rst}}\n.. automodule:: {0}\n   :members:\n```"
        blocks = [f"# {room}", *(section.format(name) for name in names)]
        (folder / f"{room}.md").write_text("\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    try:
        build(root() / "build" / "book", root() / "build" / "book-source")
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    print("build/book/index.html: written")
