"""OpenAI's own client, and Schemathesis with whatever the OpenAPI document allows and does not allow."""

import base64
import io

import httpx
import pytest
import soundfile
from PIL import Image

from tests.inference.server.serving import ScriptedEngine, png, running, script_of, url, wav

TEXT = "a <b>red</b> kite"


@pytest.fixture(scope="module")
def address(model):
    with running(model, ScriptedEngine(script_of(model))) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    openai = pytest.importorskip("openai", reason="pip install openai to test its client")
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_chat(client):
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url(png())}}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    reply = client.chat.completions.create(
        model="tiny", messages=messages, modalities=["text"], max_tokens=50, temperature=0, seed=1
    )
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].finish_reason == "stop"
    again = [*messages, reply.choices[0].message, {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model="tiny", messages=again).usage.prompt_tokens > reply.usage.prompt_tokens


def test_streaming(client):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "draw"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"anyglot": {"tokens": True}},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TEXT * 2
    (ready,) = [
        chunk.choices[0].delta.anyglot["part"]
        for chunk in chunks[:-1]
        if getattr(chunk.choices[0].delta, "anyglot", {}).get("event") == "media_ready"
    ]
    assert ready["type"] == "image_url"
    assert chunks[-1].usage.completion_tokens > 10


def test_speech_in_and_out(client):
    data = base64.b64encode(wav()).decode()
    reply = client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]}
        ],
        modalities=["audio"],
        audio={"voice": "default", "format": "wav"},
    )
    assert len(soundfile.read(io.BytesIO(base64.b64decode(reply.choices[0].message.audio.data)))[0]) == 960
    spoken = client.audio.speech.create(model="tiny", voice="default", input="a kite", response_format="wav")
    assert len(soundfile.read(io.BytesIO(spoken.content))[0]) == 960
    assert client.audio.transcriptions.create(model="tiny", file=("a.wav", wav())).text == TEXT


def test_pictures_and_models(client):
    image = client.images.generate(model="tiny", prompt="a kite", n=2, response_format="b64_json").data[1]
    assert Image.open(io.BytesIO(base64.b64decode(image.b64_json))).size == (12, 8)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_errors_are_openai_s(client):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="data: URL"):
        client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}
            ],
        )


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_whatever_the_schema_allows_or_forbids_is_answered_without_a_failure(address, mode, examples):
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis to test the OpenAPI document")
    from hypothesis import HealthCheck, given, settings

    document = httpx.get(f"{address}/openapi.json").json()
    for kind in document["components"]["schemas"].values():
        if "model" in kind.get("properties", {}):
            kind["properties"]["model"] = {"enum": ["tiny"]}  # else nearly all that it makes up is of another model
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=address)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 8  # all routes but the page's
    for operation in operations:
        if operation.method == "get":
            continue

        @settings(
            max_examples=examples,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy(schemathesis.GenerationMode(mode)))
        def never_fails(case):
            assert case.call(timeout=60).status_code in (200, 400, 404, 405, 413)

        never_fails()
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
