"""What semantic IDs are measured against: popularity, item nearest neighbours, and SASRec with an embedding per item.

All take histories int64 [n], oldest first, and give scores [users, items] of what comes next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def popularity(training: Sequence[np.ndarray], items: int, queries: Sequence[np.ndarray]) -> np.ndarray:
    """How often training histories hold an item, for every user the same."""
    counts = np.bincount(np.concatenate(training), minlength=items).astype(np.float64)
    return np.broadcast_to(counts, (len(queries), items))


def item_knn(
    training: Sequence[np.ndarray],
    items: int,
    queries: Sequence[np.ndarray],
    neighbours: int,
    recent: int,
    shrink: float,
) -> np.ndarray:
    """Sum of cosines (of who chose them) to the last `recent` items of a history, 0: all, of `neighbours` of each."""
    chosen = np.zeros((len(training), items))
    for user, history in enumerate(training):
        chosen[user, history] = 1
    together = chosen.T @ chosen
    lengths = np.sqrt(np.diag(together))
    cosine = together / (lengths[:, None] * lengths + shrink + 1e-9)
    np.fill_diagonal(cosine, 0)
    least = -np.sort(-cosine, axis=1)[:, neighbours - 1 : neighbours]
    cosine[cosine < least] = 0
    return np.stack([cosine[query[-recent:]].sum(0) for query in queries])


@dataclass
class SASRecConfig:
    """loss: "full", cross-entropy over all items; "binary", one negative per item as in the paper. epochs: at most;
    each is one random window of every history. patience: evaluations without a better one, every `every` epochs."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 50
    dropout: float = 0.3
    lr: float = 1e-3
    weight_decay: float = 0.0
    loss: str = "full"
    epochs: int = 200
    every: int = 5
    patience: int = 4
    batch: int = 64
    seed: int = 0


class SASRec(nn.Module):
    """Kang and McAuley, arXiv:1808.09781: a causal transformer over items; the next one by its embedding's product."""

    def __init__(self, config: SASRecConfig, items: int) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(items + 1, config.width, padding_idx=items)
        self.places = nn.Embedding(config.length, config.width)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, histories: Tensor) -> Tensor:
        """Histories int64 [batch, length], padded on the right, to states [batch, length, width]."""
        length = histories.shape[1]
        places = torch.arange(length, device=histories.device)
        hidden = self.dropout(self.items(histories) + self.places(places))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=histories.device)
        return self.norm(self.blocks(hidden, mask=mask, is_causal=True))

    @torch.no_grad()
    def scores(self, queries: Sequence[np.ndarray], batch: int = 128) -> np.ndarray:
        """Scores [users, items] of what follows histories."""
        self.eval()
        found = []
        for start in range(0, len(queries), batch):
            rows, lasts = _padded(
                [q[-self.config.length :] for q in queries[start : start + batch]], self.items.padding_idx
            )
            states = self(rows)[torch.arange(len(rows)), lasts]
            found.append(states @ self.items.weight[:-1].T)
        self.train()
        return torch.cat(found).numpy()


def train_sasrec(config: SASRecConfig, training: Sequence[np.ndarray], items: int, judge) -> tuple[SASRec, float, int]:
    """Train until `judge(model)` has not risen for a while; returns the best model, its judgement and its epoch."""
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    model = SASRec(config, items).train()
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    best, state, best_epoch = -1.0, {}, 0
    for epoch in range(1, config.epochs + 1):
        for chosen in np.array_split(generator.permutation(len(training)), -(-len(training) // config.batch)):
            pieces = []
            for user in chosen:
                start = generator.integers(max(1, len(training[user]) - config.length))
                pieces.append(training[user][start : start + config.length + 1])
            rows, _ = _padded(pieces, items)
            loss = _loss(model, rows, items, config.loss)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if epoch % config.every == 0:
            found = judge(model)
            if found > best:
                best, best_epoch = found, epoch
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif epoch - best_epoch >= config.patience * config.every:
                break
    model.load_state_dict(state)
    return model, best, best_epoch


def _loss(model: SASRec, rows: Tensor, items: int, kind: str) -> Tensor:
    states, wanted = model(rows[:, :-1]), rows[:, 1:]
    real = wanted != items
    states, wanted = states[real], wanted[real]
    if kind == "full":
        return F.cross_entropy(states @ model.items.weight[:-1].T, wanted)
    negatives = torch.randint(items, wanted.shape)
    positive, negative = ((states * model.items(chosen)).sum(-1) for chosen in (wanted, negatives))
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


def _padded(pieces: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Pieces as rows [n, longest], and where each one's last item is."""
    rows = torch.full((len(pieces), max(map(len, pieces))), pad, dtype=torch.long)
    for row, piece in enumerate(pieces):
        rows[row, : len(piece)] = torch.from_numpy(np.ascontiguousarray(piece))
    return rows, torch.tensor([len(piece) - 1 for piece in pieces])
