"""The atom codes stage: codes of atoms in context, then an encoder that learns by guessing them (Mole-BERT).

It takes seconds to minutes, so an interrupted run starts again. Results in `out`: coder.safetensors,
encoder.safetensors, metrics.json, log.jsonl, tensorboard/.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anyglot.config import to_mapping, typed
from anyglot.errors import ConfigError, MediaError
from anyglot.files import atomic_path, write_json
from anyglot.tokenizers import molecules, quantizers
from anyglot.tokenizers.molecules import Molecule, to_rdkit
from anyglot.tokenizers.networks.atom_coder import GROUPS, AtomBatch, AtomCoder, MaskedAtomModel, atom_batch
from anyglot.tokenizers.networks.gnn import GNNConfig
from anyglot.tokenizers.quantizers.grouped import GroupedQuantizer
from anyglot.train.device import local_device
from anyglot.train.finished import is_finished
from anyglot.train.log import TrainingLog
from anyglot.train.media import find_parts

CHUNK = 512  # molecules that are encoded at once
LOG_EVERY = 20


@dataclass
class MoleculeData:
    """files: documents with molecules. split, heldout: trained on, measured on. most: of each split, the first so many;
    0 for all."""

    files: list[str]
    split: str = "train"
    heldout: str = "heldout"
    most: int = 0


@dataclass
class AtomCodesConfig:
    """Configuration of the stage.

    elements: that molecules have; those with others are left out. gnn: of both encoders. dim: of what is quantized.
    quantizer: "grouped" with four sizes: carbon, nitrogen, oxygen, all others. coder_steps: of training it.
    target: what is guessed: codes, or elements, which is the baseline. steps: of guessing. masks, temperature, triplet:
    see `tokenizers.networks.atom_coder.MaskedAtomModel`. ridge: of the linear probe.
    """

    out: str
    data: MoleculeData
    stage: str = "atom_codes"
    elements: list[str] = field(default_factory=lambda: list(molecules.ELEMENTS))
    gnn: GNNConfig = field(default_factory=lambda: GNNConfig("gin", 3, 64, dropout=0.0, norm="layer"))
    dim: int = 32
    quantizer: dict[str, Any] = field(default_factory=dict)
    target: Literal["codes", "elements"] = "codes"
    coder_steps: int = 300
    steps: int = 300
    masks: list[float] = field(default_factory=lambda: [0.15, 0.3])
    temperature: float = 0.1
    triplet: float = 0.1
    batch_size: int = 64
    lr: float = 2e-3
    ridge: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.coder_steps, self.steps, self.batch_size) < 1 or self.ridge <= 0:
            raise ConfigError("coder_steps, steps and batch_size must be at least 1, ridge above 0")
        if len(self.masks) != 2 or not 0 < self.masks[0] < self.masks[1] < 1:
            raise ConfigError(f"masks: two shares of atoms, the smaller one first, got {self.masks}")


@dataclass
class Measured:
    """Of held-out molecules.

    codes, elements: perplexity of the atoms' codes, and of their elements. leaks: atoms whose code is of another
    element's group. environment_by_code, environment_by_element: share of atoms whose neighbourhood (hydrogens, and
    elements and bonds of the neighbours) is the commonest one of training atoms with that code, or that element.
    probe: R^2 of a ridge regression from the encoder's vectors of molecules to logP (Crippen's, computed by RDKit);
    probe_untrained: the same with an encoder that has learnt nothing. probe_counts: from counts of codes;
    probe_element_counts: from counts of elements.
    """

    codes: float
    elements: float
    leaks: int
    environment_by_code: float
    environment_by_element: float
    probe: float
    probe_untrained: float
    probe_counts: float
    probe_element_counts: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Trained:
    """The coder and the encoder that guessed its codes, with what they learnt from and are measured on."""

    numbers: list[int]
    coder: AtomCoder
    model: MaskedAtomModel
    untrained: MaskedAtomModel
    train: list[Molecule]
    heldout: list[Molecule]


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage. Raises AnyglotError: a mistake in the config, no molecules, or an `out` of another run."""
    from safetensors.torch import save_file

    config = typed(AtomCodesConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "set of atom codes"):
        return
    with TrainingLog(out, "atom codes", 0) as log:
        trained = train(config, where, log)
    for name, module in (("coder", trained.coder), ("encoder", trained.model.encoder)):
        with atomic_path(out / f"{name}.safetensors") as path:
            save_file(module.state_dict(), path)
    figures = measure(trained, config.ridge).to_json()
    write_json(out / "metrics.json", figures)
    write_json(out / "done.json", {**figures, "config": to_mapping(config)})


