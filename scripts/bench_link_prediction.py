"""Entities as a few tokens each, beside pykeen's own NodePiece, trained in the same run.

    python scripts/bench_link_prediction.py [--only umls,nations,fb237_v1,WN18RR_v1] [--seeds 2] [--shared DIR]

On UMLS and Nations (from pykeen's wheel) both train on the same triples and are ranked by the same function; what
pykeen's evaluator makes of its model stands beside, so that the two ways of ranking are compared on equal scores. On
the inductive splits (Teru et al., arXiv:1911.06962; `--shared`) all ranked entities are unseen. Filtered, both
directions, ties at their average. Writes link_prediction.json after every row, and link_prediction.md.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench.report import machine

from anyglot.config import typed
from anyglot.data.corpora import graphs
from anyglot.eval.link_prediction import KnownTails, figures, filtered_ranks
from anyglot.files import write_json, write_text
from anyglot.train.link_prediction import LinkPredictionConfig, load, measure, train

Row = dict[str, Any]
TOKENS = {"anchors": 20, "nearest": 6, "relations": 12, "hops": 4}
NODEPIECE = {"type": "tokens", "tokens": TOKENS, "width": 32}
RELATIONS = {"type": "tokens", "tokens": {**TOKENS, "anchors": 0, "nearest": 0, "hops": 0}, "width": 32}
RANDOM = {"type": "tokens", "tokens": {**TOKENS, "assignment": "random", "hops": 0}, "width": 32}
EARL = {"type": "earl", "reserved": 16, "nearest": 4, "layers": 1}
SETTING = {"steps": 400, "lr": 0.01, "dropout": 0.4, "weight_decay": 0.1}
SMALL = {  # Nations has 14 entities
    "NodePiece": {"type": "tokens", "tokens": {"anchors": 6, "nearest": 3, "relations": 12, "hops": 2}, "width": 16},
    "relations only": {
        "type": "tokens",
        "tokens": {"anchors": 0, "nearest": 0, "relations": 12, "hops": 0},
        "width": 16,
    },
    "random codes": {
        "type": "tokens",
        "tokens": {"assignment": "random", "anchors": 6, "nearest": 3, "relations": 12, "hops": 0},
        "width": 16,
    },
    "EARL": {"type": "earl", "reserved": 6, "nearest": 3, "layers": 1},
    "table": {"type": "table"},
}
LARGE = {
    "NodePiece": {"type": "tokens", "tokens": {"anchors": 60, "nearest": 6, "relations": 12, "hops": 4}, "width": 24},
    "relations only": {
        "type": "tokens",
        "tokens": {"anchors": 0, "nearest": 0, "relations": 12, "hops": 0},
        "width": 24,
    },
    "random codes": {
        "type": "tokens",
        "tokens": {"assignment": "random", "anchors": 60, "nearest": 6, "relations": 12, "hops": 0},
        "width": 24,
    },
    "EARL": {"type": "earl", "reserved": 16, "nearest": 4, "layers": 2},
}
MODELS: dict[str, dict[str, Row]] = {
    "umls": {
        "NodePiece": NODEPIECE,
        "relations only": RELATIONS,
        "random codes": RANDOM,
        "EARL": EARL,
        "table": {"type": "table"},
    },
    "nations": SMALL,
    "fb237_v1": LARGE,
    "WN18RR_v1": LARGE,
}
PYKEEN = {  # the same numbers of tokens
    "umls": {"anchors": 20, "nearest": 6, "relations": 12},
    "nations": {"anchors": 6, "nearest": 3, "relations": 12},
}
EPOCHS = 1000  # of pykeen's, at most, over (head, relation) pairs
STOPPER = {  # its own: the epoch with the best validation MRR is kept, and 100 more do not better it by 0.2 %
    "frequency": 20,
    "patience": 5,
    "relative_delta": 0.002,
    "metric": "both.realistic.inverse_harmonic_mean_rank",
    "evaluation_batch_size": 256,
}
INDUCTIVE = ("fb237_v1", "WN18RR_v1")


def ours(name: str, model: str, folders: Row, seed: int) -> Row:
    """One of our models, trained and ranked."""
    setting = {**SETTING, "steps": 300, "batch_size": 256} if name in INDUCTIVE else SETTING
    if model == "table":
        setting = {**setting, "lr": 0.05, "dropout": 0.5}
    mapping = {"out": "none", "graph": folders, "entities": MODELS[name][model], "seed": seed, **setting}
    config = typed(LinkPredictionConfig, mapping, model)
    began = time.process_time()
    split, unseen = load(config.graph)
    measured = measure(train(config, split), config, split, unseen)
    part = "unseen" if unseen else "heldout"
    found = measured.unseen if unseen else measured.heldout
    return {
        **found,
        "chance_mrr": measured.chance[part]["mrr"],
        "chance_hits@10": measured.chance[part]["hits@10"],
        "parameters": measured.parameters,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def pykeens(name: str, seed: int) -> Row:
    """pykeen's NodePiece (two tokenizers, DistMult), trained and ranked by its evaluator and by ours."""
    from pykeen.datasets import get_dataset
    from pykeen.pipeline import pipeline

    setting, began = PYKEEN[name], time.process_time()
    selection = {"selections": ["degree", "pagerank", "random"], "ratios": [0.4, 0.4, 0.2]}
    anchors = {
        "selection": "MixtureAnchorSelection",
        "selection_kwargs": {**selection, "num_anchors": setting["anchors"]},
        "searcher": "ScipySparse",
    }
    dataset = get_dataset(dataset=name, dataset_kwargs={"create_inverse_triples": True})
    result = pipeline(
        dataset=dataset,
        model="nodepiece",
        model_kwargs={
            "embedding_dim": 64,
            "interaction": "distmult",
            "num_tokens": [setting["nearest"], setting["relations"]],
            "tokenizers": ["AnchorTokenizer", "RelationTokenizer"],
            "tokenizers_kwargs": [anchors, {}],
            "aggregation": "mlp",
        },
        training_loop="LCWA",
        loss="crossentropy",
        optimizer="Adam",
        optimizer_kwargs={"lr": 0.005},
        training_kwargs={"num_epochs": EPOCHS, "batch_size": 512, "use_tqdm": False},
        stopper="early",
        stopper_kwargs=STOPPER,
        evaluation_kwargs={"use_tqdm": False},
        random_seed=seed,
        device="cpu",
    )
    seconds = round(time.process_time() - began, 1)
    model, relations = result.model.eval(), dataset.num_relations
    files = [dataset.training, dataset.validation, dataset.testing]
    known = KnownTails(torch.cat([part.mapped_triples for part in files]), relations)

    def score(heads: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        scores = torch.empty(len(heads), dataset.num_entities)
        inverse = asked >= relations
        if not bool(inverse.all()):
            scores[~inverse] = model.predict_t(torch.stack([heads, asked], 1)[~inverse])
        if bool(inverse.any()):
            scores[inverse] = model.predict_h(torch.stack([asked - relations, heads], 1)[inverse])
        return scores

    found = figures(filtered_ranks(score, dataset.testing.mapped_triples, known))
    theirs = {
        "mrr": result.metric_results.get_metric("both.realistic.inverse_harmonic_mean_rank"),
        **{f"hits@{k}": result.metric_results.get_metric(f"both.realistic.hits_at_{k}") for k in (1, 3, 10)},
    }
    return {
        **found,
        "largest_difference_of_evaluators": max(abs(found[key] - value) for key, value in theirs.items()),
        "parameters": int(model.num_parameters),
        "cpu_seconds": seconds,
    }


def tasks(names: list[str], fetched: Path, shared: Path) -> list[tuple[str, str, Callable[[int], Row]]]:
    """Graph, model, and what makes its row of a seed."""
    found: list[tuple[str, str, Callable[[int], Row]]] = []
    for name in names:
        folders = {"folder": str(fetched / name)}
        if name in INDUCTIVE:
            folders = {"folder": str(shared / "graphs" / name), "unseen": str(shared / "graphs" / f"{name}_ind")}
            if not Path(folders["folder"]).is_dir():
                print(f"{name} is left out: no {folders['folder']}; see --shared", file=sys.stderr)
                continue
        else:
            found.append((name, "pykeen's NodePiece", lambda seed, name=name: pykeens(name, seed)))
        found += [
            (name, model, lambda seed, name=name, model=model, folders=folders: ours(name, model, folders, seed))
            for model in MODELS[name]
        ]
    return found


def mean(rows: list[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def markdown(results: Row) -> str:
    """The results as a page."""
    lines = [
        "# Knowledge graphs: entities as a few tokens",
        "",
        "Test triples, filtered, both directions, ties at their average rank; mean over the seeds below. Where",
        "there is more than one, the difference of the best and the worst stands in brackets.",
        "On UMLS and Nations entities are known; on the other two all ranked entities are unseen.",
        "",
        "| graph | model | MRR | Hits@1 | Hits@10 | MRR by chance | parameters | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in results["rows"]:
        groups.setdefault((row["graph"], row["model"]), []).append(row)
    for (graph, model), rows in groups.items():
        found = [row["mrr"] for row in rows]
        spread = f" ({max(found) - min(found):.3f})" if len(found) > 1 else ""
        chance = f"{rows[0]['chance_mrr']:.3f}" if "chance_mrr" in rows[0] else ""
        lines.append(
            f"| {graph} | {model} | {mean(rows, 'mrr'):.3f}{spread} | {mean(rows, 'hits@1'):.3f} | "
            f"{mean(rows, 'hits@10'):.3f} | {chance} | {rows[0]['parameters']:,} | {mean(rows, 'cpu_seconds'):.0f} |"
        )
    differences = [row["largest_difference_of_evaluators"] for row in results["rows"] if "chance_mrr" not in row]
    if differences:
        lines += ["", "pykeen's evaluator and ours, on the scores of pykeen's models: figures differ by at most"]
        lines.append(f"{max(differences):.1e}.")
    lines += ["", "## How it was made", "", *[f"- {name}: {value}" for name, value in results["about"].items()]]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MODELS), help=f"graphs, by commas: {', '.join(MODELS)}")
    parser.add_argument("--seeds", type=int, default=2, help="seeds 0 .. N - 1")
    parser.add_argument("--missing", action="store_true", help="make only rows that the results do not have yet")
    default = os.environ.get("ANYGLOT_SHARED_DATA", "../shared/data")
    parser.add_argument("--shared", type=Path, default=Path(default), help="has graphs/fb237_v1 and the like")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"--only: no graph {unknown[0]!r}; valid: {', '.join(MODELS)}")
    torch.set_num_threads(1)
    path = arguments.out / "link_prediction.json"
    before = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    about = {
        "command": " ".join(["python", *sys.argv]),
        "seeds": arguments.seeds,
        "machine": machine(torch.device("cpu")),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pykeen")},
    }
    rows = before if arguments.missing else [row for row in before if row["graph"] not in names]
    with tempfile.TemporaryDirectory() as folder:
        graphs.run({}, Path(folder), "graphs")
        for name, model, make in tasks(names, Path(folder), arguments.shared):
            for seed in range(arguments.seeds):
                cell = {"graph": name, "model": model, "seed": seed}
                if any(cell.items() <= row.items() for row in rows):
                    continue
                rows.append({**cell, **make(seed)})
                print(json.dumps(rows[-1]), flush=True)
                order = list(MODELS)
                rows.sort(key=lambda row: order.index(row["graph"]))
                write_json(path, {"about": about, "rows": rows})
                write_text(path.with_suffix(".md"), markdown({"about": about, "rows": rows}))


if __name__ == "__main__":
    main()
