"""Notebooks in a real JupyterLab in headless Chromium: a key on every slider must change its picture."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from trimming import ROOT, TRIMMED

pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
from headless import move_embedded, needs_chromium  # noqa: E402
from live_views import MAKERS  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from mclir_nb.views import embedded  # noqa: E402

pytestmark = [pytest.mark.browser, needs_chromium]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # draw every cell, seen or not
}
GALLERY = ["from live_views import MAKERS", *(f"MAKERS[{name!r}]()" for name in MAKERS)]
READY = """
const w = window.jupyterapp?.shell?.currentWidget;
return w?.context?.isReady && w.sessionContext.session?.kernel?.status === 'idle'"""
RUN_ALL = """
window.ran = null;
jupyterapp.commands.execute('notebook:run-all-cells').then(() => { ran = 'all'; }, e => { ran = String(e); })"""
RAN = "return window.ran"
ERRORS = """
const cells = jupyterapp.shell.currentWidget.content.model.cells;
return Array.from({length: cells.length}, (_, i) => cells.get(i))
  .flatMap(c => c.type === 'code' ? c.outputs.toJSON() : [])
  .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)
  .concat([...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.textContent)
    .filter(text => /Error displaying widget|Loading widget/.test(text)))"""
CHANGE_THEME = """
const [theme, done] = arguments;
jupyterapp.commands.execute('apputils:change-theme', {theme}).then(done, done)"""
CONTRAST = """
const rgb = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = c => c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => {
  while (e && (rgb(getComputedStyle(e).backgroundColor)[3] ?? 1) === 0) e = e.parentElement;
  return e ? rgb(getComputedStyle(e).backgroundColor) : [255, 255, 255]; };
const kinds = '.widget-label, .widget-readout, .widget-html-content div, button, label, figcaption, p';
const texts = [...arguments[0].querySelectorAll(kinds)];
return texts.filter(e => e.offsetParent && e.textContent.trim()).map(e => {
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.trim().slice(0, 40)]; })"""


def with_widgets() -> list:
    """Of every notebook that uses our widgets the version that stands first in tests/trims.toml; one is not slow."""
    table = tomllib.loads((ROOT / "tests" / "trims.toml").read_text())
    first = [TRIMMED / f"{name}-{next(iter(variants))}.ipynb" for name, variants in sorted(table.items())]
    found = [path for path in first if path.exists() and re.search(r"\bwidgets\.\w+\(", path.read_text())]
    return [pytest.param(path, marks=[] if path.stem.startswith("02") else pytest.mark.slow) for path in found]


PATIENCE = 90  # seconds for what takes a fraction of one on an idle machine
TOKEN = secrets.token_hex(16)  # as anybody's JupyterLab has one


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own on the loopback interface: (address, notebook folder)."""
    base = tmp_path_factory.mktemp("lab")
    for name, content in SETTINGS.items():
        path = base / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    (base / "root").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(base / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={base / 'root'}", f"--LabApp.workspaces_dir={base / 'workspaces'}"]
    command += [f"--LabApp.user_settings_dir={base / 'settings'}", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.extension_manager=readonly"]
    with open(base / "lab.log", "w") as log:
        path = os.pathsep.join([str(ROOT / "tests"), os.environ["PYTHONPATH"]])  # of live_views
        environment = os.environ | folders | {"IPYTHONDIR": str(base / "ipython"), "PYTHONPATH": path}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(server, f"http://127.0.0.1:{port}", base / "lab.log")
        yield f"http://127.0.0.1:{port}", base / "root"
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(server, address: str, log: Path) -> None:
    """Until the server answers; at most five minutes, on a busy machine."""
    for _ in range(3000):
        try:
            urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError("JupyterLab did not answer within five minutes:\n" + log.read_text())


def run_all(browser, lab, path: Path) -> list:
    """Open a notebook, run all its cells, and return the live views of its outputs."""
    address, folder = lab
    shutil.copy(path, folder / path.name)
    browser.get(f"{address}/lab/tree/{path.name}?reset&token={TOKEN}")
    WebDriverWait(browser, 240, poll_frequency=0.1).until(lambda d: d.execute_script(READY))
    browser.execute_script(RUN_ALL)  # and look again and again: one request must not last minutes
    assert WebDriverWait(browser, 400, poll_frequency=0.2).until(lambda d: d.execute_script(RAN)) == "all"
    assert browser.execute_script(ERRORS) == []
    outputs = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output:has(.mclir-picture)")
    assert outputs, f"{path.name} uses widgets, and none is on the page"
    return outputs


def patient(browser) -> WebDriverWait:
    """Waits, and looks again where an element was replaced while it was looked at."""
    return WebDriverWait(browser, PATIENCE, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException])


def picture(output) -> bytes:
    return output.find_element(By.CSS_SELECTOR, ".mclir-picture").screenshot_as_png


def sliders(browser, output) -> list:
    """The sliders of a view, once two looks in a row find the same ones and the same picture."""
    seen = [None, None]

    def settled(_):
        time.sleep(0.3)
        seen.append((output.find_elements(By.CSS_SELECTOR, ".noUi-handle"), picture(output)))
        return seen[-1] == seen[-2]

    patient(browser).until(settled)
    return seen[-1][0]


def move_sliders(browser, output) -> int:
    """Press an arrow key on every slider shown and wait for another picture. Returns how many were moved."""
    handles = sliders(browser, output)
    for handle in handles:
        before = picture(output)
        at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.send_keys(Keys.ARROW_LEFT if at_end else Keys.ARROW_RIGHT)
        name = handle.find_element(By.XPATH, "./ancestor::*[contains(@class, 'jupyter-widgets')][1]").text
        patient(browser).until(lambda _, b=before: picture(output) != b, f"slider {name!r} changes nothing")
    return len(handles)


def look_at(browser, folder: Path, name: str, outputs: list) -> None:
    """Every text readable in both themes (contrast 4.5 to 1, WCAG AA); keeps a screenshot of each."""
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        browser.execute_async_script(CHANGE_THEME, theme)
        dark = "return document.body.dataset.jpThemeLight === 'false'"
        wait = WebDriverWait(browser, PATIENCE, poll_frequency=0.1)
        wait.until(lambda d, t=theme, q=dark: d.execute_script(q) == (t == "JupyterLab Dark"))
        time.sleep(0.5)  # colours fade in
        for index, output in enumerate(outputs):
            browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", output)
            for ratio, text in browser.execute_script(CONTRAST, output):
                assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} in {theme}"
            (folder / f"{name}-{index}-{theme[-5:].strip().lower()}.png").write_bytes(output.screenshot_as_png)


