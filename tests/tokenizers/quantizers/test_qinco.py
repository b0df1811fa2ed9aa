"""QINCo: implicit codebooks, candidate selection, and the look-up decoder."""

import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.pairwise import decode_by_tables, fit_tables
from anyglot.tokenizers.quantizers.qinco import Qinco

QINCO = {"type": "qinco", "size": 8, "levels": 3, "hidden": 16, "epochs": 8}
DIM = 6


def curved(count: int = 800, seed: int = 0) -> Tensor:
    """A residual here depends on where the vector is: what one set of codebooks cannot follow."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(count, 1, generator=generator) * 6.28
    radius = 1 + 0.3 * torch.randn(count, 1, generator=generator)
    return torch.cat(
        [radius * angle.cos(), radius * angle.sin(), torch.cos(2 * angle), torch.sin(2 * angle), radius, radius**2], 1
    )


def fitted(x: Tensor, **changes: object) -> Qinco:
    quantizer = build({**QINCO, **changes}, x.shape[1])
    assert isinstance(quantizer, Qinco)
    quantizer.fit(x)
    return quantizer.eval()


def error(quantizer: Qinco, x: Tensor) -> float:
    return float((quantizer.decode(quantizer.encode(x)) - x).square().sum(1).mean())


@pytest.fixture(scope="module")
def trained() -> Qinco:
    return fitted(curved())


def test_greedy_encoding_equals_a_slow_search(trained: Qinco) -> None:
    x = curved(20, seed=1)
    for vector, codes in zip(x, trained.encode(x), strict=True):
        decoded = torch.zeros(1, DIM)
        for level in range(3):
            options = [decoded + trained.adapt(level, torch.tensor([[k]]), decoded)[0] for k in range(8)]
            errors = torch.stack([(option[0] - vector).square().sum() for option in options])
            assert errors[codes[level]] <= errors.min() + 1e-5
            decoded = options[codes[level]]
        torch.testing.assert_close(trained.decode(codes), decoded[0])


def test_codebooks_depend_on_what_is_decoded_so_far(trained: Qinco) -> None:
    all_codes = torch.arange(8).expand(2, -1)
    books = trained.adapt(1, all_codes, torch.tensor([[1.0] * DIM, [-1.0] * DIM]))
    assert (books[0] - books[1]).abs().max() > 0.05
    first = trained.adapt(0, all_codes, torch.randn(2, DIM))
    assert torch.equal(first[0], first[1])


def test_error_is_below_that_of_a_residual_quantizer() -> None:
    plain = build({"type": "rvq", "size": 8, "levels": 3, "start": "subspace"}, DIM)
    plain.fit(curved(2000))
    x = curved(seed=1)
    trained = fitted(curved(2000), epochs=15)
    assert error(trained, x) < 0.85 * error(plain, x)


def test_a_wider_beam_lowers_the_error_and_a_beam_of_one_is_greedy() -> None:
    quantizer, x = fitted(curved()), curved(seed=1)
    greedy = quantizer.encode(x)
    found = []
    for beam in (1, 2, 8, 64):
        quantizer.config.beam = beam
        found.append(error(quantizer, x))
        if beam == 1:
            assert torch.equal(quantizer.encode(x), greedy)
    assert found[0] > found[1] > found[2] >= found[3]


def test_all_candidates_preselected_are_no_preselection(trained: Qinco) -> None:
    x = curved(seed=1)
    before = trained.encode(x)
    trained.config.preselect = 8
    assert torch.equal(trained.encode(x), before)
    trained.config.preselect = 0


def test_few_candidates_lose_little() -> None:
    x = curved(seed=1)
    few, all_of_them = fitted(curved(), preselect=3), fitted(curved(), preselect=0)
    assert error(few, x) < 1.15 * error(all_of_them, x)


def test_scale_of_the_vectors_does_not_matter() -> None:
    x = curved()
    small, large = fitted(x), fitted(x * 1024)
    assert (small.encode(x) == large.encode(x * 1024)).float().mean() > 0.99


def test_fit_is_reproducible_and_leaves_no_gradients(trained: Qinco) -> None:
    with torch.no_grad():
        other = fitted(curved())
    for key, value in trained.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
        assert not value.requires_grad
    assert not list(trained.parameters())


# The look-up decoder


def test_tables_of_sums_are_found_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, (2000, 3), generator=generator)
    tables = torch.randn(3, 4, 5, generator=generator)
    x = tables[torch.arange(3), codes].sum(1)
    found = decode_by_tables(codes, *fit_tables(x, codes, 4, 0))
    torch.testing.assert_close(found, x, atol=1e-3, rtol=1e-3)


def test_a_pair_that_matters_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, (4000, 4), generator=generator)
    x = torch.randn(16, 5, generator=generator)[codes[:, 1] * 4 + codes[:, 3]]
    singles, which, tables = fit_tables(x, codes, 4, 1)
    assert which.tolist() == [[1, 3]]
    left = (decode_by_tables(codes, singles, which, tables) - x).square().mean()
    assert left < 0.02 * (decode_by_tables(codes, singles, which[:0], tables[:0]) - x).square().mean()


def test_pairs_come_nearer_than_single_codes() -> None:
    train, x = curved(3000), curved(seed=1)
    quantizer = fitted(train, pairs=3, beam=2, preselect=4)
    codes = quantizer.encode(x)
    single = decode_by_tables(codes, *fit_tables(train, quantizer.encode(train), 8, 0))
    assert (quantizer.approximate(codes) - x).square().mean() < 0.9 * (single - x).square().mean()


def test_no_tables_no_approximation(trained: Qinco) -> None:
    with pytest.raises(AnyglotError, match="no pairwise decoder; fit one with `pairs`"):
        trained.approximate(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 1}, "size"),
        ({"levels": 1}, "levels"),
        ({"hidden": 0}, "hidden"),
        ({"blocks": 0}, "blocks"),
        ({"beam": 0}, "beam"),
        ({"preselect": 9}, "preselect"),
        ({"pairs": -1}, "pairs"),
        ({"lr": 0.0}, "lr"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_refuses_what_cannot_work(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**QINCO, **change}, DIM)
