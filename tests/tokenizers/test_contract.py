"""What every modality tokenizer keeps, and what all of them keep together in one vocabulary.

A modality is a row of `CASES`: how to make a small tokenizer of it, and media of unequal sizes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import anyglot.tokenizers
from anyglot.config import typed
from anyglot.errors import AnyglotError, MismatchError
from anyglot.lm.grammar import Grammar, Parser, Span, Turn
from anyglot.lm.model import ModelConfig, build_model, extend_model
from anyglot.lm.parser import SpanEnd
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers import pretrained_image, pretrained_speech
from anyglot.tokenizers.action import ActionConfig, ActionTokenizer
from anyglot.tokenizers.action_prise import PriseConfig, PriseTokenizer
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.tokenizers.item import Item, ItemConfig, ItemTokenizer
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer
from anyglot.tokenizers.video import VideoConfig, VideoTokenizer

RESIDUAL = {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def pictures() -> list[np.ndarray]:
    return [generator().integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((8, 8), (5, 9), (16, 4), (8, 8))]


def sounds() -> list[np.ndarray]:
    return [(0.1 * generator().standard_normal(n)).astype(np.float32) for n in (5003, 960, 2000, 1921)]


def clips() -> list[np.ndarray]:
    sizes = ((5, 16, 16), (1, 16, 16), (2, 16, 10), (5, 16, 16))
    return [generator().integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def steps() -> list[np.ndarray]:
    return [generator().standard_normal((n, 6)).cumsum(0).astype(np.float32) for n in (40, 1, 7, 33, 40)]


def image() -> Any:
    network = {"patch": 2, "channels": [8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4}
    quantizer = {"type": "fsq", "sizes": [8, 5, 5]}
    return ImageTokenizer(typed(ImageConfig, {"network": network, "dim": 6, "quantizer": quantizer, "max_side": 64}))


def video() -> Any:
    network = {"patch": 2, "channels": [8, 8, 16], "halve_time": [True, True], "blocks": 1, "decoder_blocks": 1}
    mapping = {"network": {**network, "groups": 4}, "dim": 6, "quantizer": {"type": "lfq", "bits": 9}}
    return VideoTokenizer(typed(VideoConfig, {**mapping, "max_side": 64, "max_frames": 40}))


def speech() -> Any:
    network = {"type": "seanet", "channels": 4, "strides": [8, 10], "lstm_layers": 1}
    return SpeechTokenizer(
        typed(SpeechConfig, {"encoder": network, "decoder": network, "dim": 12, "quantizer": RESIDUAL})
    )


def motion() -> Any:
    network = {"width": 16, "halvings": 2, "blocks": 2}
    mapping = {"features": 6, "network": network, "dim": 8, "quantizer": RESIDUAL, "max_frames": 400}
    return MotionTokenizer(typed(MotionConfig, mapping))


def fast() -> Any:
    return ActionTokenizer(ActionConfig(features=6, chunk=16, size=400))


def prise() -> Any:
    quantizer = {"type": "vq", "size": 4, "kmeans_init": False}
    return PriseTokenizer(PriseConfig(4, 2, hidden=[8], dim=4, quantizer=quantizer, size=12, min_count=2))


def encodec() -> Any:
    import transformers

    shape = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16, "num_lstm_layers": 1}
    config = transformers.EncodecConfig(**shape, target_bandwidths=[0.9, 2.7]).to_dict()
    return pretrained_speech.PretrainedSpeech(pretrained_speech.PretrainedSpeechConfig("encodec", config))


def janus() -> Any:
    import transformers

    shape = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1, "num_embeddings": 128}
    config = transformers.JanusVQVAEConfig(**shape, embed_dim=8, latent_channels=16, num_patches=16).to_dict()
    return pretrained_image.PretrainedImage(pretrained_image.PretrainedImageConfig("janus", config))


def graph() -> Any:
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")
    from anyglot.tokenizers.graph import GraphConfig, GraphTokenizer

    network = {"gnn_layers": 2, "gnn_width": 32, "layers": 2, "width": 32, "heads": 2, "pair_width": 4}
    quantizer = {"type": "product", "groups": 2, "inner": {"type": "fsq", "sizes": [5, 5]}}
    return GraphTokenizer(typed(GraphConfig, {"dim": 16, "quantizer": quantizer, "network": network}))


def molecules() -> list[Any]:
    pytest.importorskip("rdkit", reason="rdkit is not installed: anyglot[graph]")
    from anyglot.tokenizers.molecules import from_smiles

    return [from_smiles(text, text) for text in ("CCO", "C", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "C[C@H](N)C(=O)O")]


def item() -> Any:
    quantizer = {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8, "kmeans_init": False}}
    return ItemTokenizer(typed(ItemConfig, {"widths": [32, 8], "quantizer": quantizer}))


def items() -> list[Item]:
    return [Item(str(number), f"a film of genre {number % 5}, the {number}th") for number in range(20)]


@pytest.fixture(autouse=True)
def made_up_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of MiniLM's, which would take its package."""

    def embed_one(text: str, tokens: int) -> torch.Tensor:
        return torch.randn(384, generator=torch.Generator().manual_seed(sum(map(ord, text))))

    monkeypatch.setattr("anyglot.tokenizers.item.embed_one", embed_one)
    monkeypatch.setattr(
        "anyglot.tokenizers.item.embed", lambda texts, tokens: torch.stack([embed_one(text, tokens) for text in texts])
    )


def equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def rounded(a: np.ndarray, b: np.ndarray) -> bool:
    """The same but for rounding to 16 bits."""
    return a.shape == b.shape and a.dtype == b.dtype and float(np.abs(a - b).max()) < 2**-14


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """The same shape and type, and nearly the same values: what a film of noise keeps when it is compressed."""
    return a.shape == b.shape and a.dtype == b.dtype and float(np.abs(a.astype(float) - b).mean()) < 0.25 * np.ptp(b)


@dataclass(frozen=True)
class Case:
    """make: an untrained tokenizer; `begin` and `finish` see the media. media: of unequal sizes. wrong: media that are
    refused. file_keeps: whether a medium and what was read back of its file are the same."""

    make: Callable[[], Any]
    media: Callable[[], list[Any]]
    wrong: tuple[Any, ...]
    file_keeps: Callable[[Any, Any], bool] = equal


NO_PICTURE = (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32))
NO_SOUND = (np.zeros(0, np.float32), np.zeros((2, 4), np.float32), np.full(4, np.nan, np.float32))
NO_CLIP = (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32))
NO_STEPS = (np.zeros((0, 6), np.float32), np.zeros((4, 5), np.float32), np.full((4, 6), np.nan, np.float32))
CASES = {
    "image": Case(image, pictures, NO_PICTURE),
    "speech": Case(speech, sounds, NO_SOUND, rounded),
    "video": Case(video, clips, NO_CLIP, alike),
    "motion": Case(motion, steps, NO_STEPS),
    "action": Case(fast, steps, NO_STEPS),
    "graph": Case(graph, molecules, ()),
    "item": Case(item, items, (Item("", "no id"), Item("7", "another text"), Item("x", " "))),
    "prise": Case(prise, steps, NO_STEPS),
    "encodec": Case(encodec, sounds, NO_SOUND, rounded),
    "janus": Case(janus, pictures, NO_PICTURE),
}
MODALITIES = ("image", "speech", "video", "motion", "action", "graph", "item")  # of one vocabulary
every_tokenizer = pytest.mark.parametrize("name", CASES)


@cache
def made(name: str) -> Any:
    """The tokenizer of a case, with random weights, as a training run would leave it."""
    torch.manual_seed(0)
    case = CASES[name]
    tokenizer = case.make()
    tokenizer.begin(case.media())
    tokenizer.eval()
    tokenizer.finish(case.media())
    return tokenizer


def encoded(name: str) -> list[torch.Tensor]:
    codes: list[torch.Tensor] = made(name).encode(CASES[name].media())
    return codes


def test_every_modality_is_here() -> None:
    folder = Path(anyglot.tokenizers.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "\nTOKENIZER = " in path.read_text(encoding="utf-8")}
    covered = {type(made(name)).__module__.rpartition(".")[2] for name in CASES}
    assert found - {"text"} == covered, "give the new modality a row in CASES"


