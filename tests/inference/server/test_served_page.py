"""The page and the server together: each reads what the other writes. The model is not trained."""

import pytest

from tests.inference.browsing import opened
from tests.inference.server.serving import KEY, ScriptedEngine, png, running, script_of


def test_the_page_and_the_server_read_each_other(browser, model):
    with running(model, ScriptedEngine(script_of(model))) as address, opened(browser, f"{address}/") as chat:
        choices = chat.page.get_by_role("group", name="Answer with").get_by_role("radio")
        assert choices.evaluate_all("all => all.map(e => e.value)") == ["", "text", "image", "speech"]
        chat.page.get_by_role("button", name="Settings").click()
        chat.page.get_by_role("checkbox", name="Show the tokens").check()
        chat.page.get_by_role("spinbutton", name="Temperature").fill("0.5")
        chat.page.keyboard.press("Escape")
        files = [{"name": "a.png", "mimeType": "image/png", "buffer": png()}]
        chat.page.locator("input[type=file]").set_input_files(files)
        chat.send("what is this?")
        words = chat.page.locator(".reply").last.locator("p.text")
        assert words.all_inner_texts() == ["a <b>red</b> kite"] * 2
        assert chat.until(".reply img", "image => image.naturalWidth") > 0
        kinds = chat.page.locator(".run .kind").all_text_contents()
        assert {"Text", "Picture"} < set(kinds)
        chat.page.get_by_role("radio", name="Picture").check()
        chat.send("another")  # with it goes all that was said, pictures of both sides among it
        assert chat.page.locator(".reply").last.locator(".parts > *").count() == 1
        assert chat.until(".reply img", "image => image.naturalWidth") > 0
        chat.expect(chat.page.get_by_role("alert")).to_have_count(0)


def test_what_the_server_refuses_is_told(browser, model):
    with running(model, ScriptedEngine(script_of(model))) as address, opened(browser, f"{address}/") as chat:
        files = [{"name": "a.npy", "mimeType": "", "buffer": b"nothing"}]
        chat.page.locator("input[type=file]").set_input_files(files)
        chat.send("walk")
        chat.expect(chat.page.get_by_role("alert")).to_contain_text("motion")
        assert len(chat.complaints) == 1  # the browser's own line about the status
        chat.complaints.clear()


@pytest.mark.parametrize(("password", "status"), [(KEY, 200), ("another-key-of-letters", 401)])
def test_the_browser_asks_for_the_key(browser, model, password, status):
    with running(model, ScriptedEngine(script_of(model)), KEY) as address:
        page = browser.new_page(http_credentials={"username": "anybody", "password": password})
        assert page.goto(address).status == status
        if status == 200:  # what the page asks for itself brings the key, too
            page.wait_for_selector("#model:not(:empty)")
        page.close()
