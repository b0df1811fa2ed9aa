"""What generating semantic IDs comes to as a recommender, beside popularity, item nearest neighbours and SASRec.

    python scripts/bench_items.py [--run runs/items] [--only popularity,knn,sasrec,generation] [--out docs/results]

MovieLens-100k, leave-one-out, all users, all items ranked but those that a user has seen, the same for all methods.
Settings are chosen by NDCG@10 of the last but one item; the last one is asked for once. Writes items.json after each
method and items.md in the end, and keeps the methods that it did not run; finished stages of the pipeline are reused.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from item_baselines import SASRecConfig, item_knn, popularity, train_sasrec

from anyglot.data.histories import HELD
from anyglot.eval.documents import load_documents, parts_of
from anyglot.eval.recommendation import Ranks, ranks_of_scores
from anyglot.files import write_json, write_text

Row = dict[str, Any]
CHOSEN_BY = "ndcg@10"
CORPUS = ["window=25", "step=8", "heldout_one_in=0", "collaborative=64"]
STAGES = (  # what makes the recommender; each is skipped where it is finished
    ["fetch", "movielens", "--out", "{run}/movielens", *CORPUS],
    ["train", "item/text"],
    ["train", "item/letter"],
    ["tokenize", "item/tokenize", "workers=1"],
    ["train", "item/lm"],
    ["eval", "item/eval", "split=valid", "out={run}/valid"],
    ["eval", "item/eval"],
)
SASREC = [
    SASRecConfig(dropout=dropout, batch=128, lr=lr, epochs=100, loss=loss)
    for dropout, lr, loss in ((0.3, 2e-3, "full"), (0.5, 2e-3, "full"), (0.3, 2e-3, "binary"))
]
SIGNS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")


@dataclass
class Data:
    """Histories int64 [n], oldest first, and the number of items."""

    histories: list[np.ndarray]
    items: int

    @property
    def training(self) -> list[np.ndarray]:
        return [history[:-HELD] for history in self.histories]

    def asked(self, split: str) -> tuple[list[np.ndarray], np.ndarray]:
        """What is known before the item that is asked for, and that item."""
        last = {"valid": -2, "test": -1}[split]
        return [history[:last] for history in self.histories], np.array([history[last] for history in self.histories])

    def ranks(self, split: str, scores: np.ndarray) -> Ranks:
        known, targets = self.asked(split)
        return ranks_of_scores(scores, targets, known)


def load(folder: Path) -> Data:
    """The corpus that the language model learns from, as numbers."""
    place = {document.id: index for index, document in enumerate(load_documents([folder / "items.jsonl"]))}
    documents = [d for d in load_documents([folder / "histories.jsonl"]) if d.split == "test"]
    return Data([np.array([place[part.data.decode()] for part in parts_of(d)]) for d in documents], len(place))


def popular(data: Data) -> Iterator[Row]:
    yield measured("popularity", {}, data, lambda known: popularity(data.training, data.items, known))


def knn(data: Data) -> Iterator[Row]:
    """Classical, over whole histories; and over their last items alone, which a shop's session would be."""
    for name, recents in (("item-kNN", (0,)), ("item-kNN, recent items", (3, 5, 10))):
        rows = []
        for recent in recents:
            for neighbours in (20, 50, 100, 200):
                for shrink in (0.0, 5.0, 20.0):
                    settings = {"neighbours": neighbours, "recent": recent, "shrink": shrink}

                    def score(known: list[np.ndarray], s: dict[str, Any] = settings) -> np.ndarray:
                        return item_knn(data.training, data.items, known, **s)

                    rows.append(measured(name, settings, data, score, test=False))
        best = max(rows, key=lambda row: row["valid"][CHOSEN_BY])
        known, _ = data.asked("test")
        scores = item_knn(data.training, data.items, known, **best["settings"])
        yield {**best, "tried": len(rows), "test": data.ranks("test", scores).figures()}


def sasrec(data: Data) -> Iterator[Row]:
    """The best by validation of the settings tried so far, after each."""
    best: Row = {}
    models = {}
    for tried, config in enumerate(SASREC, start=1):
        began = time.perf_counter()

        def judge(model: Any) -> float:
            return data.ranks("valid", model.scores(data.asked("valid")[0])).figures()[CHOSEN_BY]

        model, found, epoch = train_sasrec(config, data.training, data.items, judge)
        print(f"SASRec {config}: valid {CHOSEN_BY} {found:.4f} at epoch {epoch}", flush=True)
        if not best or found > best["valid"][CHOSEN_BY]:
            models["best"] = model
            valid = data.ranks("valid", model.scores(data.asked("valid")[0])).figures()
            parameters = sum(parameter.numel() for parameter in model.parameters())
            best = {"method": "SASRec", "settings": {**asdict(config), "epoch": epoch}, "valid": valid}
            best |= {"seconds": round(time.perf_counter() - began), "parameters": parameters}
        scores = models["best"].scores(data.asked("test")[0])
        yield {**best, "tried": tried, "test": data.ranks("test", scores).figures()}


