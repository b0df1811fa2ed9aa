"""Text scored through lm-evaluation-harness: the local tasks, and a model whose figures we compute ourselves too."""

import json
import math

import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.harness import HarnessEval, local_task, run
from tests.train.backbones import make_backbone

PARAGRAPH = "the quick brown fox jumps over the lazy dog and an old house on a hill."


@pytest.fixture
def documents(tmp_path):
    """Two paragraphs and a title that are held out, and one that is not."""
    texts = [PARAGRAPH, "green apple", "what is this and what is the lazy cat of system and user say (12)"]
    records = [{"split": "heldout", "parts": [{"type": "text", "text": text}]} for text in texts]
    records.append({"split": "train", "parts": [{"type": "text", "text": PARAGRAPH.replace("fox", "dog")}]})
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def config_of(documents, **changes):
    return HarnessEval(**{"kind": "harness", "out": "", "models": {"a": "b"}, "documents": [documents], **changes})


def test_records_of_the_local_tasks(documents, tmp_path):
    task = local_task("last_words", config_of(documents), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "last_words.jsonl").read_text().splitlines()]
    assert records == [{"context": PARAGRAPH.removesuffix(" hill."), "target": " hill"}], "neither short nor a number"
    assert task["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "last_words.jsonl")
    local_task("paragraphs", config_of(documents, split=""), tmp_path)
    assert len((tmp_path / "paragraphs.jsonl").read_text().splitlines()) == 4
    with pytest.raises(AnyglotError, match="last_words: nothing for it among documents of split 'test'"):
        local_task("last_words", config_of(documents, split="test"), tmp_path)
    with pytest.raises(ConfigError, match="are made of `documents`"):
        HarnessEval("harness", "", {"a": "b"})


def test_a_plain_directory_is_scored_as_we_score_it(documents, tmp_path):
    pytest.importorskip("lm_eval", reason="pip install 'anyglot[lm-eval]' to test lm-evaluation-harness")
    import transformers

    directory = make_backbone(tmp_path / "backbone")
    mapping = {
        "kind": "harness", "out": str(tmp_path / "out"), "models": {"tiny": str(directory)}, "documents": [documents],
        "batch": 1,
    }  # fmt: skip
    figures = run(mapping, "test")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    bits = size = 0.0
    for line in (tmp_path / "out" / "paragraphs.jsonl").read_text().splitlines():
        text = json.loads(line)["target"]
        first = tokenizer.eos_token_id  # the harness begins with bos, or where there is none with eos
        ids = torch.tensor([[first, *tokenizer(text).input_ids]])
        bits += float(model(ids, labels=ids).loss.detach()) * (ids.shape[1] - 1) / math.log(2)
        size += len(text.encode())
    assert figures["tiny.paragraphs.bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)
    assert figures["tiny.last_words.acc"] in (0.0, 1.0)
    assert figures["tiny.last_words.perplexity"] > 1
    with pytest.raises(AnyglotError, match="the harness refuses: .*no_such_task"):
        run({**mapping, "tasks": ["no_such_task"]}, "test")
    with pytest.raises(AnyglotError, match="tokenizer_config.json is missing"):
        run({**mapping, "models": {"tiny": str(tmp_path)}}, "test")
