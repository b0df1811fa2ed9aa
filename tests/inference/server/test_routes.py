"""The routes over a real socket: what is asked for comes back, and nothing that is sent brings the server down."""

import base64
import io
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot.errors import ConfigError
from anyglot.inference import command
from anyglot.inference.server.command import load_config
from anyglot.inference.server.config import Limits
from anyglot.lm.vocabulary import SPECIALS
from tests.inference.server.serving import (
    KEY,
    ScriptedEngine,
    ask,
    at_most,
    audio_part,
    image_part,
    png,
    running,
    script_of,
    until,
    wav,
)

TEXT = "a <b>red</b> kite"


@pytest.fixture
def engine(model):
    return ScriptedEngine(script_of(model))


@pytest.fixture
def address(model, engine):
    with running(model, engine) as address:
        yield address


@pytest.fixture(scope="module")
def shared(model):
    """A server for what never reaches its engine."""
    with running(model, ScriptedEngine(script_of(model))) as address:
        yield address


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def streamed(address, **more):
    return events(ask(address, stream=True, **more))


def test_a_reply_lists_its_parts(address):
    reply = ask(address).json()
    (choice,) = reply["choices"]
    assert (reply["object"], reply["model"], choice["finish_reason"]) == ("chat.completion", "tiny", "stop")
    text, image, more = choice["message"]["content"]
    assert text == more == {"type": "text", "text": TEXT}
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (12, 8)
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_text_alone_is_a_string(address):
    message = ask(address, modalities=["text"]).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": TEXT}


def test_speech_comes_as_openai_s_audio_too(address):
    message = ask(address, anyglot={"to": "speech"}).json()["choices"][0]["message"]
    (part,) = message["content"]
    data = base64.b64decode(message["audio"]["data"])
    assert part["audio_url"]["url"].endswith(message["audio"]["data"])
    sound, rate = soundfile.read(io.BytesIO(data))
    assert (rate, len(sound)) == (800, 12 * 80)


def test_a_reply_can_be_sent_back_as_it_came(address, engine):
    message = ask(address).json()["choices"][0]["message"]
    spoken = ask(address, anyglot={"to": "speech"}).json()["choices"][0]["message"]
    del spoken["audio"]  # OpenAI's clients name it by its id, and nothing is kept here
    messages = [{"role": "user", "content": "hello"}, message, {"role": "user", "content": "and now?"}, spoken]
    reply = httpx.post(f"{address}/v1/chat/completions", json={"model": "tiny", "messages": messages})
    assert reply.status_code == 200
    assert len(engine.requests[2].prompt) > len(engine.requests[0].prompt) + 6


def test_streamed_chunks_add_up_to_the_reply(address):
    chunks = streamed(address, stream_options={"include_usage": True}, anyglot={"tokens": True})
    whole = ask(address).json()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0]["role"] == "assistant"
    own = [delta["anyglot"] for delta in deltas if "anyglot" in delta]
    before, after = TEXT, TEXT
    assert "".join(delta.get("content", "") for delta in deltas) == before + after
    kinds = [event["event"] for event in own if event["event"] != "tokens"]
    assert kinds == ["span_start", "media_ready"]
    (ready,) = [event for event in own if event["event"] == "media_ready"]
    assert ready["part"] == whole["choices"][0]["message"]["content"][1]
    assert ready["index"] == 1
    ids = [token for event in own if event["event"] == "tokens" for token in event["ids"]]
    assert len(ids) == chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    named = {kind for event in own if event["event"] == "tokens" for kind in event["kinds"]}
    assert named == {"text", "control", "sizes", "image", "special"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-1] == "stop"


def test_streamed_speech_is_the_sound(address):
    chunks = streamed(address, anyglot={"to": "speech"})
    own = [chunk["choices"][0]["delta"].get("anyglot", {}) for chunk in chunks]
    pieces = [base64.b64decode(event["pcm16"]) for event in own if event.get("event") == "media_chunk"]
    assert len(pieces) > 1
    (ready,) = [event["part"] for event in own if event.get("event") == "media_ready"]
    sound, _ = soundfile.read(io.BytesIO(base64.b64decode(ready["audio_url"]["url"].split(",")[1])), dtype="int16")
    played = np.frombuffer(b"".join(pieces), "<i2")
    assert len(played) == len(sound)
    assert np.abs(played.astype(int) - sound).max() <= 1


def test_several_answers_have_seeds_of_their_own(address, engine):
    own = {"image": {"top_k": 5}, "audio": {"temperature": 0.25}}
    reply = ask(address, n=3, seed=7, temperature=0.5, anyglot={"sampling": own}).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [request.seed for request in engine.requests] == [7, 8, 9]
    sampling = engine.requests[0].sampling
    temperatures = {name: config.temperature for name, config in sampling.items()}
    assert temperatures == {"text": 0.5, "image": 0.5, "speech": 0.25}
    assert (sampling["image"].top_k, sampling["text"].top_k) == (5, 0)
    chunks = streamed(address, n=2)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


