"""The web page of `anyglot serve` in a real browser, against a server that says what each test tells it to."""

import base64
import io
import re
import threading
import wave
from itertools import chain, cycle

import pytest

from tests.inference import stand_in
from tests.inference.browsing import opened
from tests.inference.stand_in import PAGE, StandIn, end, event, span, text

SCRIPTS = sorted(PAGE.rglob("*.js"))


# ---------------------------------------------------------------------- what needs no browser


def test_nothing_becomes_markup_or_code():
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.srcdoc|DOMParser"
    assert len(SCRIPTS) > 15
    for script in SCRIPTS:
        assert not re.search(forbidden, script.read_text("utf-8")), script.name
    html = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html)


def test_nothing_is_asked_of_another_server():
    for file in [*SCRIPTS, *PAGE.glob("*.html"), *PAGE.glob("*.css"), *PAGE.glob("*.svg")]:
        found = re.findall(r"\b(?:https?:)?//[\w-]+\.[\w./-]+", file.read_text("utf-8"))
        assert [url for url in found if not url.endswith(("www.w3.org/2000/svg", "www.w3.org/1999/xlink"))] == [], file


def test_files_that_are_named_are_there():
    for script in SCRIPTS:
        for name in re.findall(r'from "(\..*?)"', script.read_text("utf-8")):
            assert (script.parent / name).is_file(), f"{script.name}: {name}"
    for name in re.findall(r'(?:href|src)="([\w./-]+)', (PAGE / "index.html").read_text("utf-8")):
        assert (PAGE / name).is_file(), name


def test_icons_that_are_named_are_drawn():
    drawn = set(re.findall(r'<symbol id="([\w-]+)"', (PAGE / "icons.svg").read_text("utf-8")))
    sources = "".join(file.read_text("utf-8") for file in [*SCRIPTS, PAGE / "index.html"])
    used = set(re.findall(r'(?:data-icon="|\bicon\("|Button\("|setIcon\([\w.]+, ")([\w-]+)"', sources))
    assert len(used) > 10
    assert used <= drawn
    assert {*stand_in.MODALITIES, "other", "theme-system", "theme-light", "theme-dark", "play", "pause"} <= drawn


# ---------------------------------------------------------------------- a browser


@pytest.fixture
def chat(browser):
    server = StandIn()
    with opened(browser, server.url, server) as chat:
        yield chat
    server.close()


def test_text_and_pictures_and_items_are_shown(chat):
    parts = [*span(1, "image", stand_in.image_part(), (6, 8)), *span(3, "item", stand_in.item_part())]
    chat.send("draw it", *text("Here", " it is"), *parts[:2], *text("and this"), *parts[2:], *end(tokens=60))
    assert chat.page.locator(".reply p.text").all_inner_texts() == ["Here it is", "and this"]
    assert chat.until(".reply img", "image => image.naturalWidth") == 40
    chat.expect(chat.page.locator(".reply .frame.image .note")).to_have_text(re.compile("40 . 30"))
    chat.expect(chat.page.locator(".reply .frame.item")).to_contain_text("The Third Man")
    kinds = chat.page.locator(".reply .parts > *").evaluate_all("all => all.map(e => e.dataset.modality ?? 'text')")
    assert kinds == ["text", "image", "text", "item"]
    chat.expect(chat.page.locator(".reply footer")).to_contain_text("60 tokens")
    chat.page.locator(".reply .picture").click()
    chat.expect(chat.page.get_by_role("dialog")).to_be_visible()
    chat.page.keyboard.press("Escape")
    chat.expect(chat.page.get_by_role("dialog")).to_have_count(0)


def test_a_medium_that_is_being_written_is_announced(chat):
    begun, ready = span(0, "image", stand_in.image_part(), (4, 8))
    seen = threading.Event()
    chat.begin("draw", begun, seen, ready, *end())
    chat.expect(chat.page.locator(".reply .frame.image[aria-busy]")).to_contain_text(re.compile("4 . 8"))
    seen.set()
    chat.expect(chat.page.locator(".reply img")).to_be_visible()
    chat.expect(chat.page.locator(".reply .frame")).to_have_count(1)


