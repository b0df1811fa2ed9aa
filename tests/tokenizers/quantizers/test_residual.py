from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.residual import ResidualQuantizer

VQ = {"type": "vq", "size": 16, "kmeans_init": False, "reset_below": 0.0}


def residual(levels: int, dim: int = 5, inner: dict[str, object] = VQ, **options: object) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = build({"type": "residual", "levels": levels, "inner": inner, **options}, dim)
    assert isinstance(quantizer, ResidualQuantizer)
    return quantizer


def test_encode_equals_slow_greedy_search() -> None:
    quantizer = residual(4).eval()
    z = torch.randn(50, 5)
    left, codes = z.numpy().astype(np.float64), []
    for level in quantizer.stack:
        codebook = level.codebook.weight.numpy()
        codes.append(((left[:, None] - codebook) ** 2).sum(-1).argmin(1))
        left = left - codebook[codes[-1]]
    assert quantizer.encode(z).tolist() == np.stack(codes, 1).tolist()
    np.testing.assert_allclose(quantizer(z).vectors, z.numpy() - left, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dropout", [0.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("source", ["ema", "learned"])
def test_gradient_is_the_identity_for_any_number_of_levels(
    levels: int, dropout: float, masked: bool, source: str
) -> None:
    quantizer = residual(levels, inner={**VQ, "codebook": source}, dropout=dropout)
    z = torch.randn(6, 4, 5, requires_grad=True)
    mask = torch.rand(6, 4) < 0.7 if masked else None
    direction = torch.randn(6, 4, 5)
    (gradient,) = torch.autograd.grad((quantizer(z, mask).vectors * direction).sum(), z)
    assert torch.equal(gradient, direction if mask is None else direction * mask[..., None])


@pytest.mark.parametrize(
    "inner", [VQ, {**VQ, "codebook": "learned"}, {**VQ, "width": 3, "metric": "cosine"}, {"type": "lfq", "bits": 5}]
)
def test_every_level_commits(inner: dict[str, object]) -> None:
    """The mean over levels holds one term of each: its gradient is the mean of all levels' own."""
    levels = 4
    quantizer = residual(levels, inner=inner).eval()
    z = torch.randn(30, 5, requires_grad=True)
    (whole,) = torch.autograd.grad(quantizer(z).losses["commitment"], z)
    left, parts = z, []
    for level, scale in quantizer._levels():
        result = level.quantize(left / scale, torch.arange(30))
        (part,) = torch.autograd.grad(result.losses["commitment"], z, retain_graph=True)
        assert part.abs().sum() > 1e-3
        parts.append(part)
        left = left - (result.vectors * scale).detach()
    torch.testing.assert_close(whole, torch.stack(parts).mean(0))


def test_commitment_of_two_levels_by_hand() -> None:
    quantizer = residual(2, dim=1, inner={**VQ, "size": 2})
    quantizer.stack[0].codebook.weight.copy_(torch.tensor([[0.0], [4.0]]))
    quantizer.stack[1].codebook.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([[5.5]], requires_grad=True)
    result = quantizer.eval()(z)
    assert result.codes.tolist() == [[1, 1]]
    assert result.vectors.tolist() == [[5.0]]
    assert result.losses["commitment"].item() == (1.5**2 + 0.5**2) / 2
    assert torch.autograd.grad(result.losses["commitment"], z)[0].tolist() == [[(2 * 1.5 + 2 * 0.5) / 2]]


# Dropout


def test_dropout_draws_a_depth_for_each_sample() -> None:
    quantizer = residual(4, dropout=1.0)
    result = quantizer(torch.randn(200, 7, 5))
    depths = (result.codes >= 0).sum(-1)
    assert (depths == depths[:, :1]).all()  # equal within a sample
    assert (result.codes[..., :-1] >= 0).logical_or(result.codes[..., 1:] < 0).all()  # only last levels are dropped
    counts = torch.bincount(depths[:, 0], minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 25).all()  # 50 expected of each of 1 .. 4


def test_dropout_share_of_samples() -> None:
    result = residual(4, dropout=0.5)(torch.randn(2000, 1, 5))
    full = (result.codes >= 0).all(-1).float().mean().item()
    assert abs(full - (0.5 + 0.5 / 4)) < 0.05


def test_dropout_only_in_training() -> None:
    assert (residual(4, dropout=1.0).eval()(torch.randn(50, 3, 5)).codes >= 0).all()


def test_dropped_levels_decode_to_what_forward_gave() -> None:
    quantizer = residual(4, dropout=1.0, inner={**VQ, "codebook": "learned"})
    result = quantizer(torch.randn(50, 3, 5))
    assert (result.codes == -1).any()
    torch.testing.assert_close(quantizer.decode(result.codes), result.vectors)


def test_dropped_levels_learn_nothing_from_the_sample() -> None:
    quantizer = residual(3, dropout=1.0)
    z = torch.randn(1, 40, 5)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    while True:  # until the one sample keeps one level only
        result = quantizer(z)
        if (result.codes[..., 1:] == -1).all():
            break
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    after = quantizer.state_dict()
    assert not torch.equal(after["stack.0.codebook.counts"], before["stack.0.codebook.counts"])
    for level in (1, 2):
        for name in ("weight", "counts", "sums"):
            assert torch.equal(after[f"stack.{level}.codebook.{name}"], before[f"stack.{level}.codebook.{name}"])


def test_negative_codes_never_reach_a_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyglot.tokenizers.quantizers import codebook

    seen = []
    gather = codebook.F.embedding
    monkeypatch.setattr(codebook.F, "embedding", lambda codes, weight: seen.append(codes) or gather(codes, weight))
    quantizer = residual(4, dropout=1.0)
    result = quantizer(torch.randn(50, 3, 5), torch.rand(50, 3) < 0.5)
    quantizer.decode(result.codes)
    assert len(seen) == 8
    assert all((codes >= 0).all() for codes in seen)


# Depth


def trained(inner: dict[str, object], levels: int = 4, **options: object) -> tuple[ResidualQuantizer, Tensor]:
    quantizer = residual(levels, inner=inner, **options)
    for seed in range(60):
        quantizer(torch.randn(400, 5, generator=torch.Generator().manual_seed(seed)))
    return quantizer.eval(), torch.randn(2000, 5, generator=torch.Generator().manual_seed(1000))


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "vq", "size": 16},
        {"type": "lfq", "bits": 5},
        {"type": "fsq", "sizes": [5, 5, 5, 5, 5], "bound": "clamp"},
        {"type": "fsq", "sizes": [8, 7, 4, 5, 6], "bound": "clamp"},
    ],
)
def test_error_falls_with_every_level(inner: dict[str, object]) -> None:
    quantizer, z = trained(inner)
    if inner["type"] == "fsq":  # inside the range of its levels
        z = torch.rand(2000, 5) * 1.2 - 0.6
    codes = quantizer.encode(z)
    errors = []
    for depth in range(5):
        prefix = torch.where(torch.arange(4) < depth, codes, -1)
        errors.append((quantizer.decode(prefix) - z).square().mean().item())
    assert errors[0] == pytest.approx(z.square().mean().item())
    assert all(after < 0.8 * before for before, after in pairwise(errors))
    if inner["type"] == "fsq":  # each level divides the step by its number of levels
        assert errors[4] < 1e-3 * errors[1]


