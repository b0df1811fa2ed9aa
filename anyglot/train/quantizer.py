"""The quantizer stage: fit a quantizer to vectors offline, or train it by gradients, in an autoencoder if one is given.

Results in `out`: quantizer/ (see `tokenizers.quantizers.store`), metrics.json, health.png, log.jsonl, tensorboard/.
"""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.networks.mlp import MLP
from anyglot.tokenizers.quantizers import Quantized, store
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from anyglot.tokenizers.quantizers.health import Health, LevelHealth
from anyglot.tokenizers.quantizers.retrieval import recall
from anyglot.train.device import local_device
from anyglot.train.finished import is_finished
from anyglot.train.health import health_scalars, show_health
from anyglot.train.log import TrainingLog
from anyglot.train.schedule import ScheduleConfig, factor
from anyglot.train.vectors import Vectors, VectorsConfig, load_vectors

LOG_EVERY = 20  # steps
ENCODE = 8192  # vectors at once when measuring


@dataclass
class AutoencoderConfig:
    """hidden: widths of the encoder's hidden layers (the decoder's are the same, reversed). width: of the vectors that
    are quantized; 0: no encoder and no decoder, the vectors themselves are."""

    hidden: list[int] = field(default_factory=list)
    width: int = 0


@dataclass
class QuantizerStageConfig:
    """Configuration of the stage.

    out: the run's folder. vectors: what to learn from. quantizer: see docs/quantizers.md.
    autoencoder, steps, batch_size, lr, schedule: of quantizers that learn by gradients; fitted ones need none.
    objective: what reconstruction is trained by: "mse", or "likelihood": width / 2 times the logarithm of that, for a
    decoder with Gaussian noise as large as its error (what the evidence bound of sq_vae stands beside).
    recall: R of recall@R that are measured, held-out vectors as queries against the training vectors as database.
    """

    out: str
    vectors: VectorsConfig
    quantizer: dict[str, Any]
    stage: str = "quantizer"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    steps: int = 400
    batch_size: int = 512
    lr: float = 2e-3
    objective: Literal["mse", "likelihood"] = "mse"
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(kind="cosine", warmup=20, final=0.05))
    recall: list[int] = field(default_factory=list)
    seed: int = 0


class VectorAutoencoder(nn.Module):
    """Encoder, quantizer, decoder of vectors [n, dim]; a fitted quantizer stands alone."""

    def __init__(self, config: QuantizerStageConfig, dim: int, where: str) -> None:
        super().__init__()
        widths = [dim, *config.autoencoder.hidden, config.autoencoder.width]
        if config.autoencoder.width < 1 and config.autoencoder.hidden:
            raise ConfigError(f"{where}: autoencoder.hidden needs autoencoder.width, that of the quantized vectors")
        self.encoder: nn.Module = MLP(widths) if config.autoencoder.width else nn.Identity()
        self.decoder: nn.Module = MLP(widths[::-1]) if config.autoencoder.width else nn.Identity()
        self.quantizer = quantizers.build(config.quantizer, config.autoencoder.width or dim, f"{where}: quantizer")
        if isinstance(self.quantizer, FittedQuantizer) and config.autoencoder.width:
            raise ConfigError(f"{where}: {config.quantizer['type']!r} is fitted, not trained: leave out `autoencoder`")

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        quantized = self.quantizer(self.encoder(x))
        return self.decoder(quantized.vectors), quantized


