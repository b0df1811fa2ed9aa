"""What classifiers make of the codes of Cora's nodes, beside networks that see features.

    python scripts/bench_nodes.py [--file runs/graphs/cora.npz] [--seeds 5] [--missing] [--out docs/results]

Every seed draws a split (20 nodes of a class to learn from, 30 to stop by, the rest is the test), on which all models
are trained; nothing but the last figure sees classes of test nodes. Writes nodes.json after every seed, and nodes.md.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench.report import machine

from anyglot.config import load_mapping, typed
from anyglot.files import write_json, write_text
from anyglot.tokenizers.networks.gnn import GNNConfig
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import NodeGraph, NodeSplit, split_nodes
from anyglot.train.node_classifiers import (
    FitConfig,
    accuracy,
    classify_codes,
    classify_features,
    classify_graph,
)
from anyglot.train.node_codes import NodeCodesConfig, load, teach, train

Row = dict[str, Any]
SYSTEMS = ("nid", "vqgraph")
SHOWN = {
    "gcn": "GCN, features and edges",
    "mlp": "MLP, features",
    "nid_coder": "NodeID's own network, features and edges",
    "nid_codes": "**MLP, NodeID's codes**",
    "nid_untaught": "MLP, NodeID's codes, from training nodes alone",
    "nid_shuffled": "MLP, NodeID's codes of other nodes",
    "vqgraph_coder": "VQGraph's own network, codes and edges",
    "vqgraph_codes": "**MLP, VQGraph's codes**",
    "vqgraph_student": "VQGraph's student, features",
    "vqgraph_plain_student": "the same student without code assignments",
}


def baselines(graph: NodeGraph, split: NodeSplit, seed: int) -> Row:
    """A GCN on features, as wide as the coders, and an MLP on features."""
    gcn = classify_graph(graph, split, GNNConfig(type="gcn", layers=2, width=64), FitConfig(), seed)
    mlp = classify_features(graph, split, 128, FitConfig(), seed)
    return {name: accuracy(logits, graph.labels, split.test) for name, logits in (("gcn", gcn), ("mlp", mlp))}


def coded(name: str, config: NodeCodesConfig, graph: NodeGraph, split: NodeSplit) -> Row:
    """A recipe's figures."""
    trained = train(config, graph, split, name)

    def correct(logits: torch.Tensor) -> float:
        return accuracy(logits, graph.labels, split.test)

    def read(codes: NodeCodes, **changes: Any) -> float:
        classifier = replace(config.classifier, **changes)
        return correct(classify_codes(codes, graph.labels, split, classifier, trained.logits, config.seed)[1])

    found = {f"{name}_coder": correct(trained.logits), f"{name}_codes": correct(trained.code_logits)}
    if config.student is not None:
        found[f"{name}_student"] = correct(trained.student_logits)
        plain = replace(config.student, codes=0.0)
        found[f"{name}_plain_student"] = correct(teach(trained.coder, graph, split, plain, config.seed)[1])
    else:
        generator = torch.Generator().manual_seed(config.seed)
        moved = trained.codes.codes[torch.randperm(len(graph), generator=generator)]
        found[f"{name}_untaught"] = read(trained.codes, taught=0.0)
        found[f"{name}_shuffled"] = read(NodeCodes(moved, trained.codes.levels))
    report = trained.codes.report()
    found[f"{name}_distinct"], found[f"{name}_entropy"] = report.distinct, report.entropy
    return {**found, f"{name}_levels": list(trained.codes.levels)}


def markdown(results: Row) -> str:
    """The results as a page."""
    rows = results["rows"]
    lines = [
        "# Codes of Cora's nodes",
        "",
        f"Test accuracy over {len(rows)} splits, mean and standard deviation; 20 nodes of a class to learn from, 30 to",
        "stop by, the rest is the test. Codes come from features and edges of the whole graph (transductive).",
        "",
        "| classifier, and what it sees | accuracy | against the GCN |",
        "|---|---|---|",
    ]
    gcn = [row["gcn"] for row in rows]
    for key, shown in SHOWN.items():
        found = [row[key] for row in rows]
        spread = f" ± {100 * statistics.stdev(found):.1f}" if len(rows) > 1 else ""
        difference = 100 * (statistics.mean(found) - statistics.mean(gcn))
        lines.append(f"| {shown} | {100 * statistics.mean(found):.1f}{spread} | {difference:+.1f} |")
    for name in SYSTEMS:
        distinct, entropy = (statistics.mean(row[f"{name}_{key}"] for row in rows) for key in ("distinct", "entropy"))
        lines += ["", f"{name}: codes of codebooks {rows[0][f'{name}_levels']}, {distinct:.0f} different ones among"]
        lines.append(f"2,708 nodes, {entropy:.1f} bits in use.")
    lines += ["", "## How it was made", "", *[f"- {name}: {value}" for name, value in results["about"].items()]]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("ANYGLOT_SHARED_DATA", "../shared/data"))
    parser.add_argument("--file", type=Path, default=shared / "graphs" / "cora.npz", help="see docs/node-codes.md")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N - 1, each with a split of its own")
    parser.add_argument("--missing", action="store_true", help="make only seeds that the results do not have yet")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "nodes.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if arguments.missing and path.exists() else []
    about = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(torch.device("cpu")),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torch-geometric")},
    }
    for seed in range(arguments.seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        began, row = time.process_time(), {"seed": seed}
        for name in SYSTEMS:
            mapping = {**load_mapping(f"systems/{name}"), "seed": seed}
            mapping.pop("system")
            mapping["graph"] = {**mapping["graph"], "file": str(arguments.file)}
            config = typed(NodeCodesConfig, mapping, name)
            graph = load(config)
            split = split_nodes(graph.labels, config.graph.train, config.graph.valid, seed)
            if name == SYSTEMS[0]:
                row |= baselines(graph, split, seed)
            row |= coded(name, config, graph, split)
        rows.append({**row, "cpu_seconds": round(time.process_time() - began, 1)})
        print(json.dumps(rows[-1]), flush=True)
        write_json(path, {"about": about, "rows": rows})
        write_text(path.with_suffix(".md"), markdown({"about": about, "rows": rows}))


if __name__ == "__main__":
    main()
