"""QINCo: residual quantization whose codebooks a small network adapts to what has been decoded so far."""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.pairwise import decode_by_tables, fit_tables
from anyglot.tokenizers.quantizers.staged import staged, subspace_stage

CELLS = 2**21  # numbers held at once for candidate code vectors
WEIGHTS = ("base", "mix_code", "mix_decoded", "bias", "inner", "outer", "picker", "picker_decoded")


@dataclass
class QincoConfig:
    """size: codes of each level. levels: how many. hidden: width of the networks' blocks. blocks: residual blocks.

    preselect: candidates that a look-up picks for the network to adapt, 0 = all codes (QINCo); beam: paths kept while
    encoding, 1 = greedy; pairs: of how many the pairwise look-up decoder has tables, 0 = no such decoder. These three
    are QINCo2's.
    iterations: of k-means, which starts the codebooks. epochs, batch_size, lr: of Adam.
    """

    size: int = MISSING
    levels: int = MISSING
    hidden: int = 64
    blocks: int = 1
    preselect: int = 0
    beam: int = 1
    pairs: int = 0
    iterations: int = 10
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-2

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        for name in ("hidden", "blocks", "beam", "iterations", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{where}.{name}: must be 1 or more, got {getattr(self, name)}")
        if self.levels < 2:
            raise ConfigError(f"{where}.levels: the first level has nothing to adapt to; give 2 or more")
        if not 0 <= self.preselect <= self.size:
            raise ConfigError(f"{where}.preselect: 0 (all codes) to {self.size}, got {self.preselect}")
        if self.pairs < 0:
            raise ConfigError(f"{where}.pairs: how many tables, 0 or more, got {self.pairs}")
        if self.lr <= 0:
            raise ConfigError(f"{where}.lr: must be above 0, got {self.lr}")


class Qinco(FittedQuantizer):
    """Quantization with implicit neural codebooks (Huijben et al. 2024, arXiv:2401.14732; QINCo2: Vallaeys et al. 2025,
    arXiv:2501.03078).

    Code k of a level after the first is v + blocks(v) with v = c_k + A c_k + B decoded + b, where `decoded` is the sum
    of the levels before and each block adds W relu(V v). It starts as the residual quantizer with codebooks c.
    """

    base: Tensor  # [levels, size, dim]
    mix_code: Tensor  # [levels, dim, dim], A
    mix_decoded: Tensor  # [levels, dim, dim], B
    bias: Tensor  # [levels, dim]
    inner: Tensor  # [levels, blocks, dim, hidden], V
    outer: Tensor  # [levels, blocks, hidden, dim], W
    picker: Tensor  # [levels, size, dim] and [levels, dim, dim]: what picks candidates, c + B decoded
    picker_decoded: Tensor
    singles: Tensor  # [levels, size, dim], the look-up decoder's tables
    pair_of: Tensor  # [pairs, 2]
    pair_tables: Tensor  # [pairs, size^2, dim]

    def __init__(self, config: QincoConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, (config.size,) * config.levels)
        self.config = c = config
        for name, shape in (
            ("base", (c.size, dim)),
            ("mix_code", (dim, dim)),
            ("mix_decoded", (dim, dim)),
            ("bias", (dim,)),
            ("inner", (c.blocks, dim, c.hidden)),
            ("outer", (c.blocks, c.hidden, dim)),
            ("picker", (c.size, dim)),
            ("picker_decoded", (dim, dim)),
        ):
            self.register_buffer(name, torch.zeros(c.levels, *shape))
        self.register_buffer("singles", torch.zeros(c.levels if c.pairs else 0, c.size, dim))
        self.register_buffer("pair_of", torch.zeros(c.pairs, 2, dtype=torch.int64))
        self.register_buffer("pair_tables", torch.zeros(c.pairs, c.size**2, dim))

    # The network

    def adapt(self, level: int, codes: Tensor, decoded: Tensor) -> Tensor:
        """Code vectors [n, a, d] of codes [n, a] for vectors that are decoded to [n, d] so far."""
        if level == 0:
            return self.base[0][codes]
        mixed = self.base[level] + self.base[level] @ self.mix_code[level]
        v = mixed[codes] + (decoded @ self.mix_decoded[level] + self.bias[level])[:, None]
        for inner, outer in zip(self.inner[level], self.outer[level], strict=True):
            v = v + torch.relu(v @ inner) @ outer
        return v

    def candidates(self, level: int, left: Tensor, decoded: Tensor) -> Tensor:
        """Codes [n, a] worth adapting for what is left over [n, d]: all, or the nearest of a plain codebook."""
        c = self.config
        if c.preselect == 0 or level == 0:
            return torch.arange(c.size, device=left.device).expand(len(left), -1)
        target = left - decoded @ self.picker_decoded[level]
        book = self.picker[level]
        scores = torch.add(book.square().sum(1), target @ book.t(), alpha=-2)
        return scores.topk(c.preselect, largest=False).indices

    def _best(self, level: int, left: Tensor, decoded: Tensor) -> Tensor:
        """The nearest code [n] of a level."""
        found = []
        for part, so_far in zip(torch.split(left, self._rows()), torch.split(decoded, self._rows()), strict=True):
            among = self.candidates(level, part, so_far)
            errors = (part[:, None] - self.adapt(level, among, so_far)).square().sum(2)
            found.append(among.gather(1, errors.argmin(1, keepdim=True))[:, 0])
        return torch.cat(found)

    def _rows(self) -> int:
        c = self.config
        return max(1, CELLS // ((c.preselect or c.size) * max(self.dim, c.hidden)))

    # Training

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        c = self.config
        scale = float(x.std()) or 1.0  # one rate of Adam for vectors of any size
        self._start(x / scale)
        with torch.enable_grad():
            history = [error * scale**2 for error in self._descend(x / scale, report)]
        for weight in (self.base, self.bias, self.picker):  # the rest of the network is linear in scale
            weight *= scale
        if c.pairs:
            tables = fit_tables(x, self.assign(x), c.size, c.pairs)
            for buffer, table in zip((self.singles, self.pair_of, self.pair_tables), tables, strict=True):
                buffer.copy_(table)
        return history

    def _start(self, x: Tensor) -> None:
        """As a residual quantizer: what adapts adds nothing yet."""
        c = self.config
        self.base.copy_(staged(x, c.levels, subspace_stage(c.size, c.iterations), 1, lambda error: None))
        self.picker.copy_(self.base)
        for name in ("mix_code", "mix_decoded", "bias", "outer", "picker_decoded"):
            getattr(self, name).zero_()
        noise = torch.randn(self.inner.shape, generator=torch.Generator().manual_seed(0))
        self.inner.copy_(noise / self.dim**0.5)

    def _descend(self, x: Tensor, report: Report) -> list[float]:
        """Adam on the mean over levels of the squared errors of the chosen codes; rate falling to 0."""
        c = self.config
        weights = [self._buffers[name] for name in WEIGHTS]
        trained = [weight.detach().clone().requires_grad_() for weight in weights if weight is not None]
        for name, weight in zip(WEIGHTS, trained, strict=True):
            self._buffers[name] = weight
        optimizer = torch.optim.Adam(trained, c.lr)
        generator = torch.Generator().manual_seed(0)
        steps = c.epochs * -(-len(x) // c.batch_size)
        warm_up = 0.2 if steps == 10 else 0.1  # of ten steps the tenth is one, and the schedule divides by one less
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, c.lr, total_steps=steps, pct_start=warm_up)
        history = []
        for epoch in range(c.epochs):
            total = 0.0
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for rows in torch.split(order, c.batch_size):
                loss, error = self._loss(x[rows])
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                total += error * len(rows)
            history.append(total / len(x))
            report(epoch + 1, c.epochs, history[-1])
        for name, weight in zip(WEIGHTS, trained, strict=True):
            self._buffers[name] = weight.detach()
        return history

    def _loss(self, x: Tensor) -> tuple[Tensor, float]:
        """The loss of a batch, and its squared error."""
        decoded = torch.zeros_like(x)
        terms = []
        for level in range(self.config.levels):
            with torch.no_grad():
                codes = self._best(level, x - decoded, decoded)
            picked = self.picker[level][codes] + decoded.detach() @ self.picker_decoded[level]
            terms.append(0.1 * (x - decoded.detach() - picked).square().mean())
            decoded = decoded + self.adapt(level, codes[:, None], decoded)[:, 0]
            terms.append((x - decoded).square().mean())
        return torch.stack(terms).sum(), float((x - decoded).detach().square().sum(1).mean())

    # Codes

    @torch.no_grad()
    def assign(self, h: Tensor) -> Tensor:
        rows = max(1, self._rows() // self.config.beam)
        return torch.cat([self._search(part) for part in torch.split(h, rows)])

    def _search(self, x: Tensor) -> Tensor:
        """Beam search: of the adapted candidates of every path the nearest few."""
        count, dim = x.shape
        decoded, codes = x.new_zeros(count, 1, dim), x.new_zeros(count, 1, 0, dtype=torch.int64)
        for level in range(self.config.levels):
            flat, left = decoded.reshape(-1, dim), (x[:, None] - decoded).reshape(-1, dim)
            among = self.candidates(level, left, flat)
            vectors = self.adapt(level, among, flat)
            errors = (left[:, None] - vectors).square().sum(2)
            errors = errors.view(count, decoded.shape[1] * among.shape[1])
            best = errors.topk(min(self.config.beam, errors.shape[1]), largest=False).indices
            parents = best // among.shape[1]
            chosen = vectors.reshape(*errors.shape, dim).gather(1, best[..., None].expand(-1, -1, dim))
            decoded = decoded.gather(1, parents[..., None].expand(-1, -1, dim)) + chosen
            past = codes.gather(1, parents[..., None].expand(-1, -1, level))
            codes = torch.cat([past, among.reshape(errors.shape).gather(1, best)[..., None]], 2)
        return codes[:, 0]

    def lookup(self, codes: Tensor) -> Tensor:
        decoded = torch.zeros(codes.shape[0], self.dim, device=codes.device)
        for level in range(self.config.levels):
            chosen = codes[:, level, None]
            decoded = decoded + torch.where(chosen >= 0, self.adapt(level, chosen.clamp(min=0), decoded)[:, 0], 0.0)
        return decoded

    @torch.no_grad()
    def approximate(self, codes: Tensor) -> Tensor:
        """What codes [n, levels] decode to, about, without the network: sums of look-ups for pairs of codes [n, dim].

        A search scores the database so, and decodes only a short list. Raises AnyglotError if `pairs` is 0.
        """
        self._check_fitted()
        if not self.config.pairs:
            raise AnyglotError("this quantizer has no pairwise decoder; fit one with `pairs` of 1 or more")
        return decode_by_tables(codes, self.singles, self.pair_of, self.pair_tables)


CONFIG = QincoConfig
QUANTIZER = Qinco
