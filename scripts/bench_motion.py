"""What motion tokenizers keep: signed letters after coding, HumanML3D's features, motion capture.

    python scripts/bench_motion.py [--only signs,signs_vq,humanml3d,mocap] [--folds 5] [--out docs/results]

Signs are cross-validated: for every fold a tokenizer and a classifier of letters are trained on the other folds' clips,
and asked about those of this one, so that each clip is recognised once, by what has never seen it. Tokenizers that are
there are not trained again. Writes motion.json and motion.md, and keeps the sections that it did not run.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.config import load_mapping
from anyglot.data.corpora import mocap, signs
from anyglot.eval.documents import load_documents, part_of, text_of
from anyglot.eval.motion import evaluate
from anyglot.eval.recognition import SignLetters, recognition
from anyglot.files import write_json, write_text
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.skeletons import humanml3d
from anyglot.train.tokenizer import run as train

FOLDS = 5
SEEDS = 3  # classifiers a fold, whose accuracies are averaged
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VQ = {"type": "vq", "size": 1024, "levels": None, "inner": None}
Figures = dict[str, float]


def trained(name: str, config: str, out: Path, data: Path, **changes: Any) -> tuple[Any, float]:
    """A tokenizer by a shipped config with other values, and the CPU seconds that its training took."""
    noted = out / name / "cpu_seconds.json"
    mapping = load_mapping(config, [f"data.files=[{data}]", f"out={out / name}"])
    for key, value in changes.items():
        target = mapping["model"] if key in mapping["model"] else mapping
        target[key] = {k: v for k, v in {**target[key], **value}.items() if v is not None}
    began = time.process_time()
    if not noted.exists():
        train(mapping, config)
        write_json(noted, time.process_time() - began)
    return load_tokenizer(out / name / "tokenizer"), float(json.loads(noted.read_text("utf-8")))


def split(data: Path, tokenizer: Any, name: str) -> tuple[list[np.ndarray], list[str]]:
    """Motions of a split, and what their documents say."""
    documents = [document for document in load_documents([data]) if document.split == name]
    parts = [part_of(document, "motion") for document in documents]
    return [media_of(tokenizer, part) for part in parts if part is not None], [text_of(d) for d in documents]


def letter(text: str) -> str:
    """ "B" of "the letter B in American Sign Language", "" for what is no Latin letter without marks."""
    found = text.split()[2]
    return found if len(found) == 1 and found in LETTERS else ""


def signs_section(runs: Path, seed: int, measured: int) -> dict[str, Any]:
    """A residual VQ, over as many folds as are measured."""
    return recognised("residual", runs, seed, measured)


def signs_vq_section(runs: Path, seed: int, measured: int) -> dict[str, Any]:
    """A VQ of the same network, over the first fold."""
    return recognised("vq", runs, seed, 1, quantizer=VQ)


def recognised(name: str, runs: Path, seed: int, folds: int, **changes: Any) -> dict[str, Any]:
    """Recognition and errors of a tokenizer of signs, trained anew for every fold."""
    original, decoded, figures, seconds = [], [], [], []
    for fold in range(folds):
        data = runs / f"signs{fold}"
        if not (data / "signs.jsonl").exists():
            signs.run({"heldout_fold": fold, "folds": FOLDS}, data, "bench_motion")
        tokenizer, took = trained(f"signs-{name}-{fold}", "motion/signs", runs, data / "signs.jsonl", **changes)
        heldout, texts = split(data / "signs.jsonl", tokenizer, "heldout")
        training, labels = split(data / "signs.jsonl", tokenizer, "train")
        figures.append(evaluate(tokenizer, heldout, texts, training))
        seconds.append(took)
        asked = [index for index, text in enumerate(texts) if letter(text)]
        known = [index for index, text in enumerate(labels) if letter(text)]
        clips = [heldout[index] for index in asked]
        back = tokenizer.decode(tokenizer.encode(clips), [len(clip) for clip in clips])
        answers = [
            recognition(
                SignLetters(),
                [training[index] for index in known],
                [letter(labels[index]) for index in known],
                clips,
                back,
                [letter(texts[index]) for index in asked],
                seed + number,
            )
            for number in range(SEEDS)
        ]
        original.append(np.mean([answer.original for answer in answers], axis=0))
        decoded.append(np.mean([answer.decoded for answer in answers], axis=0))
        print(name, fold, round(original[-1].mean(), 3), round(decoded[-1].mean(), 3), f"{took:.0f} CPU s", flush=True)
    a, b = np.concatenate(original), np.concatenate(decoded)
    return {
        "folds": folds,
        "clips": len(a),
        "accuracy_original": float(a.mean()),
        "accuracy_decoded": float(b.mean()),
        "share_kept": float(b.mean() / a.mean()),
        "share_kept_interval": interval(a, b, seed),
        "training_seconds": seconds,
        **{key: float(np.mean([f[key] for f in figures])) for key in figures[0]},
    }


def interval(a: np.ndarray, b: np.ndarray, seed: int) -> list[float]:
    """95 % of the ratio of means over clips drawn again 2,000 times."""
    chosen = np.random.default_rng(seed).integers(len(a), size=(2000, len(a)))
    return [float(value) for value in np.quantile(b[chosen].mean(1) / a[chosen].mean(1), (0.025, 0.975))]


def humanml3d_section(runs: Path, seed: int, measured: int) -> dict[str, Any]:
    """The data set's own pair of files against `to_joints` and `to_features`."""
    shared = Path(os.environ.get("ANYGLOT_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data") / "humanml3d"
    joints, features = np.load(shared / "joints_012314.npy"), np.load(shared / "features_012314.npy")
    yaw = np.concatenate([[0.0], 2 * np.cumsum(features[:-1, 0].astype(np.float64))])  # as the data set has it
    again = humanml3d.to_features(joints, yaw)
    return {
        "frames": len(features),
        "joints_off": float(np.abs(humanml3d.to_joints(features) - joints).max()),
        "features_off": float(np.abs(again - features[:-1]).max()),
        "joints_there_and_back_off": float(np.abs(humanml3d.to_joints(again) - joints[:-1]).max()),
    }


def mocap_section(runs: Path, seed: int, measured: int) -> dict[str, Any]:
    """A VQ, the same with motions in a mirror too, and a residual VQ, on the last fifth of every movement."""
    data = runs / "mocap"
    if not (data / "motion.jsonl").exists():
        mocap.run({}, data, "bench_motion")
    residual = {"type": "residual", "levels": 4, "inner": {"type": "vq", "size": 256}, "size": None}
    found = {}
    mirror = {"objective": {"mirror": "humanoid"}}
    for name, changes in (("vq", {}), ("vq, mirrored", mirror), ("residual", {"quantizer": residual})):
        tokenizer, took = trained(
            f"mocap-{name.replace(', ', '-')}", "motion/small", runs, data / "motion.jsonl", **changes
        )
        heldout, texts = split(data / "motion.jsonl", tokenizer, "heldout")
        training, _ = split(data / "motion.jsonl", tokenizer, "train")
        seen = evaluate(tokenizer, training)
        figures = evaluate(tokenizer, heldout, texts, training)
        figures |= {
            f"training_{key.removesuffix('_heldout')}": seen[key]
            for key in ("variance_left_heldout", "joints_error_at_root")
        }
        found[name] = {**figures, "training_seconds": [took]}
    return found


SECTIONS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "signs": signs_section, "signs_vq": signs_vq_section, "humanml3d": humanml3d_section, "mocap": mocap_section,
}  # fmt: skip