def test_speech_is_heard_while_it_is_written(chat):
    samples = stand_in.tone(0.6)
    chunks = [
        event(
            "media_chunk",
            index=0,
            modality="speech",
            sample_rate=16000,
            pcm16=base64.b64encode(piece.tobytes()).decode(),
        )
        for piece in (samples[:1000], samples[1000:4000], samples[4000:])
    ]
    opening = event("span_start", index=0, modality="speech", grid=[])
    ready = event("media_ready", index=0, modality="speech", part=stand_in.speech_part(samples))
    begun, heard = threading.Event(), threading.Event()
    chat.begin("say it", opening, chunks[0], begun, *chunks[1:], heard, ready, *end())
    chat.until(".reply .frame.speech", "e => Number(e.dataset.scheduled) > 0")
    begun.set()
    chat.expect(chat.page.locator(".reply .frame.speech")).to_have_attribute("data-scheduled", str(len(samples)))
    assert chat.attribute(".reply audio", "audio => audio.src") == ""  # heard before it is whole
    heard.set()
    assert chat.until(".reply audio", "audio => audio.duration || 0") == pytest.approx(0.6, abs=0.01)
    chat.expect(chat.page.locator(".reply .frame.speech")).not_to_have_class(re.compile("live"))  # it has sounded
    chat.page.get_by_role("button", name="Play").click()
    chat.until(".reply audio", "audio => audio.currentTime > 0.1")
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value)"
    assert chat.attribute(".reply .wave canvas", painted)


def test_videos_play(chat):
    pytest.importorskip("av", reason="PyAV is not installed (extra: video)")
    chat.send("film it", *span(0, "video", stand_in.video_part(), (2, 6, 6)), *end())
    assert chat.until(".reply video", "video => video.videoWidth") == 48
    assert chat.attribute(".reply video", "video => video.duration") == pytest.approx(1.0, abs=0.15)
    chat.until(".reply video", "video => video.currentTime > 0.2")


def test_skeletons_move_and_turn(chat):
    chat.send("swing", *span(0, "motion", stand_in.motion_part(30)), *end())
    chat.until(".reply .frame.motion", "e => Number(e.dataset.drawn) > 5")
    assert chat.attribute(".reply .frame.motion", "e => e.dataset.frames") == "30"
    chat.page.get_by_role("button", name="Pause").click()
    chat.page.get_by_role("slider", name="Frame").fill("7")
    seen = "canvas => canvas.toDataURL()"
    before = chat.attribute(".reply .motion canvas", seen)
    chat.page.get_by_role("slider", name="Frame").fill("20")
    other_frame = chat.attribute(".reply .motion canvas", seen)
    chat.page.locator(".reply .motion canvas").press("ArrowLeft")
    turned = chat.attribute(".reply .motion canvas", seen)
    assert len({before, other_frame, turned}) == 3
    drawn = chat.attribute(".reply .frame.motion", "e => e.dataset.drawn")
    chat.page.wait_for_timeout(150)
    assert chat.attribute(".reply .frame.motion", "e => e.dataset.drawn") == drawn  # at rest, nothing is drawn


def test_nothing_moves_for_readers_who_asked_for_that(chat):
    pytest.importorskip("av", reason="PyAV is not installed (extra: video)")
    chat.page.emulate_media(reduced_motion="reduce")
    parts = [*span(0, "motion", stand_in.motion_part()), *span(1, "video", stand_in.video_part())]
    chat.send("swing", *parts, *end())
    assert chat.until(".reply video", "video => video.videoWidth") == 48
    chat.until(".reply .frame.motion", "e => Number(e.dataset.drawn) > 0")  # it is drawn, at rest
    chat.page.wait_for_timeout(300)
    assert chat.attribute(".reply .frame.motion input", "seek => seek.value") == "0"
    assert chat.attribute(".reply video", "video => video.paused && video.currentTime === 0")


