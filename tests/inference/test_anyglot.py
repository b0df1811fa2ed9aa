"""A model with its tokenizers: loading, prompts, writing each modality, and pieces that do not belong together."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, GrammarError, MediaError, MismatchError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.events import MediaReady, parts_of
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.grammar import Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.text import TextTokenizer
from tests.inference.bundles import make_bundle, make_tokenizers, write_picture, write_sound


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def model(bundle):
    return Anyglot.load(bundle)


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(bundle, tmp_path / "copy")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return {
        "text": Part("text", text="black cat"),
        "image": Part("image", path=write_picture(folder / "cat.png")),
        "speech": Part("speech", path=write_sound(folder / "cat.wav")),
    }


def text_of(parts):
    return "".join(part.text for part in parts if part.type == "text")


def test_a_plain_prompt_is_the_document_without_its_end(model, media):
    prompt = model.prompt([Message(None, [media["text"], media["image"], media["speech"]])])
    (turn,) = model.grammar.parse([*prompt, model.vocabulary.eos])
    words, picture, sound = turn.spans
    assert model.text.decode(words.codes.tolist()) == "black cat"
    pixels = model.tokenizers["image"].read(media["image"].path)
    assert np.array_equal(picture.codes, model.tokenizers["image"].encode([pixels])[0].numpy())
    assert picture.codes.shape == (2, 3, 1)
    assert sound.codes.shape == (7, 2)  # 500 samples, 80 a frame


def test_a_chat_prompt_ends_where_the_assistant_speaks(model, media):
    said = [
        Message("system", [Part("text", text="be kind")]),
        Message("user", [media["image"], Part("text", text="what is this?")]),
        Message("assistant", [Part("text", text="a red kite")]),
        Message("user", [Part("text", text="the sun")]),
    ]
    prompt = model.prompt(said)
    special = model.vocabulary.special
    assert prompt[0] == special("bos")
    assert prompt[-1] == special("assistant")
    turns = model.grammar.parse([*prompt, special("end_of_turn"), special("eos")])
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [span.modality for span in turns[1].spans] == ["image", "text"]
    assert model.prompt([]) == [special("bos")]


@pytest.mark.parametrize(
    "typed", ["<image>", "<|im_start|>assistant", "</s><eos>", "\x00\u2581 [IMG] <0x41>", "🐈 naïve"]
)
def test_what_a_user_types_stays_text(model, typed):
    prompt = model.prompt([Message("user", [Part("text", text=typed)])])
    inner = prompt[2:-2]  # bos user ... end_of_turn assistant
    assert max(inner) < model.vocabulary.text_size
    assert model.text.decode(inner) == typed


@pytest.mark.parametrize("source", ["text", "image", "speech"])
@pytest.mark.parametrize("to", ["image", "speech", "text"])
def test_every_modality_from_every_other(model, media, source, to):
    replies = model.write([[Message(None, [media[source]])]] * 3, to=to, max_tokens=60, seed=4)
    for reply in replies:
        assert reply.prompt == model.prompt([Message(None, [media[source]])])
        assert {part.type for part in reply.parts} == {to}
        (turn,) = model.grammar.parse([*reply.prompt, *reply.ids] + [model.vocabulary.eos] * (to != "text"))
        if to == "text":
            assert text_of(reply.parts) == model.text.decode(reply.ids[:-1])
            continue
        (part,) = reply.parts
        assert np.array_equal(part.codes, turn.spans[-1].codes)
        decoded = model.tokenizers[to].decode([torch.from_numpy(part.codes)])[0]
        assert np.array_equal(part.data, decoded)
        assert part.data.dtype == (np.uint8 if to == "image" else np.float32)
        assert np.isfinite(part.data).all()
    assert len({tuple(reply.ids) for reply in replies}) == 3  # each draws from a seed of its own


def test_a_prompt_s_answer_depends_on_its_seed_alone(model, media):
    prompts = [[Message(None, [media[name]])] for name in ("speech", "text", "image")]
    together = model.write(prompts, max_tokens=40, seed=7)
    alone = [model.write([prompt], max_tokens=40, seed=7 + index)[0] for index, prompt in enumerate(prompts)]
    assert [reply.ids for reply in together] == [reply.ids for reply in alone]


FAR = 1000.0  # a model that is not trained says much the same after every prompt


def test_guidance_leads_media_alone(model, media):
    said = [[Message("user", [media["text"]])]]
    for to in ("image", "text"):
        plain, guided = (model.write(said, to, 40, 3, guidance)[0].ids for guidance in (1.0, FAR))
        assert (plain == guided) == (to == "text")
    (streamed,) = (event for event in model.stream(said[0], "image", 40, 3, FAR) if isinstance(event, MediaReady))
    assert np.array_equal(streamed.part.codes, model.write(said, "image", 40, 3, FAR)[0].parts[0].codes)


@pytest.mark.parametrize("to", ["image", "speech", "text", None])
def test_events_are_the_reply(model, media, to):
    said = [Message("user", [media["text"], media["image"]])]
    for seed in range(3):
        (reply,) = model.write([said], to=to, max_tokens=30, seed=seed)
        events = list(model.stream(said, to=to, max_tokens=30, seed=seed))
        assert events[-1].prompt_tokens == len(reply.prompt)
        assert events[-1].written_tokens == len(reply.ids)
        assert events[-1].reason == ("length" if len(reply.ids) > 30 else "stop")
        parts = parts_of(events)
        assert [(part.type, part.text) for part in parts] == [(part.type, part.text) for part in reply.parts]
        assert all(np.array_equal(a.data, b.data) for a, b in zip(parts, reply.parts, strict=True))


def test_a_stream_is_refused_before_it_begins(model, media):
    with pytest.raises(MismatchError, match="writes no 'video'"):
        model.stream([Message(None, [media["text"]])], to="video")


def test_a_chat_is_answered_by_one_turn(model, media):
    said = [Message("user", [media["text"], media["speech"]])]
    for seed in range(6):
        (reply,) = model.write([said], max_tokens=40, seed=seed)
        turns = model.grammar.parse([*reply.prompt, *reply.ids, model.vocabulary.eos])
        assert [turn.role for turn in turns] == ["user", "assistant"]
        assert reply.parts
        again = model.prompt([*said, Message("assistant", reply.parts), Message("user", [])])
        assert [turn.role for turn in model.grammar.parse([*again, model.vocabulary.end_of_turn, model.vocabulary.eos])]


def test_reading_gives_back_what_was_serialised(model):
    random = np.random.default_rng(0)
    spans = [
        Span("text", np.array(model.text.encode("a red kite"))),
        Span("image", random.integers(0, 200, (2, 3, 1))),
        Span("text", np.array(model.text.encode(" and "))),
        Span("speech", random.integers(0, 16, (5, 2))),
    ]
    ids = model.grammar.serialise([Turn(None, spans)]).ids.tolist()
    parts = model.read(ids[:1], ids[1:])
    assert [part.type for part in parts] == ["text", "image", "text", "speech"]
    assert [part.text for part in parts if part.type == "text"] == ["a red kite", " and "]
    assert np.array_equal(parts[1].codes, spans[1].codes)
    assert parts[1].data.shape == (8, 12, 3)
    assert len(parts[3].data) == 5 * 80
    with pytest.raises(GrammarError):
        model.read(ids[:1], [model.vocabulary.bos])


def test_sampling_is_set_per_modality(bundle, media):
    greedy = {name: SamplingConfig(temperature=0) for name in ("text", "image")}
    model = Anyglot.load(bundle, sampling=greedy)
    prompts = [[Message(None, [media["text"]])]] * 2

    def written(to):
        return [reply.ids for reply in model.write(prompts, to=to, max_tokens=30)]

    assert written("image")[0] == written("image")[1]
    assert written("speech")[0] != written("speech")[1]


def test_an_unknown_modality_is_refused(model, media):
    with pytest.raises(MismatchError, match="writes no 'video'; it knows: text, image, speech"):
        model.write([[Message(None, [media["text"]])]], to="video")
    with pytest.raises(MediaError, match="reads no 'video'"):
        model.prompt([Message(None, [Part("video", path="a.mp4")])])


def test_bad_media_are_named(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="bad.png"):
        model.prompt([Message(None, [Part("image", path=tmp_path / "bad.png")])])
    with pytest.raises(MediaError, match="'image' has neither a file nor data"):
        model.prompt([Message(None, [Part("image")])])


def test_codes_of_another_tokenizer_are_refused(model):
    codes = np.zeros((2, 2, 1), np.int64)
    ours = model.tokenizers["image"].fingerprint
    for made_by in ("", ours):
        assert model.encode([Part("image", codes=codes, tokenizer=made_by)])[0].codes is codes
    with pytest.raises(MismatchError, match=f"made by tokenizer feed, this model's is {ours}"):
        model.encode([Part("image", codes=codes, tokenizer="feed")])


# ---------------------------------------------------------------------- pieces missing, damaged or of others


def fails(directory, error, *words):
    with pytest.raises(error) as caught:
        Anyglot.load(directory)
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("config.json", ["no model here", "config.json is missing"]),
        ("vocabulary.json", ["vocabulary.json", "no vocabulary here"]),
        ("model.safetensors", ["the model cannot be loaded"]),
        ("tokenizers/text", ["tokenizers/text", "no tokenizer here"]),
        ("tokenizers/speech", ["tokenizers/speech", "no tokenizer here"]),
        ("tokenizers/image/model.safetensors", ["tokenizers/image/model.safetensors"]),
    ],
)
def test_a_missing_piece_is_named(copy, piece, words):
    path = copy / piece
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    fails(copy, AnyglotError, copy, *words)


@pytest.mark.parametrize("name", ["text", "image", "speech"])
def test_another_tokenizer_is_refused(copy, name):
    shutil.rmtree(copy / "tokenizers" / name)
    if name == "text":
        other = TextTokenizer.train(["something else altogether"] * 20, size=300)
    else:
        other = make_tokenizers(seed=5)[name == "speech"]
    other.save_pretrained(copy / "tokenizers" / name)
    ours = Vocabulary.load(copy)
    made_with = ours.text_fingerprint if name == "text" else ours.modality(name).fingerprint
    fails(copy, MismatchError, f"the {name} tokenizer", other.fingerprint, made_with)


def test_a_tokenizer_of_another_modality_is_refused(copy):
    shutil.rmtree(copy / "tokenizers" / "speech")
    shutil.copytree(copy / "tokenizers" / "image", copy / "tokenizers" / "speech")
    fails(copy, MismatchError, "the speech tokenizer has fingerprint")


def test_another_vocabulary_is_refused(copy):
    before = Vocabulary.load(copy)
    modalities = [(modality.spec, modality.fingerprint) for modality in before.modalities]
    other = Vocabulary.build(before.text_size, before.text_fingerprint, modalities, max_size=9)
    other.save(copy)
    fails(copy, MismatchError, "model.safetensors", before.fingerprint, other.fingerprint)


def test_a_model_with_too_few_rows_is_refused(model):
    large = Vocabulary.build(10**6, model.text.fingerprint)
    with pytest.raises(MismatchError, match="rows|ids"):
        Anyglot(model.model, large, model.text, {})


def test_a_modality_without_tokenizer_is_refused(model):
    with pytest.raises(MismatchError, match="modality 'speech', but no tokenizer"):
        Anyglot(model.model, model.vocabulary, model.text, {"image": model.tokenizers["image"]})


@pytest.mark.parametrize("damage", ["cut", "lacking", "shape"])
def test_damaged_weights_are_refused(copy, damage):
    path = copy / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
        fails(copy, AnyglotError, copy, "cannot be loaded")
        return
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    if damage == "lacking":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:5].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    fails(copy, AnyglotError, copy, name if damage == "lacking" else "cannot be loaded")


def test_a_config_that_no_library_knows_is_one_line(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    fails(copy, AnyglotError, "cannot be loaded")


def test_codes_that_stand_for_nothing_cost_their_part_alone(model, caplog, monkeypatch):
    def refuse(codes):
        raise MediaError("no such item")

    text, image = Span("text", np.array(model.text.encode("a cat"))), Span("image", np.zeros((2, 3, 1), int))
    ids = model.grammar.serialise([Turn(None, [text, image])]).ids.tolist()
    monkeypatch.setattr(model.tokenizers["image"], "decode", refuse)
    parts = model.read(ids[:1], ids[1:])
    assert parts[0].text == "a cat"
    assert (parts[1].data, parts[1].codes.shape) == (None, (2, 3, 1))
    assert "image codes that stand for nothing: no such item" in caplog.text
