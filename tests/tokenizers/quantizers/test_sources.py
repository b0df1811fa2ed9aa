"""Codebooks that are functions of something: frozen, linear, projected, affine."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.vq import VectorQuantizer

FIXED = {"kmeans_init": False, "reset_below": 0.0}


def vq(size: int, dim: int, **options: object) -> VectorQuantizer:
    quantizer = build({"type": "vq", "size": size, **options}, dim)
    assert isinstance(quantizer, VectorQuantizer)
    return quantizer


def descend(quantizer: VectorQuantizer, batches: list[Tensor], lr: float = 1e-2) -> None:
    optimizer = torch.optim.Adam(quantizer.parameters(), lr)
    for z in batches:
        optimizer.zero_grad()
        quantizer.loss(quantizer(z)).backward()
        optimizer.step()


def test_frozen_codes_never_change_and_have_no_codebook_loss() -> None:
    quantizer = vq(8, 3, codebook="frozen", **FIXED)
    before = quantizer.codebook.vectors().clone()
    for _ in range(5):
        assert set(quantizer(torch.randn(50, 3)).losses) == {"commitment"}
    assert torch.equal(quantizer.codebook.vectors(), before)
    assert list(quantizer.parameters()) == []


def test_linear_codes_are_one_map_of_frozen_vectors() -> None:
    """A gradient through one code moves all of them; the frozen vectors stay."""
    quantizer = vq(64, 3, codebook="linear", **FIXED)
    fixed, before = quantizer.codebook.fixed.clone(), quantizer.codebook.vectors().detach()
    torch.testing.assert_close(before, quantizer.codebook.map(fixed).detach())
    one = before[5:6].repeat(20, 1) + 0.01
    assert (quantizer.encode(one) == 5).all()
    descend(quantizer, [one])
    assert torch.equal(quantizer.codebook.fixed, fixed)
    assert (quantizer.codebook.vectors() != before).any(1).all()
    assert {name for name, _ in quantizer.named_parameters()} == {"codebook.map.weight", "codebook.map.bias"}


def test_linear_decode_goes_through_the_map() -> None:
    """The published decoder looks codes up in the frozen vectors."""
    quantizer = vq(64, 3, codebook="linear", **FIXED)
    descend(quantizer, [torch.randn(100, 3) * 3 + 1 for _ in range(50)])
    z = torch.randn(100, 3)
    codes = quantizer.eval().encode(z)
    assert torch.equal(quantizer.decode(codes), quantizer(z).vectors)
    assert not torch.allclose(quantizer.decode(codes), quantizer.codebook.fixed[codes[:, 0]], atol=0.1)


def test_linear_brings_lost_codes_back_where_free_codes_stay_lost() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(128, 4) + torch.tensor([10.0, 0, 0, 0]) for _ in range(400)]
    used = {}
    for source in ("linear", "learned"):
        quantizer = vq(64, 4, codebook=source, **FIXED)
        descend(quantizer, batches, 0.02)
        used[source] = len(quantizer.encode(torch.cat(batches)).unique())
    assert used["linear"] > 10
    assert used["learned"] <= 2


def write_features(path: Path, count: int = 200, width: int = 5) -> Tensor:
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    save_file({"train": features}, path)
    return features


def projected(path: Path, **options: object) -> VectorQuantizer:
    return vq(20, 3, codebook="projected", features=str(path), feature_width=5, reset_below=0.0, **options)


def test_projected_codes_start_at_the_centres_of_the_features_and_only_the_map_learns(tmp_path: Path) -> None:
    features = write_features(tmp_path / "f.safetensors")
    quantizer = projected(tmp_path / "f.safetensors")
    assert not quantizer.ready
    quantizer(torch.randn(4, 3))
    centres = quantizer.codebook.fixed.clone()
    assert quantizer.ready
    members = torch.cdist(features[torch.arange(80) * 200 // 80], centres).argmin(1)  # 4 features for every code
    assert len(members.unique()) == 20
    used = features[torch.arange(80) * 200 // 80]
    torch.testing.assert_close(centres, torch.stack([used[members == k].mean(0) for k in range(20)]), atol=0.3, rtol=0)
    descend(quantizer, [torch.randn(40, 3) for _ in range(5)])
    assert torch.equal(quantizer.codebook.fixed, centres)


def test_projected_loads_without_the_features(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    write_features(path)
    quantizer = projected(path)
    quantizer(torch.randn(4, 3))
    path.unlink()
    other = projected(path)
    other.load_state_dict(quantizer.state_dict())
    z = torch.randn(30, 3)
    other(z)  # a training step goes on from the centres that were saved
    assert torch.equal(other.eval().encode(z), quantizer.eval().encode(z))


def test_unfit_features_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with pytest.raises(AnyglotError, match="f.safetensors: no such file"):
        projected(path)(torch.randn(4, 3))
    path.write_text("nothing")
    with pytest.raises(AnyglotError, match=r"needs a tensor 'train' \[n, 5\]"):
        projected(path)(torch.randn(4, 3))
    write_features(path, width=4)
    with pytest.raises(AnyglotError, match=r"expected features \[n, 5\], as feature_width says, got \[200, 4\]"):
        projected(path)(torch.randn(4, 3))
    write_features(path, count=7)
    with pytest.raises(AnyglotError, match="7 distinct features are too few for a codebook of 20"):
        projected(path)(torch.randn(4, 3))


def test_affine_by_hand() -> None:
    """(c - mean_c) std_z / std_c + mean_z, set by the first step."""
    quantizer = vq(4, 1, codebook="affine", **FIXED)
    codebook = quantizer.codebook
    with torch.no_grad():
        codebook.weight.copy_(torch.tensor([[0.0], [2.0], [4.0], [6.0]]))  # mean 3, variance 5
    quantizer(torch.tensor([[10.0], [30.0]]))  # mean 20, variance 100
    expected = (torch.tensor([[0.0], [2.0], [4.0], [6.0]]) - 3) * (100 / 5) ** 0.5 + 20
    torch.testing.assert_close(codebook.vectors().detach(), expected)
    quantizer(torch.tensor([[0.0], [0.0]]))  # and moving averages from then on
    torch.testing.assert_close(codebook.input_mean, torch.tensor([20 * 0.97]))


def test_affine_moves_codes_out_of_use_with_the_vectors() -> None:
    quantizer = vq(16, 3, codebook="affine", decay=0.9, **FIXED)
    for _ in range(60):
        quantizer(torch.randn(200, 3) * 5 + 40)
    codes = quantizer.codebook.vectors().detach()
    torch.testing.assert_close(codes.mean(0), torch.full((3,), 40.0), atol=1.0, rtol=0)
    torch.testing.assert_close(codes.std(0, correction=0), torch.full((3,), 5.0), atol=0.5, rtol=0)


def test_affine_places_codes_where_they_are_told() -> None:
    quantizer = vq(16, 3, codebook="affine", **FIXED)
    quantizer(torch.randn(200, 3) * 5 + 40)
    wanted = torch.randn(2, 3)
    with torch.no_grad():
        quantizer.codebook.place(torch.tensor([3, 7]), wanted, torch.ones(2))
    torch.testing.assert_close(quantizer.codebook.vectors()[[3, 7]].detach(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook": "affine", "metric": "cosine"}, "metric"),
        ({"codebook": "frozen"}, "reset_below"),
        ({"codebook": "linear", "reset_below": 0.0}, "kmeans_init"),
        ({"codebook": "frozen", "reset_below": 0.0}, "kmeans_init"),
        ({"codebook": "projected", "reset_below": 0.0}, "features"),
        ({"codebook": "projected", "features": "x", "reset_below": 0.0}, "features"),
        ({"codebook": "projected", "features": "x", "feature_width": 3}, "reset_below"),
        ({"codebook": "projected", "features": "x", "feature_width": 3, **FIXED}, "kmeans_init"),
        ({"features": "x"}, "features"),
        ({"reset": "split", "reset_below": 0.0}, "reset"),
        ({"gradient": "rotation", "width": 1}, "gradient"),
        ({"gradient": "turn"}, "gradient"),
        ({"reset": "nowhere"}, "reset"),
        ({"regulariser": {"kind": "nothing"}}, "regulariser"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"type": "vq", "size": 8, **options}, 4, "here")


def test_rotation_of_vectors_of_width_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing rotates in a width of 1"):
        vq(8, 1, gradient="rotation")


@pytest.mark.parametrize("source", ["learned", "ema", "affine"])
def test_choices_combine_freely(source: str) -> None:
    """Every source, gradient, reset and a regulariser together: a step changes the codebook and is finite."""
    for gradient in ("straight_through", "rotation"):
        for reset in ("vector", "split", "closest", "random", "probabilistic"):
            quantizer = vq(
                12, 4, codebook=source, gradient=gradient, reset=reset, width=3, regulariser={"kind": "entropy"}
            )
            descend(quantizer, [torch.randn(60, 4) for _ in range(2)])
            before = copy.deepcopy(quantizer.state_dict())
            descend(quantizer, [torch.randn(60, 4)])
            after = quantizer.state_dict()
            assert all(value.isfinite().all() for value in after.values())
            assert not torch.equal(after["codebook.weight"], before["codebook.weight"])