def explore(browser, outputs: list) -> int:
    """Use every choice and every slider of the live views; how many sliders were moved."""
    moved = move_embedded(browser)
    for output in outputs:
        assert all(i.get_attribute("alt") for i in output.find_elements(By.CSS_SELECTOR, ".mclir-picture img"))
        buttons = output.find_elements(By.CSS_SELECTOR, ".widget-toggle-buttons button")
        for button in buttons or [None]:
            if button and "mod-active" not in button.get_attribute("class"):
                before = output.text
                button.send_keys(Keys.ENTER)
                patient(browser).until(lambda _, b=before, o=output: o.text != b, "a choice changes nothing")
            moved += move_sliders(browser, output)
    return moved


def test_every_widget(lab, browser, tmp_path):
    notebook = new_notebook(cells=[new_code_cell(source) for source in GALLERY])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "name": "python3"}
    nbformat.write(notebook, tmp_path / "gallery.ipynb")
    outputs = run_all(browser, lab, tmp_path / "gallery.ipynb")
    assert len(outputs) == 4
    assert explore(browser, outputs) == 1 + 9 + 2 + 2
    look_at(browser, tmp_path, "gallery", outputs)


def test_sliders_without_a_kernel(browser, tmp_path):
    """A page that nbconvert made, opened from the disk: stills have become sliders; without scripts they are stills."""
    views = [maker() for name, maker in sorted(MAKERS.items()) if name != "spn_playground"]
    outputs = [new_output("display_data", view._repr_mimebundle_()[0]) for view in views]
    notebook = new_notebook(cells=[new_code_cell("view", outputs=[output]) for output in outputs])
    alive = nbformat.reads(json.dumps(embedded.embed(json.loads(nbformat.writes(notebook)))), 4)
    page = tmp_path / "page.html"
    page.write_text(HTMLExporter().from_notebook_node(alive)[0])
    browser.get(page.as_uri())
    assert move_embedded(browser) == 1 + 2 + 2
    (foot,) = browser.find_elements(By.CSS_SELECTOR, ".mclir-foot img")  # the curves of the training scrubber
    ratio = views[sorted(set(MAKERS) - {"spn_playground"}).index("training_scrubber")].view["foot"].split("/")
    assert foot.size["width"] / foot.size["height"] == pytest.approx(float(ratio[0]) / float(ratio[1]), rel=0.02)
    page.write_text(page.read_text().replace(embedded.SCRIPT, ""))
    browser.get(page.as_uri())
    assert not browser.find_elements(By.CSS_SELECTOR, "input[type=range]")
    stills = browser.find_elements(By.CSS_SELECTOR, ".mclir-embedded > img")
    assert len(stills) == 3 and all(still.is_displayed() and still.get_attribute("alt") for still in stills)


@pytest.mark.parametrize("path", with_widgets(), ids=lambda path: path.stem)
def test_a_notebook_in_jupyterlab(lab, browser, tmp_path, path):
    outputs = run_all(browser, lab, path)
    assert explore(browser, outputs) > 0
    assert browser.execute_script(ERRORS) == []
    look_at(browser, tmp_path, path.stem, outputs)