def train(config: AtomCodesConfig, where: str, log: TrainingLog | None = None) -> Trained:
    """The coder, then the encoder that guesses its codes. Raises AnyglotError."""
    numbers = molecules.atomic_numbers(config.elements)
    train, heldout = (load(config.data, split, numbers) for split in (config.data.split, config.data.heldout))
    config.gnn.check(f"{where}: gnn")
    torch.manual_seed(config.seed)
    device = local_device()
    quantizer = quantizers.build(config.quantizer, len(GROUPS) + 1 + config.dim, f"{where}: quantizer")
    if not isinstance(quantizer, GroupedQuantizer) or len(quantizer.groups) != len(GROUPS) + 1:
        raise ConfigError(
            f"{where}: quantizer: must be 'grouped' with four sizes: carbon, nitrogen, oxygen, all others"
        )
    coder = AtomCoder(config.gnn, numbers, config.dim, quantizer).to(device)
    generator = np.random.default_rng(config.seed)

    def draw() -> AtomBatch:
        chosen = generator.integers(len(train), size=config.batch_size)
        return atom_batch([train[i] for i in chosen], numbers).to(device)

    optimizer = torch.optim.AdamW(coder.parameters(), config.lr)
    for step in range(1, config.coder_steps + 1):
        loss = coder.loss(draw())
        _update(optimizer, loss)
        _report(log, step, config.coder_steps + config.steps, {"coder": loss})
    coder.eval()

    targets = quantizer.levels[0] if config.target == "codes" else len(numbers)
    arguments = (config.gnn, len(numbers), targets, config.masks, config.temperature, config.triplet)
    torch.manual_seed(config.seed)
    model = MaskedAtomModel(*arguments).to(device)
    torch.manual_seed(config.seed)
    untrained = MaskedAtomModel(*arguments).to(device).eval()
    optimizer = torch.optim.AdamW(model.parameters(), config.lr)
    for step in range(1, config.steps + 1):
        batch = draw()
        terms = model.loss(batch, coder.codes(batch) if config.target == "codes" else batch.element)
        _update(optimizer, torch.stack(list(terms.values())).sum())
        _report(log, config.coder_steps + step, config.coder_steps + config.steps, terms)
    return Trained(numbers, coder, model.eval(), untrained, train, heldout)


def load(data: MoleculeData, split: str, numbers: Sequence[int]) -> list[Molecule]:
    """The molecules of a split that have none but these elements. Raises AnyglotError if there are none."""
    found: list[Molecule] = []
    for part in find_parts(data.files, "graph", split):
        source = part.path if part.path is not None else part.data
        try:
            molecule = source if isinstance(source, Molecule) else molecules.read(source)
        except MediaError:
            continue
        if np.isin(molecule.atoms[:, 0], numbers).all():
            found.append(molecule)
        if data.most and len(found) == data.most:
            break
    if not found:
        raise ConfigError(f"data: no molecule of split {split!r} has only the elements of `elements`")
    return found


