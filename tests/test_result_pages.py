"""Pages of results say what their records say, in the words of the script that made them."""

import json
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("script", "function", "name"),
    [
        ("bench_extend", "page", "new-modality"),
        ("bench_finetune", "page", "finetune"),
        ("bench_generate", "page", "generate"),
        ("bench_link_prediction", "markdown", "link_prediction"),
        ("bench_molecules", "page", "molecules"),
        ("bench_nodes", "markdown", "nodes"),
        ("bench_stability", "page", "stability"),
        ("bench_streaming", "page", "streaming"),
        ("bench_streams", "page", "streams"),
        ("report_large", "page", "large"),
    ],
)
def test_a_page_is_made_of_its_record(monkeypatch, script, function, name):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    record = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text("utf-8"))
    made = getattr(import_module(script), function)(record)
    assert made == (ROOT / "docs" / "results" / f"{name}.md").read_text("utf-8")


def test_one_seed_has_no_spread(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    markdown = import_module("bench_link_prediction").markdown
    row = {"graph": "umls", "model": "EARL", "hits@1": 0.5, "hits@10": 0.5, "chance_mrr": 0.1, "parameters": 1}
    rows = [{**row, "mrr": mrr, "cpu_seconds": 1} for mrr in (0.25, 0.5)]
    assert "| 0.375 (0.250) |" in markdown({"about": {}, "rows": rows})
    assert "| 0.250 | 0.500 |" in markdown({"about": {}, "rows": rows[:1]})
