"""Language model figures: bits against brute force, checks with planted answers, a whole run on a tiny world."""

import json
import logging
from math import log

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from anyglot.config import typed
from anyglot.data.documents import Document, Message, Part
from anyglot.data.shards import ShardInfo, write_shard
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval import language_model as evaluation
from anyglot.eval import speech
from anyglot.eval.answers import Answer
from anyglot.eval.bits import bits_per_code
from anyglot.eval.checks import Checks
from anyglot.eval.documents import load_documents
from anyglot.eval.records import Records
from anyglot.inference.anyglot import Anyglot, Reply
from anyglot.lm.grammar import Turn
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from tests.inference.bundles import WORDS, make_bundle, write_picture, write_sound


class Deaf:
    """A recogniser that hears the same in everything."""

    def __call__(self, sound, rate):
        assert rate == 800
        assert sound.dtype == np.float32
        return "Black cat."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle, six aligned documents (the last two held out), and their token stores."""
    folder = tmp_path_factory.mktemp("world")
    model = Anyglot.load(make_bundle(folder / "model"))
    make_bundle(folder / "shuffled", model.text, seed=0)
    lines = []
    for number, name in enumerate(WORDS):
        write_picture(folder / f"{number}.png", seed=number)
        write_sound(folder / f"{number}.wav", seed=number)
        parts = [{"type": "text", "text": name}]
        parts += [{"type": "image", "path": f"{number}.png"}, {"type": "speech", "path": f"{number}.wav"}]
        lines.append({"id": f"name_{number}", "split": "heldout" if number > 3 else "train", "parts": parts})
    lines.append({"id": "pictureless", "split": "train", "parts": [{"type": "text", "text": "no picture"}]})
    (folder / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    documents = load_documents([folder / "documents.jsonl"])
    # In training: the first three, under names that say the order.
    write_store(model, folder / "train", [(f"{d.id}#text-image", d) for d in documents[:3]])
    chat = Document(
        "chat", [Message("user", documents[4].turns[0].parts[:2]), Message("assistant", [Part("text", "a")])]
    )
    write_store(model, folder / "heldout", [("a", documents[4]), ("b", documents[5]), ("c", chat)])
    return folder


def write_store(model, path, documents):
    path.mkdir()
    model.vocabulary.save(path)
    made = []
    for name, document in documents:
        turns = [Turn(message.role, model.encode(message.parts)) for message in document.turns]
        for turn in turns:
            for span in turn.spans:
                span.loss = turn.role != "user"
        made.append((name, model.grammar.serialise(turns)))
    info = ShardInfo("job", model.vocabulary.fingerprint, {}, {}, list(model.vocabulary.modality_names))
    write_shard(path / "00000.arrow", made, info)


@pytest.fixture(scope="module")
def model(folder):
    return Anyglot.load(folder / "model")


def mapping(folder, seen="train", modalities=("text", "image", "speech"), **more):
    names = {
        "documents": str(folder / "documents.jsonl"),
        "seen_store": str(folder / seen),
        "modalities": list(modalities),
    }
    return {
        "kind": "language_model",
        "checkpoint": str(folder / "model"),
        "sets": {"names": names},
        "unigram_stores": [str(folder / "train")],
        "heldout_stores": [str(folder / "heldout")],
        "out": str(folder / "out"),
        "max_tokens": 30,
        **more,
    }


def test_bits_per_code_equal_brute_force(folder, model):
    from anyglot.data.shards import TokenStore

    vocabulary, lookup = model.vocabulary, model.vocabulary.lookup
    train, heldout = TokenStore(folder / "train"), TokenStore(folder / "heldout")
    seen = np.concatenate([document.ids for document in train])
    nats, unigram = {"text": [], "image": [], "speech": []}, {"text": [], "image": [], "speech": []}
    for document in heldout:
        ids = torch.from_numpy(document.ids.astype(np.int64))
        log_probabilities = model.model(ids[None]).logits[0].detach().float().log_softmax(-1)
        for place in range(1, len(ids)):
            token = int(ids[place])
            block = vocabulary.blocks[lookup.block[token]]
            if document.loss[place] and block.kind in ("text", "codes"):
                name = vocabulary.modality_names[lookup.modality[token]]
                nats[name].append(-float(log_probabilities[place - 1, token]))
                of_block = int(((seen >= block.start) & (seen < block.end)).sum())
                unigram[name].append(-log((int((seen == token).sum()) + 1) / (of_block + block.size)))
    figures = bits_per_code(model, [str(folder / "heldout")], [str(folder / "train")])
    expected = {}
    for name, unit in (("text", "token"), ("image", "code"), ("speech", "code")):
        expected[f"lm.bits_per_{name}_{unit}_heldout"] = np.mean(nats[name]) / log(2)
        expected[f"lm.bits_per_{name}_{unit}_heldout_unigram"] = np.mean(unigram[name]) / log(2)
    assert len(nats["image"]) == 2 * 6  # the picture of the chat is the user's, and bears no loss
    assert figures == pytest.approx(expected, rel=1e-4)


def test_bits_of_sub_codes_add_up_to_those_of_their_code(model, tmp_path):
    specs = [(tokenizer.spec, tokenizer.fingerprint) for tokenizer in model.tokenizers.values()]
    vocabulary = Vocabulary.build(model.text.size, model.text.fingerprint, specs, max_size=8, factors={"speech": 2})
    network = build_model(ModelConfig(hidden=32, layers=1, heads=4, key_value_heads=2, max_length=512), vocabulary.size)
    factored = Anyglot(network, vocabulary, model.text, model.tokenizers)
    with torch.no_grad():
        network.get_input_embeddings().weight.zero_()  # each id is as likely as any other
    codes = np.random.default_rng(0).integers(0, 16, (7, 2))
    document = Document("a", [Message(None, [Part("speech", codes=codes)])])
    write_store(factored, tmp_path / "store", [("a", document)])
    store = [str(tmp_path / "store")]
    figures = bits_per_code(factored, store, store)
    ids = network.get_output_embeddings().weight.shape[0]
    assert figures["lm.bits_per_speech_code_heldout"] == pytest.approx(2 * log(ids) / log(2))
    assert 3 < figures["lm.bits_per_speech_code_heldout_unigram"] <= 5  # about 4, of 16 codes


# ---------------------------------------------------------------------- checks


def answer(document, modality, **content):
    return Answer(document, Reply([], [], [Part(modality, **content)] if content else []))


@pytest.fixture(scope="module")
def documents(folder):
    return load_documents([folder / "documents.jsonl"])


def pixels(folder, number):
    return np.array(Image.open(folder / f"{number}.png"))


def test_a_picture_is_right_if_its_own_is_nearest(folder, model, documents):
    checks = Checks(model, [d for d in documents if d.split == "train"])  # one of them has no picture
    near = pixels(folder, 0).astype(int)
    near[0, 0, 0] += 30 if near[0, 0, 0] < 128 else -30
    answers = [
        answer(documents[0], "image", data=near.astype(np.uint8)),  # nearly its own
        answer(documents[1], "image", data=pixels(folder, 2)),  # another's
        answer(documents[4], "image", data=pixels(folder, 4)),  # held out: its own, which is among no others
        answer(documents[5], "image", data=pixels(folder, 3)),  # held out: a training picture
        answer(documents[2], "image", data=np.zeros((4, 4, 3), np.uint8)),
        answer(documents[3], "image"),
    ]
    figures = checks.judge("image", answers)
    assert [a.right for a in answers] == [True, False, True, False, False, False]
    assert [a.note for a in answers] == [
        "nearest is its own",
        "nearest: name 2",
        "nearest is its own",
        "nearest: name 3",
        "another size",
        "another size",
    ]
    assert figures["nearest_is_right"].value == 2 / 6
    errors = [30**2 / (8 * 12 * 3), squared(folder, 1, 2), 0.0, squared(folder, 5, 3)]
    assert figures["psnr"].value == pytest.approx(10 * np.log10(255**2 / np.mean(errors)), rel=1e-5)
    assert values(checks.judge("image", answers[4:])) == {"nearest_is_right": 0.0}  # nothing to compare: no psnr
    json.dumps([a.right for a in answers])


def values(figures):
    return {name: score.value for name, score in figures.items()}


def squared(folder, left, right):
    return ((pixels(folder, left).astype(float) - pixels(folder, right)) ** 2).mean()


def test_a_picture_of_a_size_that_no_training_picture_has_is_judged_by_its_own(model, tmp_path):
    own = write_picture(tmp_path / "own.png", 4, 4)
    document = Document("own", [Message(None, [Part("image", path=own)])])
    made = [answer(document, "image", data=np.zeros((4, 4, 3), np.uint8))]
    assert Checks(model, []).judge("image", made)["nearest_is_right"].value == 1.0


def test_speech_is_right_if_the_name_is_heard(model, documents):
    heard = {1: "black cat.", 2: "Green", 3: "an old horse on a hill"}
    check = speech.Check(model.tokenizers["speech"], transcribe=lambda sound, rate: heard[len(sound)])
    answers = [answer(d, "speech", data=np.zeros(n + 1, np.float32)) for n, d in enumerate(documents[:3])]
    figures = check.judge(answers)
    assert [a.right for a in answers] == [True, False, False]
    assert answers[1].note == "heard: Green"
    assert values(figures) == {"wer": 3 / 9, "heard_exactly": 1 / 3}  # apple lost, an added, house misheard; of 9
    assert check.judge([answer(documents[0], "speech")])["wer"].value == 1.0


def test_text_is_right_if_it_is_the_name(model, documents):
    said = ["black cat", " black cat\n", "Black cat", "black cats"]
    answers = [answer(documents[0], "text", text=text) for text in said] + [answer(documents[0], "text")]
    assert values(Checks(model, []).judge("text", answers)) == {"exact": 2 / 5}
    assert [a.right for a in answers] == [True, True, False, False, False]


def test_nothing_asked_is_no_figure(model):
    assert Checks(model, []).judge("image", []) == {}
    assert Checks(model, []).judge("smell", [object()]) == {}


# ---------------------------------------------------------------------- validity


def test_validity_counts_planted_broken_spans(model, documents, monkeypatch):
    vocabulary = model.vocabulary
    good = model.grammar.serialise([Turn(None, model.encode(documents[0].turns[0].parts))]).ids.tolist()
    picture = good.index(vocabulary.opener("image"))
    wrong = [*good[: picture + 4], vocabulary.bos, *good[picture + 5 :]]
    cut = good[: good.index(vocabulary.opener("speech")) + 3]  # its picture is whole, its speech is not
    start = [vocabulary.bos]
    written = [(start, good[1:]), (good[:picture], good[picture:]), (start, wrong[1:]), (start, cut[1:]), (start, [])]
    figures = evaluation.validity(model, written)
    assert figures == {"lm.spans_written": 8, "lm.span_validity": (2 + 2 + 0 + 1 + 0) / 8}
    assert evaluation.validity(model, [(start, [])]) == {"lm.spans_written": 0}

    def deaf_decoder(codes, state, last):
        return np.full(3, np.nan, np.float32), None

    monkeypatch.setattr(model.tokenizers["speech"], "decode_chunk", deaf_decoder)
    assert evaluation.validity(model, written[:1])["lm.span_validity"] == 1 / 2

    def failing_decoder(codes, state, last):
        raise AnyglotError("codes of another codebook")

    monkeypatch.setattr(model.tokenizers["speech"], "decode_chunk", failing_decoder)
    assert evaluation.validity(model, written[:1])["lm.span_validity"] == 0


# ---------------------------------------------------------------------- asking


def test_batches_change_no_answer(folder, model, documents):
    told = []
    one, all_ = (typed(evaluation.LanguageModelEval, mapping(folder, batch=size)) for size in (1, 4))
    single = evaluation.ask(model, documents[:4], "text", "image", one, told.append)
    joined = evaluation.ask(model, documents[:4], "text", "image", all_)
    assert [a.reply.ids for a in single] == [a.reply.ids for a in joined]
    assert told == [1, 1, 1, 1]
    free = [evaluation.from_nothing(model, config) for config in (one, all_)]
    assert free[0] == free[1]
    assert len(free[0]) == one.free
    assert all(prompt == [model.vocabulary.bos] for prompt, _ in free[0])


def test_the_untrained_model_has_other_weights_and_leaves_the_generator_alone(folder, model):
    config = typed(evaluation.LanguageModelEval, mapping(folder, seed=5))
    state = torch.get_rng_state()
    random = evaluation.untrained(model, config)
    assert torch.equal(state, torch.get_rng_state())
    assert random.tokenizers == model.tokenizers
    ours, theirs = model.model.state_dict(), random.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert not torch.equal(ours["model.embed_tokens.weight"], theirs["model.embed_tokens.weight"])


# ---------------------------------------------------------------------- a whole run


def test_a_run_measures_all_directions_and_keeps_samples(folder, monkeypatch, caplog):
    monkeypatch.setattr(speech, "Transcriber", Deaf)
    config = mapping(folder, shuffled=str(folder / "shuffled"), free=3, keep=1, names=2, out=str(folder / "whole"))
    with caplog.at_level(logging.WARNING):
        figures = evaluation.run(config, "test")
    assert "documents.jsonl:8" in caplog.text  # the broken line is told
    out = folder / "whole"
    assert json.loads((out / "metrics.json").read_text()) == figures
    kept = Records.load(out)
    assert kept.metrics == figures
    assert kept.scores["lm.text_to_speech.heard_exactly_seen"].ids == ["name_0", "name_1"]
    assert {"checkpoint", "tokenizers.image", "sets.names", str(folder / "heldout")} <= kept.fingerprints.keys()
    assert (figures["lm.names_seen"], figures["lm.names_heldout"]) == (2, 2)
    for source in ("text", "image", "speech"):
        for target, figure in (("text", "exact"), ("image", "nearest_is_right"), ("speech", "wer")):
            assert source == target or {f"lm.{source}_to_{target}.{figure}_{g}" for g in ("seen", "heldout")} <= set(
                figures
            )
    assert figures["lm.text_to_speech.heard_exactly_seen"] == 0.5  # black cat, of two
    assert figures["lm.span_validity"] == figures["lm.text_to_image.span_validity"] == 1.0
    assert figures["lm.spans_written"] >= 4 * 4
    assert figures["lm.text_to_image.nearest_is_right_shuffled"] == figures["lm.text_to_image.nearest_is_right_seen"]
    assert {"lm.text_to_image.nearest_is_right_untrained", "lm.speech_to_text.exact_untrained"} <= set(figures)
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == last["steps"] == 6 * 4 + 3 + 2 + 4 * 2
    samples = json.loads((out / "samples.json").read_text())
    assert len(samples) == 12
    (sample,) = samples["text_to_speech.seen"]
    assert sample["prompt"] == {"type": "text", "text": "black cat"}
    assert sample["right"] is True
    assert soundfile.info(out / sample["answer"]["path"]).samplerate == 800
    for direction in samples.values():
        for part in (direction[0][key] for key in ("prompt", "answer", "wanted")):
            assert part["type"] == "text" or (out / part["path"]).stat().st_size > 0


def test_a_run_without_a_name_of_its_training_is_refused(folder):
    with pytest.raises(AnyglotError, match="sets.names: no document of .*heldout has a part of every modality"):
        evaluation.run(mapping(folder, seen="heldout"), "test")


def test_sets_that_cannot_be_asked_are_refused(folder):
    with pytest.raises(AnyglotError, match="sets.names: modalities must be two or more of .*: text, image, speech"):
        evaluation.run(mapping(folder, modalities=["text", "video"]), "test")
    config = mapping(folder)
    config["sets"]["again"] = {**config["sets"]["names"], "modalities": ["speech", "text"]}
    with pytest.raises(ConfigError, match="two sets ask for (text to speech|speech to text)"):
        evaluation.run(config, "test")


def test_those_asked_are_spread_over_all(folder, model):
    config = typed(evaluation.LanguageModelEval, mapping(folder)).sets["names"]
    all_, two = (evaluation.load_world("names", config, model, names) for names in (0, 2))
    assert [d.id for d in all_.seen] == ["name_0", "name_1", "name_2"]
    assert [d.id for d in two.seen] == ["name_0", "name_1"]
    config.names = 1
    assert [d.id for d in evaluation.load_world("names", config, model, 2).heldout] == ["name_4"]


@pytest.mark.parametrize(
    ("key", "value"), [("batch", 0), ("max_tokens", 0), ("names", -1), ("keep", -1), ("free", -1), ("untrained", -1)]
)
def test_numbers_that_cannot_be_are_refused(folder, key, value):
    with pytest.raises(ConfigError, match=f"{key} must be at least"):
        typed(evaluation.LanguageModelEval, mapping(folder, **{key: value}))
