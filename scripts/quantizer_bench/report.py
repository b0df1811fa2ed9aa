"""The results as tables and plots."""

import platform
from pathlib import Path
from typing import Any

import torch

from anyglot.files import atomic_path

Row = dict[str, Any]
AGAINST = {  # sections with a peer, and what they are called
    "vector_quantize_pytorch": "VQ (moving average)",
    "residual": "Residual VQ",
    "cosine": "VQ (cosine)",
    "simvq": "SimVQ",
    "fsq": "FSQ",
    "lfq": "LFQ",
    "bsq": "BSQ",
    "alone": "VQ where the peer does not fit into memory",
}
INTRODUCTION = """# What the quantizers come to

Training steps (forward, backward, codebook update) beside vector-quantize-pytorch, in one process one after the other,
from equal codebooks: seconds are the best of several steps, memory is what the largest of them added. `N` vectors of
width `D`, `K` codes. CPU seconds are the fair comparison on a machine that does other things too."""
FSQ_NOTE = """FSQ's bound here is the paper's, (L - 1)(1 - 0.001) / 2, the peer's has 1 + 0.001: some codes differ at
the edges. Both take a few milliseconds; ours also checks its input and counts usage."""


def machine(device: torch.device) -> str:
    """The processor or GPU, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names) or 1} cores"


def markdown(results: Row, path: Path) -> str:
    """All sections there are, as one page; `path` is that of the JSON file, beside which the plots lie."""
    lines = [INTRODUCTION, "", f"![CPU seconds, wall seconds, memory]({path.stem}_cost.png)", ""]
    if any(key in results for key in AGAINST):
        lines += [
            "| case | N | CPU s | peer | times less | wall s | peer | peak MB | peer | times less | equal codes |",
            "|" + "---|" * 11,
        ]
        lines += [_against(key, row) for key in AGAINST for row in results.get(key, [])]
        lines += ["", FSQ_NOTE, ""]
    if "lfq_exact" in results:
        lines += ["## LFQ's entropy against the full softmax, in float64", ""]
        lines += [
            "| bits | N | largest error of the entropies | of the gradient | gradient's size |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['bits']} | {row['N']} | {row['entropy_error']:.1e} | {row['gradient_error']:.1e} | "
            f"{row['gradient_size']:.1e} |"
            for row in results["lfq_exact"]
        ]
        lines.append("")
    if "faiss" in results:
        lines += ["## faiss at equal bytes", ""]
        lines += [
            "Gaussian vectors, distortion of held-out ones relative to their power; CPU seconds of one thread.",
            "",
        ]
        lines += [
            "| quantizer | vectors | bytes | distortion | faiss | ratio | train s | faiss | ratio | encode s | faiss |",
            "|" + "---|" * 11,
        ]
        lines += [
            f"| {row['case']} | {row['data']} | {row['bytes']} | "
            f"{row['distortion']:.4f} | {row['faiss_distortion']:.4f} | "
            f"**{row['distortion_ratio']:.3f}** | {row['train_seconds']:.1f} | {row['faiss_train_seconds']:.1f} | "
            f"**{row['train_ratio']:.2f}** | {row['encode_seconds']:.2f} | {row['faiss_encode_seconds']:.2f} |"
            for row in results["faiss"]
        ]
        lines.append("")
    if "recall" in results:
        lines += [
            "## Recall of asymmetric search",
            "",
            "Held-out vectors ask, codes of the training vectors answer; recall@R: the true nearest is among R found.",
            "Each system as its recipe in `configs/systems` trains it, so sizes, bits and vectors differ.",
            "",
            "| system | vectors | database | bits | relative error | recall@1 | @10 | @100 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['system']} | {row['vectors']} | {row['database']} | {row['bits']:.0f} | "
            + f"{row['relative_error']:.1%} | "
            + " | ".join(f"{row['recall'][at]:.1%}" for at in ("1", "10", "100"))
            + " |"
            for row in results["recall"]
        ]
        lines.append("")
    if "distortion_bits" in results:
        lines += [
            "## Distortion against bits",
            "",
            f"![distortion against bits]({path.stem}_distortion.png)",
            "",
            "Held-out image patches [192], the error over their variance; every quantizer alone, with no autoencoder",
            "around it (FSQ, LFQ and BSQ learn their linear projections).",
            "",
            "| family | bits | relative error | CPU s to train |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['family']} | {row['bits']:.1f} | {row['relative_error']:.2%} | {row['cpu_seconds']:.1f} |"
            for row in results["distortion_bits"]
        ]
        lines.append("")
    shown = {name: value for name, value in results["about"].items() if name != "sections"}
    lines += ["## How it was made", "", *[f"- {name}: {value}" for name, value in shown.items()]]
    lines += [
        f"- {key}: `{made['command']}`, {made['seconds']} s" for key, made in results["about"]["sections"].items()
    ]
    return "\n".join([*lines, ""])


def name_of(key: str, row: Row) -> str:
    """A row of a comparison in words, without N."""
    if key == "fsq":
        return f"FSQ {row['sizes']}"
    if "bits" in row:
        return f"{key.upper()} {row['bits']} bits"
    levels = f"{row['levels']} x " if "levels" in row else ""
    kind = {"vector_quantize_pytorch": "VQ", "alone": "VQ", "residual": "RVQ", "cosine": "cosine VQ", "simvq": "SimVQ"}
    return f"{kind[key]} {levels}{row['K']} x {row['D']}"


def _against(key: str, row: Row) -> str:
    cells = [name_of(key, row), row["N"], f"{row['cpu_seconds']:.4f}"]
    if "cpu_ratio" in row:
        cells += [f"{row['peer_cpu_seconds']:.4f}", f"**{row['cpu_ratio']:.1f}**", f"{row['wall_seconds']:.4f}"]
        cells += [f"{row['peer_wall_seconds']:.4f}", f"{row['peak_mb']:.0f}", f"{row['peer_peak_mb']:.0f}"]
        cells += [f"**{row['memory_ratio']:.0f}**", f"{row['codes_equal']:.3%}"]
    else:
        cells += ["-", "-", f"{row['wall_seconds']:.4f}", "-", f"{row['peak_mb']:.0f}", "-", "-", "-"]
    return "| " + " | ".join(map(str, cells)) + " |"


def draw(results: Row, path: Path) -> None:
    """The plots, beside `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def save(figure: Any, name: str) -> None:
        with atomic_path(path.with_name(f"{path.stem}_{name}.png")) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        pyplot.close(figure)

    rows = [(key, row) for key in AGAINST for row in results.get(key, []) if "cpu_ratio" in row]
    if rows:
        figure, axes = pyplot.subplots(1, 3, figsize=(12, 1.5 + 0.3 * len(rows)), sharey=True, layout="constrained")
        places = range(len(rows))
        for axis, (name, title) in zip(axes, _COSTS, strict=True):
            least = 1.0 if name == "peak_mb" else 0.0
            for shift, prefix, colour, label in (
                (-0.2, "", "#2b6cb0", "anyglot"),
                (0.2, "peer_", "#c5cad3", "vector-quantize-pytorch"),
            ):
                values = [max(row[prefix + name], least) for _, row in rows]
                axis.barh([place + shift for place in places], values, 0.4, color=colour, label=label)
            axis.set(xscale="log", title=title)
            axis.grid(axis="x", color="#e3e6ec", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(list(places), [f"{name_of(key, row)}, N {row['N']:,}" for key, row in rows])
        axes[0].invert_yaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
        save(figure, "cost")
    if results.get("distortion_bits"):
        figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for family in dict.fromkeys(row["family"] for row in results["distortion_bits"]):
            found = [row for row in results["distortion_bits"] if row["family"] == family]
            axis.plot(
                [row["bits"] for row in found], [row["relative_error"] for row in found], marker="o", label=family
            )
        axis.set(xlabel="bits of a vector's codes", ylabel="held-out error / variance", yscale="log")
        axis.grid(color="#e3e6ec", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        save(figure, "distortion")


_COSTS = (("cpu_seconds", "CPU seconds of a step"), ("wall_seconds", "wall seconds"), ("peak_mb", "peak memory, MB"))