def measure(trained: Trained, ridge: float) -> Measured:
    """Figures on held-out molecules; see `Measured`."""
    from rdkit.Chem import Crippen

    codes = [codes_of(trained, part) for part in (trained.train, trained.heldout)]
    elements = [[m.atoms[:, 0] for m in part] for part in (trained.train, trained.heldout)]
    around = [[environments(m) for m in part] for part in (trained.train, trained.heldout)]
    sizes = [group.levels[0] for group in trained.coder.quantizer.groups]  # type: ignore[union-attr]
    group = np.repeat(np.arange(len(sizes)), sizes)
    wanted = np.concatenate([[GROUPS.index(n) if n in GROUPS else len(GROUPS) for n in part] for part in elements[1]])
    computed = Crippen.MolLogP  # type: ignore[attr-defined]
    logp = [np.array([computed(to_rdkit(m)) for m in part]) for part in (trained.train, trained.heldout)]

    def probe(features: Sequence[np.ndarray]) -> float:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        pipeline = make_pipeline(StandardScaler(), Ridge(ridge)).fit(features[0], logp[0])
        return float(pipeline.score(features[1], logp[1]))

    def embedded(model: MaskedAtomModel) -> list[np.ndarray]:
        parts = (trained.train, trained.heldout)
        return [np.concatenate([model.embed(b).cpu().numpy() for b in _batches(trained, part)]) for part in parts]

    return Measured(
        codes=perplexity(np.concatenate(codes[1])),
        elements=perplexity(np.concatenate(elements[1])),
        leaks=int((group[np.concatenate(codes[1])] != wanted).sum()),
        environment_by_code=guessed(codes, around),
        environment_by_element=guessed(elements, around),
        probe=probe(embedded(trained.model)),
        probe_untrained=probe(embedded(trained.untrained)),
        probe_counts=probe([_counts(part, sum(sizes)) for part in codes]),
        probe_element_counts=probe([_counts(part, max(trained.numbers) + 1) for part in elements]),
    )


def codes_of(trained: Trained, part: Sequence[Molecule]) -> list[np.ndarray]:
    """Codes `[atoms]` of each molecule."""
    flat = torch.cat([trained.coder.codes(batch).cpu() for batch in _batches(trained, part)]).numpy()
    return np.split(flat, np.cumsum([len(molecule) for molecule in part])[:-1])


def environments(molecule: Molecule) -> list[Hashable]:
    """Of each atom: its element and hydrogens, and the elements and bonds around it."""
    around: list[list[tuple[int, int]]] = [[] for _ in range(len(molecule))]
    for first, second, kind in molecule.bonds.tolist():
        around[first].append((int(molecule.atoms[second, 0]), kind))
        around[second].append((int(molecule.atoms[first, 0]), kind))
    atoms = molecule.atoms[:, [0, 2]].tolist()
    return [(element, hydrogens, *sorted(a)) for (element, hydrogens), a in zip(atoms, around, strict=True)]


def guessed(names: Sequence[Sequence[np.ndarray]], around: Sequence[Sequence[list[Hashable]]]) -> float:
    """Share of held-out atoms whose environment is the commonest one of training atoms with the same name."""
    seen: dict[int, Counter[Hashable]] = defaultdict(Counter)
    for named, found in zip(names[0], around[0], strict=True):
        for name, environment in zip(named.tolist(), found, strict=True):
            seen[name][environment] += 1
    commonest = {name: counter.most_common(1)[0][0] for name, counter in seen.items()}
    right = [
        commonest.get(name) == environment
        for named, found in zip(names[1], around[1], strict=True)
        for name, environment in zip(named.tolist(), found, strict=True)
    ]
    return float(np.mean(right))


def perplexity(names: np.ndarray) -> float:
    """How many names there would be, were they used evenly."""
    shares = np.unique(names, return_counts=True)[1] / len(names)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _counts(part: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How often each name occurs in each molecule, `[molecules, size]`."""
    return np.stack([np.bincount(names, minlength=size) for names in part]).astype(np.float64)


def _batches(trained: Trained, part: Sequence[Molecule]) -> list[AtomBatch]:
    device = next(trained.coder.parameters()).device
    chunks = [part[start : start + CHUNK] for start in range(0, len(part), CHUNK)]
    return [atom_batch(chunk, trained.numbers).to(device) for chunk in chunks]


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _report(log: TrainingLog | None, step: int, steps: int, terms: dict[str, Tensor]) -> None:
    if log is not None:
        log.advance(step, steps, "")
        if step % LOG_EVERY == 0 or step == steps:
            log.scalars(step, steps, {name: float(value.detach()) for name, value in terms.items()})