def generation(run: Path) -> Iterator[Row]:
    lm = json.loads((run / "lm" / "done.json").read_text("utf-8"))
    config = json.loads((run / "lm" / "config.json").read_text("utf-8"))
    found = {split: json.loads((run / folder / "metrics.json").read_text("utf-8")) for split, folder in SPLITS.items()}
    settings = {
        "model": config["model"],
        "engine": config["engine"],
        "steps": lm["steps"],
        "rows": config["data"]["rows"],
    }
    yield {
        "method": "semantic IDs (aligned), generated",
        "settings": settings,
        "valid": found["valid"],
        "test": found["test"],
        "seconds": round(lm["seconds"]),
        "parameters": parameters_of(run / "lm" / "model" / "model.safetensors"),
    }


SPLITS = {"valid": "valid", "test": "eval"}


def measured(name: str, settings: dict[str, Any], data: Data, score: Any, test: bool = True) -> Row:
    began = time.perf_counter()
    row: Row = {"method": name, "settings": settings}
    for split in ("valid", "test") if test else ("valid",):
        row[split] = data.ranks(split, score(data.asked(split)[0])).figures()
    return {**row, "seconds": round(time.perf_counter() - began, 1)}


def parameters_of(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def stages(run: Path) -> list[str]:
    """The commands of the pipeline, without those that a config of their own would only repeat."""
    commands = [[word.format(run=run) for word in words] for words in STAGES]
    return [
        "anyglot " + " ".join([*words, *([] if words[0] == "fetch" else [f"vars.run={run}"])]) for words in commands
    ]


def report(rows: Sequence[Row], about: Row) -> str:
    sasrec_row = next((row for row in rows if row["method"] == "SASRec"), None)
    lines = ["# Recommending films: generated semantic IDs and baselines", "", about["protocol"], ""]
    lines += ["| method | " + " | ".join(SIGNS) + " | NDCG@10, validation | of SASRec's NDCG@10 |"]
    lines += ["|---" * (len(SIGNS) + 3) + "|"]
    for row in rows:
        cells = [f"{row['test'][sign]:.4f}" for sign in SIGNS]
        share = f"{row['test'][CHOSEN_BY] / sasrec_row['test'][CHOSEN_BY]:.2f}" if sasrec_row else ""
        lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['valid'][CHOSEN_BY]:.4f} | {share} |")
    lines += [""]
    for row in rows:
        more = {key: row[key] for key in ("tried", "parameters", "seconds") if key in row}
        lines.append(f"- {row['method']}: {json.dumps({**row['settings'], **more})}")
        if "invalid_ids" in row["test"]:
            lines.append(f"  Invalid IDs written: {row['test']['invalid_ids']:.0%}.")
    lines += ["", "The pipeline:", "", "```sh", *about["commands"], "```", ""]
    lines += [f"{about['command']}; {about['machine']}; {about['versions']}; seed 0.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/items"))
    parser.add_argument("--only", default="popularity,knn,sasrec,generation")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    wanted = options.only.split(",")
    commands = stages(options.run)
    for command in commands if "generation" in wanted else commands[:1]:
        subprocess.run([sys.executable, "-m", *command.split()], check=True)
    data = load(options.run / "movielens")
    file = options.out / "items.json"
    rows: dict[str, Row] = {}
    if file.exists():
        rows = {row["method"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}
    about: Row = {
        "protocol": f"MovieLens-100k, {len(data.histories)} users, {data.items} items, all of them ranked but those "
        "that the user has seen already. Leave-one-out: settings are chosen by the last item but one of each history, "
        "and the last is asked for once.",
        "command": "python scripts/bench_items.py",
        "commands": commands,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed")),
    }
    torch.manual_seed(0)
    methods = {"popularity": popular, "knn": knn, "sasrec": sasrec}
    for name in wanted:
        found = generation(options.run) if name == "generation" else methods[name](data)
        for row in found:
            rows[row["method"]] = row
            print(f"{row['method']}: test {CHOSEN_BY} {row['test'][CHOSEN_BY]:.4f}", flush=True)
            write_json(file, {**about, "rows": list(rows.values())})
    write_text(options.out / "items.md", report(list(rows.values()), about))


if __name__ == "__main__":
    main()
