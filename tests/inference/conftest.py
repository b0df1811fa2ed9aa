import pytest

from tests.inference.browsing import FLAGS, chromium


@pytest.fixture(scope="module")  # no longer: while it is open, no other test can run an event loop
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=30_000)
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()
