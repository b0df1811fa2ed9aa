"""How good an image tokenizer is: fidelity of its reconstructions, and how much of its codebook it uses.

Everything is measured on what a user gets: uint8 pictures out of `decode(encode(picture))`, cropped to the size of the
original. All metrics stream: pictures go through in batches.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from anyglot.data.documents import Document
from anyglot.eval.answers import Answer, mean_of, share_right
from anyglot.eval.documents import part_of
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.image import ImageTokenizer, to_tensor
from anyglot.tokenizers.networks.features import feature_network


def evaluate(
    tokenizer: ImageTokenizer,
    heldout: Sequence[np.ndarray],
    texts: Sequence[str] = (),
    usage_of: Sequence[np.ndarray] = (),
    features: str = "efficientnet_lite0",
    batch: int = 64,
) -> dict[str, float]:
    """Scores of a tokenizer on held-out pictures, uint8 `[height, width, 3]`.

    Args:
        texts: what they show; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: pictures over which codebook usage is counted (default: `heldout`). Count over enough of them: a
            codebook of K codes cannot be seen whole in fewer than K codes.
        features: network of the Frechet distance, "" for none; it needs dozens of pictures to mean anything.
    Returns:
        psnr_heldout: mean over pictures, dB. psnr_pooled_heldout: of the squared error over all pictures, dB, which
        flat pictures do not lift. ssim_heldout: mean over pictures of 11 pixels a side or more; absent without any.
        mean_colour_psnr_heldout: PSNR of painting each picture in its mean colour, a baseline. items: pictures
        measured. codes: per picture, mean. bits_per_pixel: at most. codebook_usage: share of the codes that occur,
        mean over levels. code_entropy_bits: of one code, mean over levels. frechet_<network>_heldout: distance of
        originals and reconstructions; it is no FID, whose network it does not use.
    """
    scores = Reconstructions(features)
    for start in range(0, len(heldout), batch):
        originals = list(heldout[start : start + batch])
        codes = tokenizer.encode(originals)
        scores.update(originals, tokenizer.decode(codes, [(p.shape[0], p.shape[1]) for p in originals]), codes)
    result = scores.result(tokenizer.spec.bits)
    usage = CodeUsage(tokenizer.spec.levels)
    counted = usage_of if len(usage_of) else heldout
    for start in range(0, len(counted), batch):
        usage.update(tokenizer.encode(list(counted[start : start + batch])))
    return {**result, **usage.result()}


class Reconstructions:
    """PSNR, SSIM (torchmetrics, on 0..255 integers with data_range=255) and Frechet distance of picture pairs."""

    def __init__(self, features: str = "efficientnet_lite0") -> None:
        self.network = feature_network(features) if features else None
        self.features_of = (FeatureGaussian(), FeatureGaussian())
        self.psnr: list[float] = []
        self.ssim: list[float] = []
        self.baseline: list[float] = []
        self.error = self.pixels = self.codes = 0.0

    def update(self, originals: Sequence[np.ndarray], decoded: Sequence[np.ndarray], codes: Sequence[Tensor]) -> None:
        """Add pairs of pictures of equal sizes, and the codes that lay between them."""
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        for original, output, code in zip(originals, decoded, codes, strict=True):
            a, b = (torch.from_numpy(p.astype(np.float32)).permute(2, 0, 1)[None] for p in (original, output))
            self.psnr.append(psnr(original, output))
            self.baseline.append(psnr(original, np.broadcast_to(original.mean((0, 1)).round(), original.shape)))
            if min(original.shape[:2]) >= 11:  # the size of SSIM's Gaussian window
                self.ssim.append(float(ssim(a, b, data_range=255.0)))
            self.error += float((a - b).square().sum())
            self.pixels += original.shape[0] * original.shape[1]
            self.codes += code[..., 0].numel()
        if self.network is not None:
            for gaussian, pictures in zip(self.features_of, (originals, decoded), strict=True):
                for shape in {picture.shape for picture in pictures}:
                    alike = np.stack([picture for picture in pictures if picture.shape == shape])
                    gaussian.update(self.network.pooled(to_tensor(alike)))  # type: ignore[operator]

    def result(self, bits: float) -> dict[str, float]:
        """The scores so far; `bits` that one code carries at most."""
        scores = {
            "psnr_heldout": float(np.mean(self.psnr)),
            "psnr_pooled_heldout": _decibels(self.error / (3 * self.pixels)),
            "mean_colour_psnr_heldout": float(np.mean(self.baseline)),
            "items": float(len(self.psnr)),
            "codes": self.codes / len(self.psnr),
            "bits_per_pixel": self.codes * bits / self.pixels,
        }
        if self.ssim:
            scores["ssim_heldout"] = float(np.mean(self.ssim))
        if self.network is not None:
            scores[f"frechet_{self.network.name}_heldout"] = self.features_of[0].distance_to(self.features_of[1])
        return scores


class Check:
    """A picture is right if of all training pictures of its size, and its own, the one nearest to it in mean squared
    error is its own."""

    def __init__(self, tokenizer: ImageTokenizer, training: Sequence[Document]) -> None:
        self.tokenizer = tokenizer
        by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = defaultdict(list)
        for document in training:
            if (part := part_of(document, "image")) is not None:
                picture = media_of(tokenizer, part)
                by_shape[picture.shape].append((document.id, picture))
        self.pictures = {  # shape -> names, and pictures float32 [pictures, height * width * 3]
            shape: ([name for name, _ in known], np.stack([_line(picture) for _, picture in known]))
            for shape, known in by_shape.items()
        }

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """nearest_is_right: share. psnr in dB, of the squared error over all pictures that have the right size."""
        errors, comparable = [], []
        for answer in answers:
            wanted, made = part_of(answer.document, "image"), answer.part("image")
            assert wanted is not None
            own = media_of(self.tokenizer, wanted)
            answer.right = False
            if made is None or not isinstance(made.data, np.ndarray) or made.data.shape != own.shape:
                answer.note = "another size"
                continue
            line = _line(made.data)
            errors.append(float(((_line(own) - line) ** 2).mean()))
            comparable.append(answer)
            names, table = self.pictures.get(own.shape, ([answer.document.id], _line(own)[None]))
            distances = ((table - line) ** 2).mean(1)
            answer.right = bool(errors[-1] <= distances.min())
            nearest = names[int(distances.argmin())].replace("_", " ")
            answer.note = "nearest is its own" if answer.right else f"nearest: {nearest}"
        figures = {"nearest_is_right": share_right(answers)}
        if errors:
            figures["psnr"] = mean_of(comparable, errors, scale="psnr")
        return figures


class FeatureGaussian:
    """Mean and covariance of features, summed in float64; as the Gaussian that the Frechet distance compares.

    Heusel et al., arXiv 1706.08500: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None
        self.outer: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add features `[batch, channels]`."""
        f = features.double().cpu()
        self.count += len(f)
        self.total = f.sum(0) + (0 if self.total is None else self.total)
        self.outer = f.T @ f + (0 if self.outer is None else self.outer)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `[channels]` and unbiased covariance `[channels, channels]`. Needs 2 pictures."""
        assert self.total is not None
        assert self.outer is not None
        mean = self.total / self.count
        return mean, (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)

    def distance_to(self, other: "FeatureGaussian") -> float:
        """The distance to another set. The root's trace is the sum of roots of the eigenvalues of C1 C2."""
        (mean1, cov1), (mean2, cov2) = self.moments(), other.moments()
        values, vectors = torch.linalg.eigh(cov1)
        root = vectors * values.clamp(min=0).sqrt()  # root @ root.T = C1
        shared = torch.linalg.eigvalsh(root.T @ cov2 @ root).clamp(min=0).sqrt().sum()  # same eigenvalues, symmetric
        return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared)


class CodeUsage:
    """How often each code of each level occurs."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in levels]

    def update(self, codes: Sequence[Tensor]) -> None:
        """Add code arrays `[*grid, levels]`."""
        for level, counts in enumerate(self.counts):
            for code in codes:
                counts += torch.bincount(code[..., level].flatten(), minlength=len(counts))

    def result(self) -> Mapping[str, float]:
        """Usage and entropy in bits, means over levels."""
        shares = [counts.double() / counts.sum() for counts in self.counts]
        entropy = [float(torch.special.entr(share).sum() / np.log(2)) for share in shares]
        usage = [float((counts > 0).double().mean()) for counts in self.counts]
        return {"codebook_usage": float(np.mean(usage)), "code_entropy_bits": float(np.mean(entropy))}


def psnr(original: np.ndarray, output: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures, dB; 100 where they are equal."""
    return _decibels(float(np.mean((original.astype(np.float64) - output.astype(np.float64)) ** 2)))


def _line(picture: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]` as float32 `[height * width * 3]`."""
    return picture.astype(np.float32).reshape(-1)


def _decibels(error: float) -> float:
    return float(10 * np.log10(255.0**2 / max(error, 255.0**2 * 1e-10)))
