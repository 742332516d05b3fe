"""The site: built from what is committed, small, whole, and alive in a browser without a kernel."""

import json
import time

import pytest
from headless import asked_elsewhere, move_embedded, needs_chromium, served, typeset

pytest.importorskip("sphinx_book_theme", reason="needs the extra `book`")
pytest.importorskip("myst_nb", reason="needs the extra `book`")
import book  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from mclir_nb import root  # noqa: E402

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built book, and the seconds of processor time that it took."""
    place, started = tmp_path_factory.mktemp("book"), time.process_time()
    book.build(place / "site", place / "source")
    return place / "site", time.process_time() - started


@pytest.fixture(scope="module")
def address(site):
    """The book on the loopback interface."""
    with served(site[0]) as found:
        yield found


def test_the_book_is_whole_and_small(site):
    folder, seconds = site
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 40e6
    assert seconds < 180
    for notebook in (root() / "notebooks").glob("[0-9]*.ipynb"):
        assert (folder / "notebooks" / f"{notebook.stem}.html").is_file()
    api = (folder / "api" / "method.html").read_text()
    assert "spn_loss" in api and "HistoryModels" in api
    assert "learning_rate" in (folder / "recipes.html").read_text()
    assert not book.broken_links(folder) and not book.from_elsewhere(folder)


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x">b</a> <a href="https://x.org">x</a> <img src="c.png">')
    (tmp_path / "b.html").write_text("")
    assert book.broken_links(tmp_path) == ["a.html: c.png"]


def test_what_is_fetched_from_elsewhere_is_found(tmp_path):
    away, local = "//cdn.org/x", "static/x"
    page = '<script defer src="{0}.js"></script><a href="{0}.html">x</a><img alt="" src=\'{0}.png\'>'
    page += '<link rel="stylesheet" href="{0}.css">'
    (tmp_path / "a.html").write_text(page.format(f"https:{away}") + page.format(local))
    (tmp_path / "b.css").write_text(f"@import url({away}.css); a {{ background: url('{local}.png') }}")
    found = [f"a.html: https:{away}.{kind}" for kind in ("js", "png", "css")] + [f"b.css: {away}.css"]
    assert book.from_elsewhere(tmp_path) == found


def test_search_finds_a_page(browser, address):
    browser.get(f"{address}/search.html?q=HistoryModels")
    found = WebDriverWait(browser, 60).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert any("api/" in link.get_attribute("href") for link in found)


def test_every_chapter_opens(browser, address, site):
    for page in sorted((site[0] / "notebooks").glob("*.html")):
        browser.get(f"{address}/notebooks/{page.name}")
        assert browser.find_element(By.CSS_SELECTOR, "article h1").text
        broken = (
            "return [...document.querySelectorAll('article img')].filter(i => i.complete && !i.naturalWidth).length"
        )
        assert browser.execute_script(broken) == 0
        embedded = page.read_text().count('class="mclir-embedded"')
        assert move_embedded(browser) >= embedded
        notebook = json.loads((root() / "notebooks" / f"{page.stem}.ipynb").read_text())
        text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        formulas = typeset(browser) if "$" in text else []
        assert len(formulas) == len(browser.find_elements(By.CSS_SELECTOR, "article .math.notranslate"))
        assert bool(formulas) == ("$" in text) and all(width > 5 and height > 5 for width, height in formulas)
        assert asked_elsewhere(browser) == []


def test_colab_where_there_is_an_address(monkeypatch):
    options = book.settings()["html_theme_options"]
    assert "launch_buttons" not in options or options["repository_url"]
    monkeypatch.setattr(book, "repository", lambda: "https://github.com/somebody/workbook")
    options = book.settings()["html_theme_options"]
    assert options["repository_url"].endswith("workbook") and "colab" in options["launch_buttons"]["colab_url"]