def test_what_is_asked_for_reaches_the_engine(address, engine):
    ask(address, modalities=["text", "audio"], max_completion_tokens=9, anyglot={"guidance": 3.0})
    ask(address, anyglot={"to": "image"})
    first, second = engine.requests
    assert (first.modalities, first.max_tokens, first.guidance, first.spans) == (("text", "speech"), 9, 3.0, 0)
    assert (second.modalities, second.spans, second.max_tokens) == (("image",), 1, 2048)


def test_what_requests_leave_open_is_as_the_server_was_told(model, engine):
    with running(model, engine, guidance=2.0, max_tokens=77) as address:
        ask(address)
        ask(address, anyglot={"guidance": 1.0})
        httpx.post(f"{address}/v1/images/generations", json={"model": "tiny", "prompt": "a kite"})
    assert [request.guidance for request in engine.requests] == [2.0, 1.0, 2.0]
    assert engine.requests[0].max_tokens == 77


def test_the_settings_are_those_of_generate():
    words = ["temperature=0.3", "top_k=5", "top_p=0.9", "sampling.image.top_p=0.5", "max_tokens=100", "guidance=2"]
    served, generated = load_config(words), command.load_config(words)
    assert {field.name: getattr(served, field.name) for field in fields(generated)} == vars(generated)
    with pytest.raises(ConfigError, match="unknown key 'generate'"):
        load_config(["generate.temperature=0.3"])
    with pytest.raises(ConfigError, match="set slots to 2 or more"):
        load_config(["guidance=2", "slots=1"])


@pytest.mark.parametrize("most", [99, 98])
def test_what_items_say_counts_as_text(model, engine, most):
    """It is text for a tokenizer to read, in whatever part it comes."""
    data = base64.b64encode(b"x" * 99).decode()
    parts = (
        {"type": "item", "item": {"id": "x" * 39, "title": "y" * 60}},
        {"type": "item", "item": {"id": "x" * 99}},
        {"type": "file", "file": {"modality": "item", "data": data}},
    )
    with running(model, engine, limits=Limits(characters=most)) as address:
        for part in parts:
            message = ask(address, [part]).json()["error"]["message"]
            assert ("this model reads no 'item'" if most == 99 else "1 parts with 99") in message


def test_a_model_that_knows_no_chats_is_asked_in_plain_documents(model):
    engine = ScriptedEngine(lambda request: [*model.text.encode("hi"), *model.vocabulary.mark("eos")])
    with running(model, engine, chat=False) as address:
        assert ask(address, "kite").json()["choices"][0]["message"]["content"] == "hi"
    assert engine.requests[0].prompt == [*model.vocabulary.mark("bos"), *model.text.encode("kite")]


def test_images(address):
    body = {"model": "tiny", "prompt": "a kite", "n": 2, "seed": 1}
    reply = httpx.post(f"{address}/v1/images/generations", json=body).json()
    pictures = [Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))) for image in reply["data"]]
    assert [picture.size for picture in pictures] == [(12, 8)] * 2
    (image,) = httpx.post(f"{address}/v1/images/generations", json={"prompt": "x", "response_format": "url"}).json()[
        "data"
    ]
    assert image["url"].startswith("data:image/png;base64,")


def test_speech(address):
    found = {}
    for kind in ("wav", "flac", "pcm"):
        body = {"model": "tiny", "input": "a kite", "response_format": kind}
        response = httpx.post(f"{address}/v1/audio/speech", json=body)
        assert response.status_code == 200
        found[kind] = response.content
    sounds = [soundfile.read(io.BytesIO(found[kind]), dtype="int16")[0] for kind in ("wav", "flac")]
    assert np.abs(np.subtract(*sounds, dtype=int)).max() <= 1  # libsndfile rounds one of them otherwise
    assert np.abs(np.frombuffer(found["pcm"], "<i2").astype(int) - sounds[0]).max() <= 1


