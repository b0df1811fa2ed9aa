"""What a model gained by being extended, and what it forgot."""

from pathlib import Path
from typing import Any

import torch

from anyglot.lm.vocabulary import Vocabulary

STAGES = ("checkpoint", "start", "rows", "layers")  # as it came, with more rows, after each of the two runs
POSITIONS = (8, 64)  # rows and places of random old ids at which logits are compared


@torch.no_grad()
def logits_apart(before: Path, after: Path, old: Vocabulary) -> float:
    """The largest difference between two checkpoints' logits over all old ids, and between these ids' embeddings.

    0.0: bit-identical. Compared in fp32 after random old ids, the head cut to the old ids in both.
    """
    import transformers

    ids = torch.randint(old.size, POSITIONS, generator=torch.Generator().manual_seed(0))
    found = []
    for directory in (before, after):
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        logits = hidden @ model.get_output_embeddings().weight[: old.size].clone().T
        found.append((logits, model.get_input_embeddings().weight[: old.size].clone()))
    (logits, rows), (others, other_rows) = found
    return max(float((logits - others).abs().max()), float((rows - other_rows).abs().max()))


def show(report: dict[str, Any], out: Path) -> None:
    """Print bits per id of each modality at every stage."""
    from rich.console import Console
    from rich.table import Table

    stages = [stage for stage in STAGES if stage in report["bits"]]
    ids, apart = report["ids"], report["logits_apart"]
    table = Table(
        "store", "bits per id of", *stages, "change", title=f"{out / 'model'}: ids {ids['old']:,} to {ids['new']:,}"
    )
    for store, groups in report["bits"][stages[-1]].items():
        for group in groups:
            values = [report["bits"][stage].get(store, {}).get(group) for stage in stages]
            known = [value for value in values if value is not None]
            cells = ["" if value is None else f"{value:.3f}" for value in values]
            table.add_row(store, group.removeprefix("bits/"), *cells, f"{known[-1] - known[0]:+.3f}")
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"Logits over the {ids['old']:,} old ids: {apart['start']} from the checkpoint's before the first step, "
        f"{apart['rows']} with new rows trained. Report: {out / 'report.json'}"
    )
    if set(report["bits"][stages[-1]]) == {"heldout"}:
        console.print("What was forgotten is not measured: give heldout.NAME=STORE, documents of old modalities.")