def test_all_codes_of_all_levels_come_into_use() -> None:
    quantizer, z = trained({"type": "vq", "size": 32})
    codes = quantizer.encode(z)
    assert [len(codes[:, level].unique()) for level in range(4)] == [32] * 4


def test_levels_start_one_after_the_other() -> None:
    """As many vectors as codes: a first level that started on them would leave residuals of 0 to the second."""
    quantizer = residual(3, inner={"type": "vq", "size": 16})
    ready = []
    for seed in range(14):
        result = quantizer(torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)))
        ready.append([bool(level.ready) for level in quantizer.stack])
        assert torch.equal((result.codes >= 0).all(0), torch.tensor(ready[-1]))
    assert ready[2] == [False, False, False]
    assert ready[3] == [True, False, False]
    assert ready[7] == [True, True, False] or ready[8] == [True, True, False]
    assert ready[-1] == [True, True, True]
    for level in quantizer.stack:
        codes = level.codebook.vectors()
        assert len(codes.unique(dim=0)) == 16
        assert codes.norm(dim=1).max() > 0.1


def test_residual_width_is_projected_once() -> None:
    quantizer = residual(3, dim=8, width=5)
    assert {name for name, _ in quantizer.named_parameters()} == {
        "project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"
    }  # fmt: skip


def test_fully_masked_start_keeps_all_parameters_in_the_graph() -> None:
    """DistributedDataParallel stops when a parameter has no gradient; levels that wait must give one (of 0)."""
    quantizer = residual(3, inner={"type": "vq", "size": 16, "codebook": "learned", "width": 3})
    result = quantizer(torch.randn(4, 5, requires_grad=True))
    (quantizer.loss(result) + result.vectors.sum()).backward()
    assert [name for name, parameter in quantizer.named_parameters() if parameter.grad is None] == []


# One codebook for all levels


def test_shared_codebook_is_one_and_updated_once_a_step() -> None:
    quantizer = residual(3, shared=True)
    assert {name for name, _ in quantizer.named_buffers() if name.endswith("weight")} == {"stack.0.codebook.weight"}
    z = torch.randn(50, 5, requires_grad=True)
    book, twin = quantizer.stack[0].codebook, build(VQ, 5)
    twin.load_state_dict(quantizer.stack[0].state_dict())
    left, residuals = z.detach(), []
    for _ in range(3):
        residuals.append(left)
        left = left - book.weight[torch.cdist(left, book.weight).argmin(1)]
    result = quantizer(z)
    torch.testing.assert_close(result.vectors, z.detach() - left, atol=1e-5, rtol=0)
    twin(torch.cat(residuals).requires_grad_())  # statistics of all depths together
    assert book.updates == 1
    torch.testing.assert_close(book.weight, twin.codebook.weight)
    torch.testing.assert_close(book.counts, twin.codebook.counts)


