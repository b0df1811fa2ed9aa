"""The item tokenizer: unique IDs, new items, what the catalogue refuses, objectives; with made-up embeddings."""

import hashlib
import json

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from anyglot.config import typed
from anyglot.data.documents import Document, Message, Part
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.eval import item as item_eval
from anyglot.eval.answers import Answer
from anyglot.inference.anyglot import Reply
from anyglot.tokenizers import item as item_module
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.item import Item, ItemConfig, ItemTokenizer
from anyglot.tokenizers.objectives.item import Batch, ItemObjective, ItemObjectiveConfig, crop
from anyglot.tokenizers.quantizers.balanced import balanced_kmeans
from anyglot.tokenizers.quantizers.transport import balanced_transport
from anyglot.tokenizers.semantic_ids import reassigned, with_digit

FITTED = {"widths": [], "quantizer": {"type": "rvq", "levels": 2, "size": 16}}  # residual k-means
RESIDUAL = {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8, "kmeans_init": False}}


def embed_one(text, tokens):
    """A made-up embedding: the genre (last word) decides most of it, the whole text a little."""

    def noise(words):
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
        return torch.randn(384, generator=torch.Generator().manual_seed(seed))

    return torch.nn.functional.normalize(noise(text.split()[-1]) + 0.3 * noise(text), dim=0)


@pytest.fixture(autouse=True)
def made_up_embeddings(monkeypatch):
    monkeypatch.setattr(item_module, "embed_one", embed_one)
    monkeypatch.setattr(item_module, "embed", lambda texts, tokens: torch.stack([embed_one(t, tokens) for t in texts]))


def catalogue(count=40):
    return [Item(str(n), f"Film {n} genre{n % 5}") for n in range(count)]


def make(items=None, finish=True, **fields):
    torch.manual_seed(0)
    tokenizer = ItemTokenizer(typed(ItemConfig, {"widths": [32, 8], "quantizer": RESIDUAL, **fields}))
    items = catalogue() if items is None else items
    tokenizer.begin(items)
    tokenizer.eval()
    if finish:
        tokenizer.finish(items)
    return tokenizer


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_every_item_has_codes_of_its_own_and_comes_back(collisions, tmp_path):
    items = catalogue()
    tokenizer = make(collisions=collisions, **(FITTED if collisions == "sinkhorn" else {}))
    assert isinstance(tokenizer, ModalityTokenizer)
    codes = tokenizer.encode(items)
    assert len({tuple(code.tolist()) for code in codes}) == len(items)
    assert all(code.dtype == torch.int64 and code.shape == (len(tokenizer.spec.levels),) for code in codes)
    assert all((code < torch.tensor(tokenizer.spec.levels)).all() for code in codes)
    assert tokenizer.spec.axes == ()
    assert tokenizer.decode(codes) == items
    assert [len(book) for book in tokenizer.codebooks()] == list(tokenizer.spec.levels)
    shuffled = [items[index] for index in (7, 3, 31, 3)]
    for item, together in zip(shuffled, tokenizer.encode(shuffled), strict=True):
        assert torch.equal(together, tokenizer.encode([item])[0])

    tokenizer.save_pretrained(tmp_path / "item")
    again = load_tokenizer(tmp_path / "item")
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert again.spec == tokenizer.spec
    assert again.catalogue == items
    assert all(torch.equal(a, b) for a, b in zip(again.encode(items), codes, strict=True))
    assert again.decode(codes) == items


def test_a_digit_is_added_where_items_collide_and_has_room_for_new_ones():
    tokenizer = make([Item(str(n), "the very same text") for n in range(6)], room=3)
    assert len(tokenizer.spec.levels) == 3
    assert tokenizer.table[:, -1].tolist() == [0, 1, 2, 3, 4, 5]
    assert tokenizer.spec.levels[-1] == 9  # reserved for the level: more than the fullest bucket holds
    new = [Item(f"new{n}", "the very same text") for n in range(4)]
    assert [tokenizer.encode([item])[0][-1].item() for item in new] == [6] * 4  # not in the catalogue: the next free
    levels = tokenizer.spec.levels
    tokenizer.add(new[:3])
    assert [tokenizer.encode([item])[0][-1].item() for item in new[:3]] == [6, 7, 8]
    assert tokenizer.decode(tokenizer.encode(new[:3])) == new[:3]
    assert tokenizer.spec.levels == levels  # no id of a vocabulary moves
    with pytest.raises(MediaError, match="all 9 codes after .* are taken"):
        tokenizer.add(new[3:])
    assert len(tokenizer.catalogue) == 9


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_a_new_item_gets_codes_like_those_of_its_kind(collisions):
    tokenizer = make(collisions=collisions, **FITTED)
    before = tokenizer.table.clone()
    new = Item("1001", "Film unheard genre3")
    (code,) = tokenizer.encode([new])
    firsts = [tokenizer.table[index, 0] for index in range(40) if index % 5 == 3]
    assert code[0] in firsts
    assert code.tolist() not in before.tolist()
    assert torch.equal(tokenizer.table, before)  # encoding changes nothing
    tokenizer.add([new])
    assert tokenizer.decode([code]) == [new]
    assert torch.equal(tokenizer.table[:-1], before)
    with pytest.raises(MediaError, match="is in the catalogue already"):
        tokenizer.add([new])


