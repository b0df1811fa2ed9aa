"""How soon a codebook follows a moving encoder, over the settings behind the quantizers' defaults.

    python scripts/bench_quantizer_defaults.py [--seeds N] [--out docs/results]

A small autoencoder learns synthetic vectors (32 wide, 6 factors) from scratch through one code of 1,024, 800 vectors
a step. Held-out error, usage and perplexity after 100, 300 and 600 steps. Writes quantizer_defaults.json and .md.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyglot.files import write_json, write_text
from anyglot.tokenizers.quantizers import build

STEPS = (100, 300, 600)
VQ = [
    {"type": "vq", "size": 1024, "decay": d, "reset_below": r} for d in (0.99, 0.97, 0.9) for r in (0.0, 0.1, 0.2, 0.4)
]
LFQ = [{"type": "lfq", "bits": 10, "temperature": t} for t in (0.01, 0.1, 0.3, 1.0)]


def run(config: dict[str, Any], seed: int) -> list[tuple[float, float, float]]:
    """(held-out mean squared error, usage, perplexity) after each of STEPS."""
    torch.manual_seed(seed)
    mix = torch.randn(6, 32)
    encoder = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 64))
    decoder = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32))
    quantizer = build(config, 64)
    parameters = [p for module in (encoder, quantizer, decoder) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)

    def data(count: int) -> Tensor:
        return torch.tanh((torch.randn(count, 6) ** 3 / 3) @ mix)

    results = []
    for step in range(1, STEPS[-1] + 1):
        x = data(800)
        quantized = quantizer(encoder(x))
        loss = (decoder(quantized.vectors) - x).square().mean() + quantizer.loss(quantized)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in STEPS:
            quantizer.eval()
            with torch.no_grad():
                x = data(20_000)
                quantized = quantizer(encoder(x))
                error = (decoder(quantized.vectors) - x).square().mean()
            quantizer.train()
            results.append((float(error), float(quantized.stats["usage"]), float(quantized.stats["perplexity"])))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="mean over seeds 0 .. N - 1")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for config in VQ + LFQ:
        mean = torch.tensor([run(config, seed) for seed in range(arguments.seeds)]).mean(0)
        rows.append({"config": config, **{f"after_{s}": mean[i].tolist() for i, s in enumerate(STEPS)}})
        print(rows[-1], flush=True)
    about = {"command": " ".join(["python", *sys.argv]), "seeds": arguments.seeds, "torch": version("torch")}
    lines = [
        "# Settings behind the quantizers' defaults",
        "",
        "Held-out error / usage / perplexity after that many steps.",
        "",
    ]
    lines += ["| config | " + " | ".join(map(str, STEPS)) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for row in rows:
        name = ", ".join(f"{key} {value}" for key, value in row["config"].items() if key != "type")
        cells = [f"{error:.4f} / {usage:.2f} / {perplexity:.0f}" for error, usage, perplexity in list(row.values())[1:]]
        lines.append(f"| {row['config']['type']}: {name} | " + " | ".join(cells) + " |")
    write_json(arguments.out / "quantizer_defaults.json", {"about": about, "rows": rows})
    write_text(
        arguments.out / "quantizer_defaults.md", "\n".join([*lines, "", *[f"- {k}: {v}" for k, v in about.items()], ""])
    )


if __name__ == "__main__":
    main()