def test_shared_codebook_ignores_masked_positions() -> None:
    quantizer, other = residual(3, shared=True), residual(3, shared=True)
    z = torch.randn(4, 9, 5)
    mask = torch.rand(4, 9) < 0.5
    z[~mask] = torch.nan
    quantizer(z.requires_grad_(), mask)
    other(z[mask])
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("inner", [{"type": "vq", "size": 32}, {"type": "vq", "size": 32, "codebook": "learned"}])
def test_error_falls_with_every_level_of_a_shared_codebook(inner: dict[str, object]) -> None:
    quantizer = residual(4, inner=inner, shared=True)
    optimizer = torch.optim.Adam([*quantizer.parameters(), torch.nn.Parameter(torch.zeros(1))], 1e-2)
    for seed in range(200):
        result = quantizer(torch.randn(400, 5, generator=torch.Generator().manual_seed(seed)).requires_grad_())
        optimizer.zero_grad()
        quantizer.loss(result).backward()
        optimizer.step()
    z = torch.randn(2000, 5, generator=torch.Generator().manual_seed(1000))
    codes = quantizer.eval().encode(z)
    prefixes = [torch.where(torch.arange(4) < depth, codes, -1) for depth in range(5)]
    errors = [(quantizer.decode(prefix) - z).square().mean().item() for prefix in prefixes]
    assert all(after < 0.8 * before for before, after in pairwise(errors))


def test_shared_codebook_with_dropout_sees_no_dropped_level() -> None:
    quantizer = residual(4, shared=True, dropout=1.0)
    result = quantizer(torch.randn(200, 2, 5).requires_grad_())
    used = (result.codes >= 0).sum()
    assert used < 200 * 2 * 4
    decay = quantizer.stack[0].codebook.decay
    counted = (quantizer.stack[0].codebook.counts - decay).sum() / (1 - decay)  # counts began at 1
    assert counted.item() == pytest.approx(used.item(), rel=1e-3)


def test_every_depth_of_a_shared_codebook_commits() -> None:
    quantizer = residual(3, shared=True).eval()
    z = torch.randn(30, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z).losses["commitment"], z)
    left, expected = z.detach(), torch.zeros_like(z)
    for _ in range(3):
        book = quantizer.stack[0].codebook.weight
        left = left - book[torch.cdist(left, book).argmin(1)]
        expected += 2 * left / (3 * 30 * 5)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


# Gradient and beam


@pytest.mark.parametrize("levels", [1, 2, 8])
def test_rotation_passes_the_whole_stack_once(levels: int) -> None:
    """|gradient| is |vectors| / |z| times that of the result, however many levels; the angle is kept."""
    quantizer = residual(levels, gradient="rotation").eval()
    z, direction = torch.randn(40, 5, requires_grad=True), torch.randn(40, 5)
    vectors = quantizer(z).vectors
    (gradient,) = torch.autograd.grad((vectors * direction).sum(), z)
    scale = vectors.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), direction.norm(dim=1) * scale, atol=1e-4, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(gradient, z), cosine(direction, vectors), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inner", [{"type": "vq", "size": 16}, {"type": "lfq", "bits": 5}])
@pytest.mark.parametrize("shared", [False, True])
def test_wider_beam_is_never_worse_and_training_stays_greedy(inner: dict[str, object], shared: bool) -> None:
    quantizer, z = trained(inner, shared=shared)
    errors = []
    for beam in (1, 2, 8, 32):
        quantizer.beam = beam
        errors.append((quantizer(z).vectors - z).square().sum(1))
        assert torch.equal(quantizer.decode(quantizer.encode(z)), quantizer(z).vectors)
    assert all((wider <= errors[0] + 1e-6).all() for wider in errors)
    assert all(wider.mean() <= narrower.mean() + 1e-6 for narrower, wider in pairwise(errors))
    greedy = residual(4, inner=inner, shared=shared)
    greedy.load_state_dict(quantizer.state_dict())
    assert torch.equal(quantizer.train()(z).codes, greedy.train()(z).codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 0}, "beam: must be 1"),
        ({"beam": 2, "inner": {"type": "lfq", "bits": 18}}, "beam: lists all codes"),
        ({"beam": 2, "inner": {**VQ, "width": 3}}, "beam: compares sums"),
        ({"beam": 2, "inner": {**VQ, "metric": "cosine"}}, "beam: compares sums"),
        ({"gradient": "reverse"}, "gradient"),
    ],
)
def test_refuses_what_cannot_work(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"type": "residual", "levels": 2, "inner": VQ, **change}, 18)