@every_tokenizer
def test_codes_are_what_the_spec_says(name: str) -> None:
    tokenizer, spec = made(name), made(name).spec
    assert isinstance(tokenizer, ModalityTokenizer)
    assert spec.modality == tokenizer.modality
    media = CASES[name].media()
    for code in encoded(name):
        assert code.dtype == torch.int64
        assert code.device.type == "cpu"
        assert code.ndim == len(spec.axes) + 1
        assert code.shape[-1] == len(spec.levels)
        assert (code >= 0).all()
        assert (code < torch.tensor(spec.levels)).all()
        for length, axis in zip(code.shape, spec.axes, strict=False):
            assert length == axis.size if axis.length == "fixed" else 1 <= length <= axis.size
    decoded = tokenizer.decode(encoded(name))
    assert len(decoded) == len(media)
    for medium, other in zip(decoded, media, strict=True):
        assert type(medium) is type(other)
        if isinstance(medium, np.ndarray):
            assert medium.dtype == other.dtype
            assert medium.ndim == other.ndim
            assert all(a >= b for a, b in zip(medium.shape, other.shape, strict=True)), "nothing is lost, but padding"
    # EnCodec's are inside of transformers' model and are not told.
    assert tuple(map(len, tokenizer.codebooks())) == (() if name == "encodec" else spec.levels)


@every_tokenizer
def test_company_order_and_repetition_change_nothing(name: str) -> None:
    tokenizer, media = made(name), CASES[name].media()
    codes = encoded(name)
    backwards = tokenizer.encode(media[::-1])[::-1]
    for medium, code, other in zip(media, codes, backwards, strict=True):
        assert torch.equal(code, other)
        assert torch.equal(code, tokenizer.encode([medium])[0])
    decoded, again = tokenizer.decode(codes), tokenizer.decode(codes)
    for code, one, two in zip(codes, decoded, again, strict=True):
        assert equal(one, two)
        (alone,) = tokenizer.decode([code])
        assert (
            np.allclose(alone, one, atol=1e-5 if one.dtype == np.float32 else 1)
            if isinstance(one, np.ndarray)
            else alone == one
        )
    assert tokenizer.encode([]) == tokenizer.decode([]) == []


@every_tokenizer
def test_saved_and_loaded_it_is_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer, codes = made(name), encoded(name)
    tokenizer.save_pretrained(tmp_path / "t")
    again: Any = load_tokenizer(tmp_path / "t")
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert again.spec == tokenizer.spec
    assert all(torch.equal(a, b) for a, b in zip(codes, again.encode(CASES[name].media()), strict=True))
    assert all(equal(a, b) for a, b in zip(tokenizer.decode(codes), again.decode(codes), strict=True))
    again.save_pretrained(tmp_path / "u")
    assert again.fingerprint == tokenizer.fingerprint

    weights = load_file(tmp_path / "t" / "model.safetensors")
    changed = next(key for key, tensor in weights.items() if tensor.is_floating_point() and tensor.numel())
    weights[changed] = weights[changed] + 1
    save_file(weights, tmp_path / "t" / "model.safetensors")
    with pytest.raises(MismatchError, match=tokenizer.fingerprint):
        load_tokenizer(tmp_path / "t")


@every_tokenizer
def test_a_manifest_that_was_changed_is_refused(name: str, tmp_path: Path) -> None:
    made(name).save_pretrained(tmp_path / "t")
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    manifest["spec"]["levels"][0] += 1
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match="do not match"):
        load_tokenizer(tmp_path / "t")


@every_tokenizer
def test_weights_go_where_they_are_told_to_and_device_says_so(name: str) -> None:
    """The meta device stands for another one, on which nothing can be computed: whether codes are the same there, only
    a machine with such a device can tell."""
    torch.manual_seed(0)
    tokenizer = CASES[name].make()
    tokenizer.begin(CASES[name].media())
    tokenizer.eval().finish(CASES[name].media())
    codes = tokenizer.encode(CASES[name].media())
    tokenizer.to("cpu", torch.float32)
    assert tokenizer.device.type == "cpu"
    assert all(torch.equal(a, b) for a, b in zip(codes, tokenizer.encode(CASES[name].media()), strict=True))
    tokenizer.to("meta")
    assert tokenizer.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in tokenizer.state_dict().values())