def test_transcriptions(address, engine):
    def post(data, **more):
        form = {"model": "tiny", **more}
        return httpx.post(f"{address}/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data=form)

    assert post(wav()).json() == {"text": TEXT}
    assert post(wav(), response_format="text").text == TEXT
    assert engine.requests[0].modalities == ("text",)
    assert engine.requests[0].sampling["text"].temperature == 0
    for response in (post(b"no sound"), post(wav(), response_format="srt"), post(wav(), temperature="nan"), post(b"")):
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_models_health_and_metrics(address):
    (card,) = httpx.get(f"{address}/v1/models").json()["data"]
    assert (card["id"], card["modalities"]) == ("tiny", ["text", "image", "speech"])
    assert httpx.get(f"{address}/v1/models/tiny").json() == card
    assert httpx.get(f"{address}/v1/models/other").status_code == 404
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    written = ask(address, "hello").json()["usage"]["completion_tokens"]
    httpx.get(f"{address}/nobody/knows")
    counts = httpx.get(f"{address}/metrics").text
    assert f"anyglot_written_tokens_total {written}.0" in counts
    assert 'anyglot_responses_total{route="/v1/chat/completions",status="200"} 1.0' in counts
    assert 'anyglot_responses_total{route="none",status="404"} 1.0' in counts
    assert "nobody" not in counts


def said(part):
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    "more",
    [
        {"model": "other"},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "nothing"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        said({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}),
        said({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        said({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}),
        {"messages": [{"role": "user", "content": "x" * 100_001}]},
        {"messages": [{"role": "user", "content": "x"}] * 129},
        {"messages": [{"role": "user", "content": "x " * 30_000}]},
        {"messages": [{"role": "user", "content": "ab" * 50_000}]},
        {"messages": [{"role": "user", "content": "\ufdfa" * 100_000}]},
        {"n": 9}, {"n": 2**31 - 1}, {"n": 2**31 - 1, "stream": True}, {"n": 0}, {"n": 1e9}, {"n": True}, {"n": "2"},
        {"max_tokens": 8193}, {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 5, "max_completion_tokens": 5},
        {"temperature": -1}, {"temperature": 1e9}, {"top_p": 0}, {"top_p": 2},
        {"seed": -1}, {"seed": 2**64}, {"seed": 1.5},
        {"modalities": []}, {"modalities": ["smell"]}, {"anyglot": {"to": "smell"}}, {"anyglot": {"two": "image"}},
        {"anyglot": {"sampling": {"smell": {}}}}, {"anyglot": {"sampling": {"image": {"top_k": -1}}}},
        {"anyglot": {"guidance": -1}},
        {"stop": ["x"]}, {"tools": []}, {"frequency_penalty": 1}, {"logit_bias": {}}, {"max_token": 3},
        {"audio": {"voice": "alloy", "format": "wav"}},
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_in_one_line(shared, more):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **more}
    with at_most(mib=300):
        response = httpx.post(f"{shared}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == (404 if "model" in more else 400)
    assert response.json()["error"]["message"]
    assert len(response.text) < 1000
    assert httpx.get(f"{shared}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"\0", b"{}" * 2,
        b"[" * 200_000, b'{"a":' * 100_000, b"1" * 100_000, b'{"model": "tiny", "messages": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "\\udfff", "content": "x"}], "\\ud800": 1}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "top_p": Infinity}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "anyglot": {"to": "\\ud800"}}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "motion", "motion": {"fps": 1e999}}]}]}',
    ],
)  # fmt: skip
def test_broken_json_is_refused(shared, body):
    for path in ("chat/completions", "images/generations", "audio/speech"):
        response = httpx.post(f"{shared}/v1/{path}", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [' + b"0," * 2_000_000 + b"0]}",
        b'{"messages": [{"role": "user", "content": [' + b"{}," * 1_000_000 + b"{}]}]}",
        b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
        b'{"anyglot": {"sampling": {' + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}}}",
        b'{"messages": [{"role": "user", "content": [{"type": "motion", "motion": {"fps": 1, "joints": ['
        + b"[[]]," * 500_000
        + b"[]]}}]}]}",
    ],
    ids=["messages", "parts", "keys", "sampling", "joints"],
)
def test_millions_of_mistakes_cost_one(shared, body):
    headers = {"content-type": "application/json"}
    with at_most(mib=600):  # of client and server
        response = httpx.post(f"{shared}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert response.status_code in (400, 413)
    assert len(response.text) < 1000


def test_forms_of_other_sites_are_not_json(shared):
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"content-type": kind} if kind else {}
        assert httpx.post(f"{shared}/v1/chat/completions", content=body, headers=headers).status_code == 400


def test_text_stays_text(model, address, engine):
    words = " ".join([*SPECIALS, "<image>", "<|im_start|>", "<s>", "</s>", "[INST]", "<bos>", "image.control", "\0"])
    ask(address, words)
    (request,) = engine.requests
    start = [*model.vocabulary.mark("bos"), *model.vocabulary.mark("user")]
    end = [*model.vocabulary.mark("end_of_turn"), *model.vocabulary.mark("assistant")]
    said = request.prompt[len(start) : -len(end)]
    assert request.prompt == [*start, *said, *end]
    assert all(token < model.vocabulary.text_size for token in said)
    assert model.text.decode(said) == words


