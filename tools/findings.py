"""Rewrite what the README says of the committed records: `python tools/findings.py`."""

from pathlib import Path

from mclir_nb import files, root
from mclir_nb.experiments import evidence

BEGIN, END = "<!-- findings: begin, written by python tools/findings.py -->", "<!-- findings: end -->"


def block() -> str:
    """One line per record; its page, which is linked, has every interval."""
    return evidence.summary()


def write(readme: Path) -> None:
    """Put a line per record between the marks of a page; ValueError if the marks are not there."""
    page = readme.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{readme} does not hold the lines {BEGIN!r} and {END!r} once; put them back.")
    before, rest = page.split(BEGIN)
    files.write_file(readme, f"{before}{BEGIN}\n{block()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    write(root() / "README.md")
    print("README.md: written")