def test_molecules_are_drawn(chat):
    graph = {"nodes": [{"label": str(i), "x": i, "y": i % 2} for i in range(5)], "edges": [{"from": 0, "to": 4}]}
    network = {"type": "graph", "graph": {"smiles": "", **graph}}
    chat.send("ethanol", *span(0, "graph", stand_in.graph_part()), *span(1, "graph", network), *end())
    molecule = chat.page.locator(".reply svg.molecule")
    chat.expect(molecule.locator(".node")).to_have_count(3)
    chat.expect(molecule.locator(".edge")).to_have_count(2)
    assert molecule.locator("text").all_text_contents() == ["OH"]  # carbons are corners
    chat.expect(chat.page.locator(".smiles")).to_have_text("CCO")
    chat.expect(chat.page.locator(".reply svg.network circle")).to_have_count(5)


def test_what_cannot_be_shown_can_be_saved(chat):
    file = {"type": "file", "file": {"modality": "action_prise", "data": base64.b64encode(b"abc").decode()}}
    bare = {"type": "motion", "motion": {"fps": 20, "parents": [], "joints": [], "features": [[1.0, 2.0]] * 9}}
    nothing = span(2, "item", None)  # codes that stand for nothing
    chat.send("go", *span(0, "action_prise", file), *span(1, "motion", bare), *nothing, *text("so"), *end())
    frames = chat.page.locator(".reply .frame")
    for frame, said in enumerate(("3 bytes", "9 frames", "codes that stand for nothing")):
        chat.expect(frames.nth(frame)).to_contain_text(said)
    chat.send("more", *text("ok"), *end())
    sent = chat.server.requests[1]["messages"][1]["content"]
    bare["motion"] = {"fps": 20, "features": [[1.0, 2.0]] * 9}  # how it is drawn is not said again
    assert sent == [file, bare, {"type": "text", "text": "so"}]


def test_whatever_a_model_writes_is_shown_as_text(chat):
    evil = "<b>bold</b><img src=x onerror=alert(1)><script>alert(2)</script>\n  two blanks"
    graph = stand_in.graph_part()
    graph["graph"]["nodes"][2]["label"] = evil
    parts = [*span(1, "item", stand_in.item_part(evil)), *span(2, "graph", graph)]
    chat.send(evil, *text(evil[:20], evil[20:]), *parts, *end())
    assert chat.page.locator(".reply p.text").inner_text() == evil
    assert chat.page.locator(".said p.text").inner_text() == evil
    chat.expect(chat.page.locator(".reply .item-card strong")).to_contain_text("<b>bold</b>")
    assert chat.page.locator("#log b, #log script, #log img").count() == 0


def test_the_policy_forbids_what_is_not_the_pages_own(chat):
    """Even if some text did become markup, it would neither run nor load."""
    tried = chat.page.evaluate(
        """async () => {
            const refused = new Promise(resolve => document.addEventListener("securitypolicyviolation", resolve));
            const script = document.createElement("script");
            script.textContent = "window.hacked = true";
            document.body.append(script);
            const event = await refused;
            const asked = await fetch("http://127.0.0.1:9/", {mode: "no-cors"}).then(() => "sent", () => "refused");
            return [event.effectiveDirective, Boolean(window.hacked), asked];
        }"""
    )
    assert tried == ["script-src-elem", False, "refused"]
    assert len(chat.complaints) > 1  # the browser says so in the console
    assert all("Content Security Policy" in complaint for complaint in chat.complaints)
    chat.complaints.clear()