def test_without_treatment_items_share_codes_and_the_first_is_decoded():
    same = [Item("a", "one text"), Item("b", "one text"), Item("c", "another thing")]
    tokenizer = make(same, collisions="none")
    codes = tokenizer.encode(same)
    assert torch.equal(codes[0], codes[1])
    assert tokenizer.decode(codes[:2]) == [same[0], same[0]]
    assert tokenizer.items_of(codes[0].tolist())[:2] == same[:2]
    assert item_eval.evaluate(tokenizer, [])["unresolved"] >= 2 / 3


def test_codes_of_no_item_and_codes_of_another_shape_are_refused():
    tokenizer = make(collisions="digit")
    free = torch.tensor([*tokenizer.table[0, :-1].tolist(), tokenizer.spec.levels[-1] - 1])
    with pytest.raises(MediaError, match="no item has the codes"):
        tokenizer.decode([free])
    with pytest.raises(MediaError, match=r"must be \[3\]"):
        tokenizer.decode([torch.zeros(2, dtype=torch.int64)])


def test_items_are_read_by_id_or_with_their_text(tmp_path):
    tokenizer = make()
    assert tokenizer.read(b"7") == catalogue()[7]
    new = Item("1001", "Die Brücke, genre1")
    tokenizer.write(new, tmp_path / "new.json")
    assert tokenizer.read(tmp_path / "new.json") == new
    assert tokenizer.read(json.dumps({"id": "1001", "text": new.text}).encode()) == new
    tokenizer.preview(new, tmp_path / "new.txt")
    assert (tmp_path / "new.txt").read_text("utf-8").strip() == new.text
    for content, message in [
        (b"1002", "id '1002' is not the 40 of the catalogue"),
        (b'{"id": "1002"}', "is not"),
        (b'{"id": "1002", "text": " "}', "no text to embed"),
        (b'{"id": 3, "text": "x"}', "no id or no text"),
        (b'{"id": "3", ', "is not"),
        (b"\xff\xfe", "cannot be read"),
        (tmp_path / "absent.json", "cannot be read"),
        (json.dumps({"id": "1", "text": "x" * 5000}).encode(), "max_text=4000"),
    ]:
        with pytest.raises(MediaError, match=message):
            tokenizer.read(content)
    with pytest.raises(MediaError, match="'7' has another text in the catalogue"):
        tokenizer.encode([Item("7", "Something else")])
    with pytest.raises(MediaError, match="'1' occurs twice"):
        make([Item("1", "a film"), Item("1", "another film")])
    with pytest.raises(ConfigError, match="set widths to"):
        make(quantizer={"type": "rvq", "levels": 2, "size": 8})


def test_items_decode_in_training_before_their_table_is_made():
    tokenizer = make(finish=False)
    codes = tokenizer.encode(catalogue()[:3])
    assert all(isinstance(item, Item) for item in tokenizer.decode(codes))
    with pytest.raises(AnyglotError, match="has no fixed codes yet"):
        tokenizer.add([Item("1001", "Film unheard genre3")])


def test_training_on_from_another_catalogue_forgets_its_codes():
    tokenizer = make(catalogue(12))
    tokenizer.begin(catalogue(40))  # as `start` does: the weights of a tokenizer that is finished
    codes = tokenizer.encode(catalogue(40))
    assert all(isinstance(item, Item) for item in tokenizer.decode(codes))
    tokenizer.finish()
    assert tokenizer.decode(tokenizer.encode(catalogue(40))) == catalogue(40)


def test_reassignment_is_a_cheapest_choice_of_distinct_codes():
    generator = torch.Generator().manual_seed(0)
    codes = torch.tensor([[0, 2], [0, 2], [0, 2], [1, 2], [0, 5]])
    cost = torch.rand(4, 6, generator=generator)
    asked = []

    def costs(members):
        asked.append(members)
        return cost

    found = reassigned(codes, costs, blur=0.02)
    assert asked == [[0, 1, 2, 4]]  # the whole bucket of those that collide; the fourth item is alone in its own
    assert torch.equal(found[:, 0], codes[:, 0])
    assert found[3].tolist() == [1, 2]
    assert len({tuple(row) for row in found.tolist()}) == 5
    assert torch.equal(found, reassigned(codes, costs, blur=0.02))
    best = linear_sum_assignment(cost.numpy())
    paid = cost[torch.arange(4), found[[0, 1, 2, 4], -1]].sum()
    assert paid == pytest.approx(float(cost[best].sum()), rel=0.05)
    with pytest.raises(AnyglotError, match="4 items share the first codes"):
        reassigned(codes, lambda members: cost[:, :3], blur=0.02)
    assert with_digit(codes)[:, -1].tolist() == [0, 1, 2, 0, 0]


