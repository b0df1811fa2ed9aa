"""The benchmark of tokenizers runs, and its results hold every case, with the codes of the peer where they must be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "tokenizers.json"


def test_rows_have_both_ways_and_the_codes_of_the_peer(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    command = [sys.executable, "scripts/bench_tokenizers.py", "--only", "action,item", "--repetitions", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "tokenizers.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["action", "item"]
    for row in rows:
        assert row["codes_equal"] == 1.0
        for verb in ("encode", "decode"):
            assert row[verb]["per_second"] == pytest.approx(row["amount"] / row[verb]["seconds"])
            assert row[verb]["ratio"] == pytest.approx(row[verb]["peer_seconds"] / row[verb]["seconds"])


def test_the_results_have_every_modality_and_like_sizes() -> None:
    rows = {row["case"]: row for row in json.loads(RESULTS.read_text())["rows"]}
    assert set(rows) == {"speech", "image", "video", "motion", "action", "item", "graph"}
    assert rows["speech"]["size"] == rows["speech"]["peer_size"]
    for name in ("image", "video"):
        assert 0.5 < rows[name]["size"] / rows[name]["peer_size"] < 2
    for name in ("action", "item"):
        assert rows[name]["codes_equal"] == 1.0