@every_tokenizer
def test_files_keep_media(name: str, tmp_path: Path) -> None:
    tokenizer = made(name)
    for index, medium in enumerate(CASES[name].media()):
        path = tmp_path / f"{index}{tokenizer.suffix}"
        tokenizer.write(medium, path)
        for source in (path, path.read_bytes()):
            assert CASES[name].file_keeps(tokenizer.read(source), medium)
        tokenizer.encode([tokenizer.read(path)])
    tokenizer.preview(CASES[name].media()[0], tmp_path / f"preview{tokenizer.preview_suffix}")
    assert (tmp_path / f"preview{tokenizer.preview_suffix}").stat().st_size > 0


@every_tokenizer
def test_what_is_no_medium_is_refused(name: str, tmp_path: Path) -> None:
    tokenizer = made(name)
    for wrong in CASES[name].wrong:
        with pytest.raises(AnyglotError):
            tokenizer.encode([wrong])
    absent = tmp_path / f"absent{tokenizer.suffix}"
    with pytest.raises(AnyglotError, match="absent"):
        tokenizer.read(absent)
    for content in (b"", b"\0\1\2 no medium at all \xff\xfe", b"PK\3\4 no archive"):
        with pytest.raises(AnyglotError):
            tokenizer.read(content)
    levels, axes = tokenizer.spec.levels, tokenizer.spec.axes
    grid = [1] * len(axes)
    for codes in (
        torch.zeros(*grid, len(levels) + 1, dtype=torch.int64),
        torch.full((*grid, len(levels)), max(levels)),
        torch.zeros(*[0] * len(axes), len(levels) if axes else 0, dtype=torch.int64),
    ):
        with pytest.raises(AnyglotError):
            tokenizer.decode([codes])


def vocabulary(names: tuple[str, ...], stream: str) -> Vocabulary:
    found = Vocabulary.build(50, "text")
    for name in names:
        found = found.extend(made(name).spec, name, stream)
    return found


@pytest.mark.parametrize("stream", ["frame", "level"])
def test_codes_of_all_modalities_survive_one_document(stream: str) -> None:
    together = vocabulary(MODALITIES, stream)
    grammar = Grammar(together)
    spans = [Span(name, code.numpy()) for name in MODALITIES for code in encoded(name)]
    mixed = [span for pair in zip(spans, [Span("text", np.array([3, 1]))] * len(spans), strict=True) for span in pair]
    ids = grammar.serialise([Turn(None, mixed)]).ids
    assert ids.max() < together.size
    assert grammar.parse(ids) == [Turn(None, mixed)]
    parser = Parser(grammar)
    events = [event for token in ids.tolist() for event in parser.feed([token])]
    parser.finish()
    assert [event.span for event in events if isinstance(event, SpanEnd)] == spans
    found = [span for span in grammar.parse(ids)[0].spans if span.modality != "text"]
    for name in MODALITIES:  # what comes out of the stream decodes as what went in
        codes = [torch.from_numpy(span.codes.astype(np.int64)) for span in found if span.modality == name]
        media = made(name).decode(encoded(name))
        assert all(equal(a, b) for a, b in zip(made(name).decode(codes), media, strict=True))


@pytest.mark.parametrize("last", MODALITIES)
def test_another_modality_moves_no_id_and_no_logit_of_the_others(last: str) -> None:
    others = tuple(name for name in MODALITIES if name != last)
    before = vocabulary(others, "frame")
    after = before.extend(made(last).spec, last, "frame")
    assert after.blocks[: len(before.blocks)] == before.blocks
    for name in others:
        span = Span(name, encoded(name)[0].numpy())
        ids = Grammar(before).serialise([Turn(None, [span])]).ids
        np.testing.assert_array_equal(ids, Grammar(after).serialise([Turn(None, [span])]).ids)

    shape = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, pad_vocabulary_to=16)
    document = [Span(name, encoded(name)[0].numpy()) for name in others]
    ids = torch.from_numpy(Grammar(before).serialise([Turn(None, document)]).ids.astype(np.int64))[None, :512]
    for tie in (True, False):
        model = build_model(ModelConfig(**{**vars(shape), "tie": tie}), before.size, seed=1).eval()
        with torch.no_grad():
            expected = model(ids).logits[..., : before.size]
            extend_model(model, before.size, after.size, seed=2, multiple=16)
            assert model.get_input_embeddings().weight.shape[0] >= after.size
            assert torch.equal(model(ids).logits[..., : before.size], expected)