def test_media_of_requests_become_codes(model, address, engine):
    assert ask(address, [image_part(png()), {"type": "text", "text": "?"}, audio_part(wav())]).status_code == 200
    kinds = model.vocabulary.describe(engine.requests[0].prompt).modality
    assert {1, 2} <= set(kinds.tolist())


def test_a_client_that_leaves_frees_its_place(model, engine):
    engine.hold.set()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running(model, engine) as address:
        for stream in (False, True):
            body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": 2, "stream": stream}
            content = json.dumps(body)
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20) as connection:
                connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
                until(lambda: engine.running == 2)
            until(lambda: not engine.busy)
        assert engine.cancelled == [0, 1, 2, 3]
        assert httpx.get(f"{address}/metrics").text.count('route="/v1/chat/completions"') > 0


def test_a_client_that_leaves_in_the_middle_frees_its_place(model):
    endless = ScriptedEngine(lambda request: model.text.encode("again and ") * 500)
    with running(model, endless) as address:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
            endless.hold.set()  # or it could be through before the server hears that nobody listens
        until(lambda: not endless.busy)
        assert endless.cancelled == [0]


def test_no_more_requests_are_taken_than_fit(model, engine):
    engine.hold.set()
    with running(model, engine, limits=Limits(requests=3)) as address, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(ask, address) for _ in range(3)]
        until(lambda: len(engine.requests) == 3)
        refused = ask(address)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        engine.hold.clear()
        assert [call.result().status_code for call in held] == [200] * 3
        assert ask(address).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(model, engine):
    engine.hold.set()
    with running(model, engine, limits=Limits(request_seconds=0.2)) as address:
        assert ask(address).status_code == 504
        assert ask(address, stream=True).status_code == 504
        until(lambda: not engine.busy)


def test_a_failure_of_the_engine_is_an_error_and_not_silence(model, engine):
    engine.hold.set()
    with running(model, engine) as address, ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, address, stream=stream) for stream in (False, True)]
        until(lambda: engine.running == 2)
        engine.breaks = True
        assert [call.result().status_code for call in calls] == [503, 503]
        assert "out of memory" not in calls[0].result().text
        assert httpx.get(f"{address}/health").status_code == 503
        assert ask(address).status_code == 503


def test_two_hundred_at_once_and_none_lost(model):
    engine = ScriptedEngine(script_of(model), slots=8)
    with running(model, engine) as address:

        def one(number):
            with httpx.Client(timeout=60) as client:
                body = {"model": "tiny", "messages": [{"role": "user", "content": f"{number}"}], "modalities": ["text"]}
                return client.post(f"{address}/v1/chat/completions", json=body).json()

        with ThreadPoolExecutor(200) as pool:
            replies = list(pool.map(one, range(200)))
        assert {reply["choices"][0]["message"]["content"] for reply in replies} == {TEXT}
        assert len({reply["id"] for reply in replies}) == 200
        assert not engine.busy


def test_who_says_nothing_is_hung_up_on(model, engine):
    with running(model, engine, limits=Limits(header_seconds=1.0)) as address:
        port = int(address.rpartition(":")[2])
        for said in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(said)
                assert connection.recv(1) == b""


def test_a_connection_that_is_used_goes_on(shared):
    with httpx.Client(timeout=60) as client:
        assert client.get(f"{shared}/health").status_code == 200
        (connection,) = client._transport._pool.connections
        assert client.get(f"{shared}/health").status_code == 200
        assert client._transport._pool.connections == [connection]


def test_a_request_that_takes_longer_than_its_headers_may_is_not_hung_up_on(model, engine):
    engine.hold.set()
    limits = Limits(header_seconds=1.0)
    with running(model, engine, limits=limits) as address, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, address)
        until(lambda: engine.running == 1)
        time.sleep(1.5 * limits.header_seconds)
        engine.hold.clear()
        assert asked.result().status_code == 200


def test_huge_headers_and_bodies_are_refused_by_a_real_server(model, engine):
    with running(model, engine, limits=replace(Limits(), body_bytes=1000)) as address:
        assert ask(address, "x" * 2000).status_code == 413
        assert httpx.get(f"{address}/health", headers={"x": "x" * 100_000}).status_code in (400, 431)

        def slowly():
            for _ in range(100):
                yield b"x" * 100
                time.sleep(0.001)

        assert httpx.post(f"{address}/v1/chat/completions", content=slowly()).status_code == 413
        assert httpx.get(f"{address}/health").status_code == 200


def test_the_key_opens_a_real_server(model, engine):
    with running(model, engine, key=KEY) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert httpx.get(f"{address}/v1/models", auth=("", KEY)).status_code == 200
