"""Shards made on a local Ray of two workers: those of one process, also if a worker is lost on the way."""

import json
from pathlib import Path

import pytest

from anyglot.data import tokenize
from anyglot.errors import AnyglotError
from anyglot.tokenizers.text import TextTokenizer
from tests.data.fakes import digest

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'anyglot[ray]'): the cluster is not tested")
SHARDS, DOCUMENTS = 12, 300  # documents a shard


@pytest.fixture
def config(tmp_path):
    """Documents of words, long enough that a shard takes a while."""
    words = [f"number {n} of many, {n * n} squared and {n % 7} left" for n in range(SHARDS * DOCUMENTS)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{line} " * 30}) + "\n" for line in words))
    TextTokenizer.train(words[:500], size=300).save_pretrained(tmp_path / "text")
    sources = {"words": {"files": [str(path)]}}
    return {
        "out": "",
        "text": str(tmp_path / "text"),
        "sources": sources,
        "documents_per_shard": DOCUMENTS,
        "workers": 2,
    }


def run(config, out: Path, **changes):
    tokenize.run(config | {"out": str(out)} | changes)
    return digest(out)


@pytest.mark.slow
def test_a_cluster_makes_what_one_process_makes_and_goes_on_without_a_worker(config, tmp_path, monkeypatch):
    import psutil

    expected = run(config, tmp_path / "one", workers=1)
    assert run(config, tmp_path / "ray", ray="local") == expected

    results, killed = tokenize._results, []

    def one_is_killed(todo, config):
        for number, made in enumerate(results(todo, config)):
            while number == 0 and not killed:  # a worker is named after the task that it is at
                for process in psutil.process_iter(["cmdline"]):
                    if not killed and (process.info["cmdline"] or [""])[0].startswith("ray::Map"):
                        process.kill()
                        killed.append(process.pid)
            yield made

    monkeypatch.setattr(tokenize, "_results", one_is_killed)
    assert run(config, tmp_path / "lost", ray="local") == expected
    assert len(killed) == 1


def test_no_cluster_is_one_clear_error(config, tmp_path):
    with pytest.raises(AnyglotError, match="ray=127.0.0.1:1: no cluster there"):
        run(config, tmp_path / "none", ray="127.0.0.1:1")
