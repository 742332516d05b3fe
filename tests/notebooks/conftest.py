"""A browser for the tests of pages."""

import pytest


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from headless import chromium  # here: without selenium these tests are skipped, and the others are not

    driver = chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()
