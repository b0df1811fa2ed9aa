"""The server over the engine itself: what it answers is what the model writes, whoever else is being answered."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from anyglot.data.documents import Message, Part
from anyglot.inference.engine import Engine
from tests.inference.server.serving import ask, image_part, png, running, until


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model.decoder, slots=4, length=256)


@pytest.fixture(scope="module")
def address(model, engine):
    with running(model, engine) as address:
        yield address


def content(address, prompt, **more):
    response = ask(address, prompt, **more)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_answers_are_what_the_model_writes(model, address):
    said = [Message("user", [Part("text", text="a red kite")])]
    (alone,) = model.write([said], to="text", max_tokens=12, seed=5)
    text = "".join(part.text for part in alone.parts)
    assert content(address, "a red kite", seed=5, max_tokens=12, anyglot={"to": "text"}) == text


def test_answers_do_not_depend_on_who_else_asks(address):
    asks = [
        {"prompt": f"number {number}", "seed": number, "max_tokens": 10, "anyglot": {"to": to, "guidance": guidance}}
        for number, (to, guidance) in enumerate([("text", 1.0), ("image", 1.0), ("image", 3.0), ("speech", 1.0)] * 3)
    ]
    alone = [content(address, **one) for one in asks]
    with ThreadPoolExecutor(len(asks)) as pool:
        together = list(pool.map(lambda one: content(address, **one), asks))
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    assert same == len(asks)


def test_a_prompt_longer_than_a_slot_is_refused(address, engine):
    assert "room" in ask(address, "kite " * 300).json()["error"]["message"]
    assert not engine.busy


def test_a_client_that_leaves_frees_the_engine_s_slots(address, engine):
    body = {"model": "tiny", "messages": [{"role": "user", "content": [image_part(png())]}], "stream": True, "n": 4}
    for _ in range(3):
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=20) as response:
            assert response.status_code == 200
            next(response.iter_lines())
        until(lambda: not engine.busy)
    assert content(address, "x", max_tokens=3, anyglot={"to": "text"})
