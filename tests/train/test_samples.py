"""A run that has its tokenizers: what it writes while it learns is in TensorBoard, and its result reads and writes."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anyglot.config import typed
from anyglot.data.shards import ShardInfo, write_shard
from anyglot.errors import ConfigError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.pretrain import PretrainConfig
from tests.inference.bundles import make_bundle
from tests.train.runs import train, write_config


def test_samples_are_shown_and_the_result_reads_and_writes(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    vocabulary = Vocabulary.load(bundle)
    grammar, random = Grammar(vocabulary), np.random.default_rng(0)
    documents = [
        (str(i), grammar.serialise([Turn(None, [Span("text", random.integers(0, vocabulary.text_size, 6))])]))
        for i in range(40)
    ]
    store = tmp_path / "store"
    store.mkdir()
    vocabulary.save(store)
    info = ShardInfo("job", vocabulary.fingerprint, {}, {}, list(vocabulary.modality_names))
    write_shard(store / "00000.arrow", documents, info)
    tokenizers = {name: str(bundle / "tokenizers" / name) for name in ("text", "image", "speech")}
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", store, out)
    overrides = [f"tokenizers.{name}={path}" for name, path in tokenizers.items()]
    train(config, 1, "steps=2", "evaluate_every=1", "samples=[black cat]", "activation_checkpointing=true", *overrides)

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["image/black cat"]
    assert events.Tags()["audio"] == ["speech/black cat"]
    assert [event.step for event in events.Images("image/black cat")] == [1, 2]
    assert set(Anyglot.load(out / "model").tokenizers) == {"image", "speech"}


def test_samples_that_cannot_be_made_are_refused():
    run = {"stage": "pretrain", "out": "x", "data": {"stores": {}}, "samples": ["cat"]}
    with pytest.raises(ConfigError, match="samples needs tokenizers.text"):
        typed(PretrainConfig, run)
    with pytest.raises(ConfigError, match="zero_stage below 3"):
        typed(PretrainConfig, {**run, "tokenizers": {"text": "t"}, "engine": {"zero_stage": 3}})
