"""The web page as a test uses it: opened in Chromium, written to, waited for."""

import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 60_000  # milliseconds that something may take to happen, on a machine that is busy

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",
]


def chromium() -> str:
    named = os.environ.get("ANYGLOT_CHROMIUM", "")
    if named and not Path(named).exists():
        raise FileNotFoundError(f"ANYGLOT_CHROMIUM={named}")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
    if not found:
        pytest.skip("no Chromium on this machine; install it or set ANYGLOT_CHROMIUM")
    return found


class Chat:
    """The open page. server: whose page it is. complaints: what the browser put into its console."""

    def __init__(self, page, server) -> None:
        from playwright.sync_api import expect

        expect.set_options(timeout=PATIENCE)
        self.page, self.server, self.expect, self.complaints = page, server, expect, []
        self.message = page.get_by_role("textbox", name="Message")

    def send(self, words: str, *reply) -> None:
        """Send a message, and wait for the end of the reply: these chunks, if the server is a stand-in."""
        self.begin(words, *reply)
        self.expect(self.page.locator(".reply").last).not_to_have_class(re.compile("writing"))

    def begin(self, words: str, *reply) -> None:
        if reply:
            self.server.replies.append(list(reply))
        self.message.fill(words)
        self.message.press("Enter")
        self.expect(self.page.locator(".reply").last).to_be_visible()

    def attribute(self, selector: str, script: str):
        return self.page.locator(selector).last.evaluate(script)

    def until(self, selector: str, script: str):
        """The value of a script on an element, once it is not falsy."""
        end_of_patience = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < end_of_patience:
            value = self.attribute(selector, script)
            if value:
                return value
            self.page.wait_for_timeout(30)
        raise AssertionError(f"{selector}: {script} stayed {value}")


@contextmanager
def opened(browser, address: str, server=None):
    """The page at an address. Whatever is done with it, no other server is asked and the console stays clean."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    chat, outside = Chat(page, server), []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
    page.on("console", lambda said: chat.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: chat.complaints.append(str(error)))
    page.goto(address)
    chat.expect(page.locator("#model")).not_to_be_empty()
    yield chat
    context.close()
    assert outside == []
    assert chat.complaints == []