def test_a_request_says_what_was_chosen_and_what_was_said(chat):
    chat.send("hello", *text("Hi"), *span(1, "graph", stand_in.graph_part()), *end())
    chat.page.get_by_role("radio", name="Picture").check()
    chat.page.get_by_role("button", name="Settings").click()
    for name, value in (("Temperature", "0.3"), ("Guidance", "2"), ("Seed", "11"), ("Most tokens", "99")):
        chat.page.get_by_role("spinbutton", name=name).fill(value)
    chat.page.get_by_role("checkbox", name="Show the tokens").check()
    chat.page.keyboard.press("Escape")
    chat.send("again", *text("ok"), *end("length"))
    first, second = chat.server.requests
    assert first["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert first["anyglot"] == {"tokens": False}
    assert isinstance(first["seed"], int)
    assert "temperature" not in first  # the server's own
    assert first["model"] == "stand-in"
    assert first["stream"] is True
    assert second["anyglot"] == {"to": "image", "guidance": 2, "tokens": True}
    assert (second["temperature"], second["seed"], second["max_tokens"]) == (0.3, 11, 99)
    graph = {"type": "graph", "graph": {"smiles": "CCO"}}  # how it was drawn is not said again
    assert second["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}, graph]}
    chat.expect(chat.page.locator(".reply footer").last).to_contain_text("reached the limit of tokens")
    chat.page.reload()
    assert chat.page.locator("input[name=temperature]").input_value() == "0.3"  # settings are kept


def test_settings_that_cannot_be_are_not_sent(chat):
    chat.page.get_by_role("button", name="Settings").click()
    chat.page.get_by_role("spinbutton", name="Temperature").fill("-1")
    chat.page.keyboard.press("Escape")
    chat.message.fill("hello")
    chat.message.press("Enter")
    chat.expect(chat.page.locator("#settings")).to_be_visible()
    assert chat.server.requests == []
    assert chat.message.input_value() == "hello"


def test_tokens_are_shown_when_asked_for(chat):
    tokens = [
        event("tokens", ids=[5, 6], kinds=["text", "text"]),
        event("tokens", ids=[900, 301, 302, 901], kinds=["control", "image", "image", "control"]),
    ]
    chat.send("draw", *text("hm"), *tokens, *span(1, "image", stand_in.image_part()), *end())
    chat.expect(chat.page.locator(".tokens .total")).to_have_text("6 tokens")
    chat.expect(chat.page.locator(".ribbon span")).to_have_count(4)
    chat.page.locator(".tokens summary").click()
    assert chat.page.locator(".run .kind").all_inner_texts() == ["Text", "control", "Picture", "control"]
    assert chat.page.locator(".ids span").all_inner_texts() == ["5", "6", "900", "301", "302", "901"]


def test_the_text_of_a_reply_can_be_copied(chat):
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.send("go", *text("to be", " copied"), *end())
    chat.page.get_by_role("button", name="Copy the text").click()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "to be copied"


def test_files_are_attached_and_sent(chat):
    files = [
        {"name": "a.png", "mimeType": "image/png", "buffer": stand_in.picture()},
        {"name": "b.wav", "mimeType": "audio/wav", "buffer": stand_in.wav(stand_in.tone())},
        {"name": "c.json", "mimeType": "application/json", "buffer": stand_in.motion_file(stand_in.motion_part())},
        {"name": "d.bvh", "mimeType": "", "buffer": b"HIERARCHY"},
        {"name": "e.smi", "mimeType": "", "buffer": b"CCO ethanol\n"},
    ]
    chat.page.locator("input[type=file]").set_input_files(files)
    chat.expect(chat.page.locator(".attached")).to_have_count(5)
    chat.page.get_by_role("button", name="Remove e.smi").click()
    chat.page.get_by_role("button", name="Attach").click()
    chat.page.get_by_role("textbox", name="Molecule").fill("CCN")
    chat.page.get_by_role("textbox", name="Item").fill("1212")
    chat.page.get_by_role("button", name="Add", exact=True).click()
    chat.send("what are these?", *text("things"), *end())
    content = chat.server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "audio_url", "motion", "file", "graph", "item", "text"]
    assert content[0]["image_url"]["url"] == stand_in.data_url("image/png", stand_in.picture())
    assert content[1]["audio_url"]["url"] == stand_in.data_url("audio/wav", stand_in.wav(stand_in.tone()))
    assert content[2] == stand_in.motion_part()
    assert content[3:6] == [
        {"type": "file", "file": {"modality": "motion", "data": base64.b64encode(b"HIERARCHY").decode()}},
        {"type": "graph", "graph": {"smiles": "CCN"}},
        {"type": "item", "item": {"id": "1212"}},
    ]
    chat.expect(chat.page.locator(".attached")).to_have_count(0)
    chat.expect(chat.page.locator(".said .frame")).to_have_count(6)


def test_files_can_be_dropped_and_pasted(chat):
    drop = """(kind) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["CCO"], "ethanol.smi"));
        const event = kind === "paste" ? new ClipboardEvent(kind, {clipboardData: transfer, bubbles: true})
            : new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true});
        document.querySelector("textarea").dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    assert chat.page.evaluate(drop, "dragover")
    chat.expect(chat.page.locator("body")).to_have_class("dropping")
    assert chat.page.evaluate(drop, "drop")
    chat.expect(chat.page.locator("body")).not_to_have_class("dropping")
    chat.expect(chat.page.locator(".attached")).to_have_count(1)
    chat.page.evaluate(drop, "paste")
    chat.expect(chat.page.locator(".attached")).to_have_count(2)


def test_files_that_are_nothing_are_refused_by_name(chat):
    for name, content, reason in (
        ("notes.txt", b"hello", "not a picture"),
        ("broken.json", b"{", "not JSON"),
        ("other.json", b'{"fps": 20, "parents": [-1], "joints": [[[0, 1]]]}', "a motion is"),
    ):
        chat.page.locator("input[type=file]").set_input_files(
            {"name": name, "mimeType": "text/plain", "buffer": content}
        )
        chat.expect(chat.page.locator(".notice")).to_contain_text(f"{name}: ")
        chat.expect(chat.page.locator(".notice")).to_contain_text(reason)
    assert chat.page.locator(".attached").count() == 0


def test_the_microphone_becomes_a_wav(chat):
    chat.page.get_by_role("button", name="Record").click()
    chat.expect(chat.page.locator(".notice")).to_contain_text(re.compile("Recording 0:0[1-9]"))
    chat.page.get_by_role("button", name="End the recording").click()
    chat.expect(chat.page.locator(".attached")).to_have_count(1)
    chat.send("listen", *text("a beep"), *end())
    url = chat.server.requests[0]["messages"][0]["content"][0]["audio_url"]["url"]
    assert url.startswith("data:audio/wav;base64,")
    with wave.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sound:
        assert sound.getnchannels() == 1
        assert sound.getsampwidth() == 2
        assert 0.3 < sound.getnframes() / sound.getframerate() < 60
        assert max(abs(byte - 128) for byte in sound.readframes(10**6)[1::2]) > 1  # not silent


@pytest.mark.parametrize("how", ["button", "key"])
def test_a_reply_can_be_stopped(chat, how):
    chat.server.replies.append(chain(text("one "), cycle([*text("more "), 0.1])))  # without end
    chat.begin("count")
    chat.expect(chat.page.locator(".reply p.text")).to_contain_text("one more")
    chat.message.fill("next")
    chat.message.press("Enter")  # does not cut the reply off
    assert len(chat.server.requests) == 1
    chat.page.get_by_role("button", name="Stop").click() if how == "button" else chat.page.keyboard.press("Escape")
    chat.expect(chat.page.locator(".reply footer")).to_contain_text("stopped")
    assert chat.server.left.wait(30)
    chat.send("next", *text("ok"), *end())
    assert chat.server.requests[1]["messages"][1]["content"][0]["text"].startswith("one more")


def test_errors_are_told_and_can_be_tried_again(chat):
    chat.server.replies.append((400, "this model reads no 'graph'; it knows: text"))
    chat.message.fill("hello")
    chat.message.press("Enter")
    alert = chat.page.get_by_role("alert")
    chat.expect(alert).to_have_text("this model reads no 'graph'; it knows: text")
    chat.send("cut off", *text("a"))
    chat.expect(alert.last).to_contain_text("ended in the middle")
    chat.send("fails", *text("b"), {"error": {"message": "the model has failed"}}, "data: [DONE]\n\n")
    chat.expect(alert.last).to_have_text("the model has failed")
    said = [
        (message["role"], message["content"][0]["text"]) for message in chat.server.requests[-1]["messages"]
    ]  # what was not answered at all is not sent again
    assert said == [("user", "cut off"), ("assistant", "a"), ("user", "fails")]
    chat.server.replies.append([*text("better"), *end()])
    chat.page.get_by_role("button", name="Ask again").last.click()
    chat.expect(chat.page.locator(".reply").last).to_contain_text("better")
    assert chat.page.locator(".reply").count() == 3
    assert chat.server.requests[-1]["messages"] == chat.server.requests[-2]["messages"]
    assert chat.server.requests[-1]["seed"] == chat.server.requests[-2]["seed"] + 1
    complaints = [complaint for complaint in chat.complaints if "400" not in complaint]  # the browser's own line
    assert complaints == []
    chat.complaints.clear()


def test_a_new_chat_forgets_the_old(chat):
    chat.send("hello", *text("hi"), *end())
    chat.page.get_by_role("button", name="New chat").click()
    chat.expect(chat.page.get_by_role("heading", level=2).first).to_be_visible()
    chat.send("who am I?", *text("?"), *end())
    assert len(chat.server.requests[1]["messages"]) == 1


def test_a_reload_keeps_the_conversation(chat):
    evil = "<b>bold</b><img src=x onerror=alert(1)>"
    spans = [*span(1, "image", stand_in.image_part()), *span(2, "speech", stand_in.speech_part(stand_in.tone()))]
    chat.send(evil, *text("so ", evil), *spans, *span(3, "item", stand_in.item_part(evil)), *end("length", 60))
    chat.server.replies.append((400, "no room"))
    chat.begin("and?")
    chat.expect(chat.page.get_by_role("alert")).to_have_text("no room")
    seed = chat.server.requests[1]["seed"]
    facts = chat.page.locator(".reply .facts").all_inner_texts()
    chat.page.reload()
    chat.expect(chat.page.locator("#model")).not_to_be_empty()
    chat.expect(chat.page.locator("#welcome")).to_be_hidden()
    assert chat.page.locator(".said p.text").all_inner_texts() == [evil, "and?"]
    assert chat.page.locator(".reply p.text").all_inner_texts() == [f"so {evil}"]
    assert chat.until(".reply img", "image => image.naturalWidth") == 40
    assert chat.until(".reply audio", "audio => audio.duration || 0") == pytest.approx(0.5, abs=0.01)
    chat.expect(chat.page.locator(".reply .item-card strong")).to_contain_text("<b>bold</b>")
    assert chat.page.locator("#log b").count() == 0
    chat.expect(chat.page.get_by_role("alert")).to_have_text("no room")
    assert chat.page.locator(".reply .facts").all_inner_texts() == facts
    chat.server.replies.append([*text("better"), *end()])
    chat.page.get_by_role("button", name="Ask again").last.click()
    chat.expect(chat.page.locator(".reply p.text").last).to_have_text("better")
    third = chat.server.requests[2]
    assert third["messages"] == chat.server.requests[1]["messages"]
    assert len(third["messages"]) == 3
    assert third["seed"] == seed + 1
    chat.complaints.clear()  # of the status 400


def test_a_new_chat_is_not_there_again_after_a_reload(chat):
    chat.send("hello", *text("hi"), *end())
    chat.page.get_by_role("button", name="New chat").click()
    chat.page.reload()
    chat.expect(chat.page.locator("#welcome")).to_be_visible()
    assert chat.page.locator("#log > *").count() == 0
    assert "hello" not in chat.page.evaluate("JSON.stringify(sessionStorage)")
    assert "hello" not in chat.page.evaluate("JSON.stringify(localStorage)")


def test_a_reload_in_the_middle_keeps_what_was_written(chat):
    goes_on = threading.Event()
    chat.begin("draw", *text("here it"), goes_on, *text(" is"), *end())
    chat.expect(chat.page.locator(".reply p.text")).to_have_text("here it")
    chat.page.reload()
    goes_on.set()
    chat.expect(chat.page.locator(".reply p.text")).to_have_text("here it")
    # the browser may cut the connection before it tells the page that it leaves, or after
    chat.expect(chat.page.locator(".reply")).to_contain_text(re.compile("stopped|ended in the middle"))
    chat.expect(chat.page.get_by_role("button", name="Stop")).to_have_count(0)


def test_of_a_conversation_that_is_too_large_the_newest_is_kept(chat):
    for number in range(3):
        file = {"type": "file", "file": {"modality": "action_prise", "data": "A" * 1_600_000}}
        chat.send(f"number {number}", *span(0, "action_prise", file), *end())
    for _ in range(2):
        chat.page.reload()
        chat.expect(chat.page.locator(".missing")).to_have_text("What was said before was too large to be kept.")
        assert chat.page.locator(".said p.text").all_inner_texts() == ["number 1", "number 2"]
    chat.page.get_by_role("button", name="New chat").click()
    chat.page.reload()
    chat.expect(chat.page.locator(".missing")).to_have_count(0)


def test_the_newest_stays_in_sight_until_the_reader_scrolls_away(chat):
    long = text(*(f"line {i}\n" for i in range(80)))
    chat.send("go", *long, *span(1, "image", stand_in.image_part()), *end())
    footer = chat.page.locator(".reply footer")
    chat.expect(footer).to_be_in_viewport()
    chat.page.locator("main").evaluate("main => main.scrollTo(0, 0)")
    down = chat.page.get_by_role("button", name="To the newest")
    chat.expect(down).to_be_visible()
    chat.page.get_by_role("button", name="Enlarge").evaluate("button => button.remove()")  # the page changes its height
    chat.page.wait_for_timeout(100)
    assert chat.page.locator("main").evaluate("main => main.scrollTop") == 0
    down.click()
    chat.expect(footer).to_be_in_viewport()
    chat.expect(down).to_be_hidden()


def test_everything_is_reached_by_keys(chat):
    chat.expect(chat.message).to_be_focused()
    chat.page.keyboard.type("one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    assert chat.message.input_value() == "one\ntwo"
    names = []
    for _ in range(5):
        chat.page.keyboard.press("Tab")
        names.append(chat.page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.name"))
    assert names == ["Attach", "Record", "to", "Settings", "Send"]
    chat.page.locator("input[name=to]").first.focus()
    chat.page.keyboard.press("ArrowRight")
    chat.page.keyboard.press("ArrowRight")
    assert chat.page.evaluate("document.querySelector('input[name=to]:checked').value") == "image"
    unnamed = """() => [...document.querySelectorAll("button, input, textarea")].filter(e =>
        !e.ariaLabel && !e.labels?.length && !e.textContent.trim() && !e.hidden).map(e => e.outerHTML)"""
    assert chat.page.evaluate(unnamed) == []


@pytest.mark.parametrize("width", [320, 390])
def test_narrow_screens_hold_everything(chat, width):
    chat.page.set_viewport_size({"width": width, "height": 640})
    parts = [stand_in.image_part(), stand_in.speech_part(stand_in.tone()), stand_in.motion_part()]
    parts += [stand_in.graph_part(), stand_in.item_part("A title of a film that is longer than a line")]
    names = ["image", "speech", "motion", "graph", "item"]
    spans = [chunk for i, (name, part) in enumerate(zip(names, parts, strict=True)) for chunk in span(i, name, part)]
    chat.send("w" * 200, *text("x" * 300), *spans, *end())
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = f"all => all.filter(e => e.getBoundingClientRect().right > {width}).map(e => e.className)"
    assert chat.page.locator("#log *:not(svg *)").evaluate_all(wide) == []
    chat.expect(chat.page.get_by_role("button", name="Settings")).to_be_in_viewport(ratio=1)
    chat.expect(chat.page.locator(".send")).to_be_in_viewport(ratio=1)


CONTRAST = """(pairs) => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const light = (name) => {
        const probe = document.createElement("i");
        probe.style.color = `var(${name})`;
        document.body.append(probe);
        canvas.fillStyle = getComputedStyle(probe).color;
        probe.remove();
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    return pairs.map(pair => pair.map(light).sort((a, b) => b - a)).map(([a, b]) => (a + 0.05) / (b + 0.05));
}"""


def test_colours_can_be_read_in_light_and_in_dark(chat):
    """WCAG 2.2's AA: 4.5 for words, 3 for drawings."""
    words = [(ink, ground) for ink in ("--ink", "--faint", "--error") for ground in ("--paper", "--card")]
    words += [("--ink", "--sunk"), ("--paper", "--ink")]
    drawings = [(f"--{name}", "--card") for name in stand_in.MODALITIES]
    papers = set()
    for scheme in ("light", "dark"):
        chat.page.emulate_media(color_scheme=scheme)
        papers.add(chat.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        assert min(chat.page.evaluate(CONTRAST, words)) >= 4.5
        assert min(chat.page.evaluate(CONTRAST, drawings)) >= 3
    assert len(papers) == 2
    chat.page.get_by_role("button", name="Colours").click()  # light, whatever the system says
    assert chat.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") in papers
    assert chat.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
