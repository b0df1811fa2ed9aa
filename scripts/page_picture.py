"""A picture of a conversation on the page of `anyglot serve`, held with a real model in a real browser.

    anyglot serve runs/demo/lm temperature=0.3
    python scripts/page_picture.py docs/images/page.png

The messages are those of one conversation; without any, MESSAGES. One may name the modality of its answer before a
colon, as the page's buttons call it. Needs Chromium ($ANYGLOT_CHROMIUM or on the path) and the extra `dev`.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

MESSAGES = [
    "draw church",
    "and say it",
    "show me how to walk",
    "the molecule menthol, please",
    "find Toy Story",
    "what is it about?",
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Send the messages one by one, wait for each answer, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("messages", nargs="*", default=MESSAGES)
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--size", default="960x2200", help="pixels of the window")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    chromium = os.environ.get("ANYGLOT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5)
        page.goto(arguments.url)
        for number, message in enumerate(arguments.messages, 1):
            to, _, text = message.rpartition(": ")
            page.locator(".choices label", has_text=to or "Any").click()
            page.fill("textarea", text)
            page.keyboard.press("Enter")
            page.locator(".reply footer").nth(number - 1).wait_for(timeout=120_000)
        page.wait_for_timeout(1500)  # players draw their waves
        page.screenshot(path=arguments.out)
        browser.close()


if __name__ == "__main__":
    main()
