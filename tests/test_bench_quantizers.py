"""The benchmark runs, and what docs/results/quantizers.json says holds what is claimed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "quantizers.json"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/bench_quantizers.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vector_quantize_pytorch")
    pytest.importorskip("faiss")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured on Linux only")
    folder = tmp_path_factory.mktemp("bench")
    done = bench("--quick", "--only", "vq,residual,simvq,fsq,lfq,bsq,lfq_exact,faiss", "--out", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_rows_have_costs_of_both_and_equal_codes(made: Path) -> None:
    results = json.loads((made / "quantizers.json").read_text())
    for key in ("vector_quantize_pytorch", "residual", "simvq", "bsq"):
        for row in results[key]:
            assert row["codes_equal"] == 1.0, row
            assert {"N", "D", "cpu_ratio", "wall_ratio", "memory_ratio", "peak_mb", "peer_peak_mb"} <= row.keys()
            assert 0 < row["cpu_seconds"] <= row["wall_seconds"] * 1.5
            assert row["cpu_ratio"] == pytest.approx(row["peer_cpu_seconds"] / row["cpu_seconds"])
    assert results["fsq"][0]["codes_equal"] > 0.9  # another bound: see the note in the report
    assert results["lfq_exact"][0]["gradient_error"] < 1e-12
    assert {"case", "data", "distortion_ratio", "train_ratio"} <= results["faiss"][0].keys()


def test_page_and_plot_lie_beside_the_results(made: Path) -> None:
    page = (made / "quantizers.md").read_text()
    assert "| VQ 1024 x 8 | 2048 |" in page
    assert "quantizers_cost.png" in page
    assert (made / "quantizers_cost.png").stat().st_size > 5000


def test_rows_that_an_interrupted_run_left_are_kept(made: Path) -> None:
    """The first row is there, as no run would make it: only the second is made. Other sections stay."""
    path = made / "quantizers.json"
    results = json.loads(path.read_text())
    whole = results["vector_quantize_pytorch"]
    results["vector_quantize_pytorch"] = [{**whole[0], "cpu_ratio": -1.0}]
    path.write_text(json.dumps(results))
    assert bench("--quick", "--only", "vq", "--missing", "--out", str(made)).returncode == 0
    after = json.loads(path.read_text())
    assert after["lfq_exact"] == results["lfq_exact"]
    rows = after["vector_quantize_pytorch"]
    assert [row["D"] for row in rows] == [row["D"] for row in whole]
    assert rows[0]["cpu_ratio"] == -1.0
    assert rows[1]["cpu_ratio"] > 0


def test_an_unknown_section_is_refused() -> None:
    done = bench("--only", "vq,lvq")
    assert done.returncode == 2
    assert "no section 'lvq'; valid: vq, " in done.stderr


# What was recorded


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())


def test_recorded_vq_meets_its_targets_in_every_cell(recorded: dict[str, Any]) -> None:
    cells = {(row["K"], row["D"]): row for row in recorded["vector_quantize_pytorch"]}
    assert set(cells) == {(size, dim) for size in (1024, 8192, 65536) for dim in (8, 64, 256)}
    for (size, dim), row in cells.items():
        assert row["codes_equal"] == 1.0
        assert row["cpu_ratio"] >= (10 if dim == 8 else 4)
        assert size < 8192 or row["memory_ratio"] >= 10
    assert recorded["residual"][0]["cpu_ratio"] >= 3
    alone = [row for row in recorded["alone"] if row["K"] == 65536]
    assert len(alone) == 3
    assert all(row["N"] == 16384 and row["peak_mb"] < 500 for row in alone)


def test_recorded_lfq_meets_its_targets(recorded: dict[str, Any]) -> None:
    row = next(row for row in recorded["lfq"] if (row["bits"], row["N"]) == (18, 16384))
    assert row["cpu_seconds"] < 1
    assert row["peak_mb"] < 300
    exact = next(row for row in recorded["lfq_exact"] if row["bits"] == 12)
    assert exact["entropy_error"] < 1e-10
    assert exact["gradient_error"] < 1e-9 * exact["gradient_size"]
