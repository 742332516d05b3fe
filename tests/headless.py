"""A headless Chromium without a network, for the tests marked `browser`."""

import contextlib
import functools
import http.server
import shutil
import threading

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1500,1800""".split()


OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


def chromium(profile):
    """A driver with a profile of its own that reaches this machine only; `quit` it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, OFFLINE, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(400)
    return driver


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing about each file."""


@contextlib.contextmanager
def served(folder):
    """The address of a folder on the loopback interface."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def typeset(browser) -> list:
    """Wait for MathJax; the size in pixels of every formula of the page."""
    browser.set_script_timeout(120)
    browser.execute_async_script("MathJax.Hub.Queue(arguments[0])")
    sizes = "return [...document.querySelectorAll('.MathJax')].map(m => [m.offsetWidth, m.offsetHeight])"
    assert not browser.find_elements(By.CSS_SELECTOR, ".MathJax_Error, .merror")
    return browser.execute_script(sizes)


def asked_elsewhere(browser) -> list:
    """What the page asked other machines for."""
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    return [name for name in browser.execute_script(script) if not name.startswith(("http://127.0.0.1:", "data:"))]


def move_embedded(browser) -> int:
    """Press a key on every slider of the page's embedded views; each must change what is seen. Returns how many."""
    moved = 0
    for view in browser.find_elements(By.CSS_SELECTOR, ".mclir-embedded"):
        assert not view.find_elements(By.XPATH, "./img"), "the still stands beside the sliders"
        for slider in view.find_elements(By.CSS_SELECTOR, "input[type=range]"):
            shown, at_end = view.find_element(By.CSS_SELECTOR, ".mclir-picture"), slider.get_attribute("max")
            before = shown.screenshot_as_png
            slider.send_keys(Keys.ARROW_LEFT if slider.get_attribute("value") == at_end else Keys.ARROW_RIGHT)
            name = slider.find_element(By.XPATH, "..").text
            changed = lambda _, s=shown, b=before: s.screenshot_as_png != b  # noqa: E731
            WebDriverWait(browser, 60).until(changed, f"{name!r} changes nothing")
            moved += 1
        assert all(image.get_attribute("alt") for image in view.find_elements(By.CSS_SELECTOR, "img"))
    return moved