def table(names: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows]]


def signs_report(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in found.items():
        low, high = row["share_kept_interval"]
        figures = [f"{row[key]:.1%}" for key in ("accuracy_original", "accuracy_decoded")]
        kept = f"**{row['share_kept']:.1%}** ({low:.0%} to {high:.0%})"
        errors = [
            f"{row['variance_left_heldout']:.1%}",
            f"{row['joints_error']:.3f}",
            f"{row['joints_error_aligned']:.3f}",
        ]
        ends = [f"{row['codebook_usage']:.0%}", f"{max(row['training_seconds']):.0f}"]
        rows.append([name, f"{row['bits_per_second']:.0f}", str(row["clips"]), *figures, kept, *errors, *ends])
    names = ["quantizer", "bits/s", "clips", "from originals", "from decoded", "kept", "variance left", "points off"]
    folds = max(row["folds"] for row in found.values())
    return [
        "## Signed letters",
        "",
        f"26 letters of 16 sign languages, cross-validated by clip: {folds} of {FOLDS} folds, the VQ on the first. The",
        "classifier is extremely randomised trees over shape and place of the hand in the hold, trained on original",
        "clips of the other folds, three seeds; chance is 4 %. Kept: accuracy from decoded clips over that from the",
        "originals, and its 95 % interval over clips. A language has one clip of a letter, so that letters are told by",
        "other languages' clips; folds do not keep signers apart. Variance left and errors are those of all held-out",
        "clips, distances in shoulder widths. Training: CPU seconds of one thread, the most of any fold.",
        "",
        *table([*names, "aligned", "usage", "training, s"], rows),
        "",
    ]


def humanml3d_report(found: dict[str, Any]) -> list[str]:
    return [
        "## HumanML3D",
        "",
        f"The data set's clip 012314, {found['frames']} frames. Joints decoded from its features are off from its",
        f"joints by {found['joints_off']:.1e} m at most, features made from its joints from its features by",
        f"{found['features_off']:.1e}, and joints made from these by {found['joints_there_and_back_off']:.1e} m.",
        "",
    ]


def mocap_report(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in found.items():
        variances = [f"{row['variance_left_heldout']:.0%}", f"{row['training_variance_left']:.1%}"]
        keys = (
            "joints_error_at_root",
            "training_joints_error_at_root",
            "joints_error_aligned",
            "joints_velocity_error",
        )
        skating = [f"{row[f'joints_skating_{which}']:.0%}" for which in ("original", "decoded")]
        distances = [f"{row[key]:.3f}" for key in keys]
        ends = [f"{row['codebook_usage']:.0%}"]
        rows.append([name, f"{row['bits_per_second']:.0f}", *variances, *distances, *skating, *ends])
    names = ["quantizer", "bits/s", "variance left", "in training", "joints off at root", "in training", "aligned"]
    return [
        "## Motion capture",
        "",
        "15 movements of one person, the last fifth of each held out (6 s); 7.5 codes a second and level. Distances in",
        "metres, velocities in m/s. Skating: share of the moments near the floor at which a foot slides.",
        "",
        *table([*names, "velocity off", "skating", "decoded", "usage"], rows),
        "",
    ]


def report(results: dict[str, Any]) -> str:
    """The page."""
    lines = ["# What motion tokenizers keep", "", f"Made by `{results['command']}`.", ""]
    found = dict(results["sections"])
    if rows := {name: found[key] for name, key in (("residual", "signs"), ("vq", "signs_vq")) if key in found}:
        found["signs"] = rows
    writers = {"signs": signs_report, "humanml3d": humanml3d_report, "mocap": mocap_report}
    for name, write in writers.items():
        if name in found:
            lines += write(found[name])
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return "\n".join([*lines, f"Seed {results['seed']}; {machine['cpu']}, one thread; {versions}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_motion"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the signs, how many to measure")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = options.out / "motion.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {"sections": {}}
    results["command"] = "python scripts/bench_motion.py" + (
        f" --folds {options.folds}" if options.folds < FOLDS else ""
    )
    results["seed"] = options.seed
    results["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
    }
    for name in options.only.split(","):
        began = time.perf_counter()
        results["sections"][name] = SECTIONS[name](options.runs, options.seed, options.folds)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        write_json(path, results)
        write_text(options.out / "motion.md", report(results))


if __name__ == "__main__":
    main()