@pytest.mark.parametrize("blur", [1.0, 1e-2])
def test_transport_keeps_its_sums(blur):
    cost = torch.rand(5, 8, generator=torch.Generator().manual_seed(1))
    plan = balanced_transport(cost, blur, 2000)
    assert plan.dtype == torch.float64
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 0.2, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 0.125, dtype=torch.float64), atol=1e-3, rtol=0)
    assert torch.equal(plan, balanced_transport(cost, blur, 2000))
    masses = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.2])
    torch.testing.assert_close(balanced_transport(cost, blur, 2000, masses).sum(1), masses.double())


def test_clusters_have_equal_sizes():
    vectors = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    vectors[:15] *= 0.01  # plain k-means would put these into one
    places = balanced_kmeans(vectors, 5)
    assert sorted(torch.bincount(places).tolist()) == [4, 4, 5, 5, 5]
    crowded = (
        torch.randn(32, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-3] * 26 + [1.0] * 6)[:, None]
    )
    assert sorted(torch.bincount(balanced_kmeans(crowded, 10)).tolist()) == [3] * 8 + [4] * 2
    assert balanced_kmeans(vectors[:3], 5).unique().numel() == 3  # one code each: such clusters have no pairs


def test_training_lowers_the_error_and_every_term_is_there(tmp_path):
    from safetensors.torch import save_file

    items = catalogue()
    save_file({"vectors": torch.randn(40, 8)}, tmp_path / "cf.safetensors")
    quantizer = {**RESIDUAL, "inner": {"type": "vq", "size": 8, "codebook": "learned", "kmeans_init": False}}
    tokenizer = make(items, finish=False, quantizer=quantizer).train()
    config = ItemObjectiveConfig(
        alignment=0.1, collaborative=str(tmp_path / "cf.safetensors"), diversity=0.1, clusters=3, contrast=0.1
    )
    objective = ItemObjective(config)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    found = []
    for step in range(60):
        batch = crop(items, config, np.random.default_rng(step), 16)
        loss, terms, _ = objective.generator_loss(tokenizer, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(terms["embedding"]))
    assert set(terms) == {"embedding", "contrast", "alignment", "diversity", "quantizer"}
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:10])
    resumed = ItemObjective(config)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed.clusters, objective.clusters)
    with pytest.raises(ConfigError, match="set `codebook: learned`"):
        ItemObjective(ItemObjectiveConfig(diversity=0.1)).generator_loss(make(finish=False).train(), Batch(items), 0)
    save_file({"vectors": torch.randn(39, 8)}, tmp_path / "short.safetensors")
    short = ItemObjective(ItemObjectiveConfig(alignment=0.1, collaborative=str(tmp_path / "short.safetensors")))
    with pytest.raises(ConfigError, match="learns from 40 items"):
        short.generator_loss(tokenizer, Batch(items), 0)
    with pytest.raises(ConfigError, match="alignment needs"):
        ItemObjectiveConfig(alignment=0.1)


def test_scores_count_collisions_and_usage():
    tokenizer = make(collisions="digit")
    new = Item("1001", "Film unheard genre3")
    codes = tokenizer.table[:, :2].tolist()
    scores = item_eval.evaluate(tokenizer, [new])
    assert tokenizer.decode(tokenizer.encode([new])) == [new]
    assert scores["collision_rate"] == pytest.approx(sum(codes.count(code) > 1 for code in codes) / 40)
    assert scores["unresolved"] == 0
    assert scores["usage_0"] == len({code[0] for code in codes}) / 8
    assert 0 <= scores["entropy_1"] <= 3
    assert scores["items"] == 1
    assert np.isfinite(list(scores.values())).all()  # one item has no variance to explain
    more = [Item(str(n), f"Film {n} genre{n % 5}") for n in (1002, 1003)]
    assert item_eval.evaluate(tokenizer, more)["explained_variance_heldout"] < 1


def test_generated_items_are_marked_and_new_ones_by_the_codes_that_they_would_get():
    tokenizer = make(collisions="digit")
    new = Item("1001", "Film unheard genre3")
    own = {"7": b"7", "1001": json.dumps({"id": new.id, "text": new.text}).encode()}

    def answer(asked, codes):
        known = tokenizer.items_of(codes.tolist())
        part = Part("item", data=known[0] if known else None, codes=codes.numpy())
        return Answer(Document(asked, [Message(None, [Part("item", data=own[asked])])]), Reply([], [], [part]))

    right, (codes,) = tokenizer.table[7], tokenizer.encode([new])
    answers = [answer("7", right), answer("7", tokenizer.table[8]), answer("1001", codes), answer("1001", right)]
    answers.append(Answer(answers[0].document, Reply([], [], [])))
    figures = item_eval.Check(tokenizer).judge(answers)
    assert [answer.right for answer in answers] == [True, False, True, False, False]
    assert {name: score.value for name, score in figures.items()} == {"right_item": 2 / 5, "valid_ids": 3 / 5}