@dataclass
class Measured:
    """distortion: mean of |x - decoded|^2 over held-out vectors. relative_error: the same over their variance around
    the training mean. bits: of a vector's codes. health: per level, over the training vectors."""

    distortion: float
    relative_error: float
    bits: float
    health: list[LevelHealth]
    recall: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage.

    Args:
        mapping: the config's plain values, see QuantizerStageConfig. where: its name in error messages.
    Raises:
        AnyglotError: missing or unfit vectors, a mistake in the config, or an `out` that holds another quantizer.
    """
    config = typed(QuantizerStageConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "quantizer"):
        return
    began = time.time()
    vectors = load_vectors(config.vectors)
    with TrainingLog(out, f"{config.quantizer.get('type')} quantizer") as log:
        model = train(config, vectors, where, log)
        show_health(code_health(model, vectors), log, config.steps, out / "health.png")
    measured = measure(model, vectors, config.recall)
    store.save(model.quantizer, config.quantizer, out / "quantizer")
    write_json(out / "metrics.json", measured.to_json())
    write_json(out / "done.json", {"config": to_mapping(config), "seconds": round(time.time() - began, 1)})
    print(summary(config, measured))


def train(
    config: QuantizerStageConfig, vectors: Vectors, where: str, log: TrainingLog | None = None
) -> VectorAutoencoder:
    """Fit or train what the config describes; returns it in evaluation mode, on this process' device."""
    torch.manual_seed(config.seed)
    device = local_device()
    model = VectorAutoencoder(config, vectors.width, where).to(device).train()
    x = vectors.train.to(device)
    if isinstance(model.quantizer, FittedQuantizer):
        labels = None if vectors.train_labels is None else vectors.train_labels.to(device)

        def report(done: int, total: int, error: float) -> None:
            if log is not None:
                log.advance(done, total, f"error {error:.4g}")
                log.scalars(done, total, {"loss": error})

        model.quantizer.fit(x, labels, report)
        return model.eval()
    _descend(model, x, config, log)
    if not model.quantizer.ready:
        raise AnyglotError(
            f"{where}: {config.steps} steps of {config.batch_size} vectors are too few to start the codebook (4 "
            "vectors a code, of each level in turn); raise steps or batch_size, or set kmeans_init to false"
        )
    return model.eval()


def _descend(model: VectorAutoencoder, x: Tensor, config: QuantizerStageConfig, log: TrainingLog | None) -> None:
    """Train by gradients: mean squared error plus the quantizer's own losses."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, config.lr) if parameters else None
    generator = torch.Generator().manual_seed(config.seed)
    health = Health(model.quantizer.levels)
    for step in range(config.steps):
        batch = x[torch.randint(len(x), (config.batch_size,), generator=generator).to(x.device)]
        decoded, quantized = model(batch.requires_grad_())  # a codebook alone has no parameters to make a graph
        error = (decoded - batch.detach()).square().mean()
        fit = error if config.objective == "mse" else batch.shape[1] / 2 * error.log()
        loss = fit + model.quantizer.loss(quantized)
        if not bool(torch.isfinite(loss)):
            raise AnyglotError(f"the loss became {float(loss)} at step {step}; lower lr and run again")
        if optimizer is not None:
            optimizer.param_groups[0]["lr"] = config.lr * factor(config.schedule, step, config.steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if log is not None:
            health.update(quantized.codes)
            log.advance(step + 1, config.steps, f"error {float(error.detach()):.4g}" if log.watched else "")
            if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
                terms = {"loss": loss, "error": error, **quantized.losses}
                log.scalars(
                    step + 1,
                    config.steps,
                    {**{k: float(v.detach()) for k, v in terms.items()}, **health_scalars(health)},
                )
                health = Health(model.quantizer.levels)


@torch.no_grad()
def measure(model: VectorAutoencoder, vectors: Vectors, recall_at: list[int]) -> Measured:
    """Figures of a trained model; see `Measured`."""
    device = model.quantizer.device
    squared = 0.0
    for part in torch.split(vectors.heldout.to(device), ENCODE):
        squared += float((model(part)[0] - part).double().square().sum())
    spread = float((vectors.heldout - vectors.train.mean(0)).double().square().sum())
    found = {}
    if recall_at:
        queries, database = model.encoder(vectors.heldout.to(device)), model.encoder(vectors.train.to(device))
        found = recall(model.quantizer, queries, database, tuple(recall_at))
    bits = sum(math.log2(size) for size in model.quantizer.levels)
    return Measured(squared / len(vectors.heldout), squared / spread, bits, code_health(model, vectors).result(), found)


@torch.no_grad()
def code_health(model: VectorAutoencoder, vectors: Vectors) -> Health:
    """The use of codes over the training vectors."""
    health = Health(model.quantizer.levels)
    for part in torch.split(vectors.train.to(model.quantizer.device), ENCODE):
        health.update(model.quantizer.encode(model.encoder(part)))
    return health


def summary(config: QuantizerStageConfig, measured: Measured) -> str:
    """A few lines for the terminal."""
    lines = [
        f"{config.out}: {measured.bits:.1f} bits a vector, held-out error {measured.relative_error:.1%} of the variance"
    ]
    for level, found in enumerate(measured.health[:16]):
        lines.append(
            f"  level {level}: {found.usage:.1%} of {found.size} codes in use, {found.dead} dead, "
            f"{found.bits:.2f} of {math.log2(found.size):.2f} bits"
        )
    if measured.recall:
        lines.append("  " + ", ".join(f"recall@{r} {value:.1%}" for r, value in measured.recall.items()))
    return "\n".join(lines)
