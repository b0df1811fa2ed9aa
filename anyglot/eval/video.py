"""How good a video tokenizer is: fidelity of clips and of what moves in them, beside what a still picture would get.

Everything is measured on what a user gets: uint8 clips out of `decode(encode(clip))`, cropped to the original's size.
"""

from collections.abc import Sequence

import numpy as np
import torch

from anyglot.data.documents import Document
from anyglot.eval.answers import Answer, share_right
from anyglot.eval.documents import part_of, text_of
from anyglot.eval.image import CodeUsage, FeatureGaussian, psnr
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.image import to_tensor
from anyglot.tokenizers.objectives.perceptual import PerceptualLoss
from anyglot.tokenizers.video import VideoTokenizer

BATCH = 16  # clips coded at once
KNOWN = 64  # known clips that an answer is compared with at once


def evaluate(
    tokenizer: VideoTokenizer,
    heldout: Sequence[np.ndarray],
    texts: Sequence[str] = (),
    usage_of: Sequence[np.ndarray] = (),
    features: str = "efficientnet_lite0",
    frechet_frames: int = 2,
) -> dict[str, float]:
    """Scores of a tokenizer on held-out clips, uint8 `[frames, height, width, 3]`.

    Args:
        texts: what they show; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: clips over which codebook usage is counted (default: `heldout`). Count over enough of them.
        features: network of the perceptual and the Frechet distance, "" for neither.
        frechet_frames: frames of each clip that the Frechet distance looks at, evenly spread.
    Returns:
        psnr_heldout: mean over clips, dB. mean_picture_psnr_heldout, mean_colour_psnr_heldout: the same of showing each
        clip's mean picture, or mean colour, all the time: baselines. first_frame_psnr_heldout: of first frames, coded
        as pictures. ssim_heldout: mean over frames of 11 pixels a side or more; absent without any.
        change_error_heldout: see `change_error`; 1 is what a still picture gets.
        perceptual_<network>_heldout: distance of deep features, mean over frames (`PerceptualLoss`, no LPIPS).
        frechet_<network>_heldout: of frames of originals and reconstructions; neither FID nor FVD, whose networks it
        does not use.
        values_per_code, pixels_per_code: red, green and blue of all frames, or pixels, over codes (of all levels).
        bits_per_pixel: at most. items: clips. codes: per clip, mean. codebook_usage: share of codes that occur, mean
        over levels. code_entropy_bits: of one code, mean over levels.
    """
    scores = Reconstructions(features, frechet_frames)
    usage = CodeUsage(tokenizer.spec.levels)
    for start in range(0, len(heldout), BATCH):
        clips = list(heldout[start : start + BATCH])
        codes = tokenizer.encode(clips)
        decoded = tokenizer.decode(codes, [(clip.shape[0], clip.shape[1], clip.shape[2]) for clip in clips])
        firsts = [clip[:1] for clip in clips]
        stills = tokenizer.decode(tokenizer.encode(firsts), [(1, clip.shape[1], clip.shape[2]) for clip in clips])
        for clip, output, first, still, code in zip(clips, decoded, firsts, stills, codes, strict=True):
            scores.update(clip, output)
            scores.count("first_frame_psnr_heldout", psnr(first, still))
            scores.count("codes", code.numel())
    counted = usage_of if len(usage_of) else heldout
    for start in range(0, len(counted), BATCH):
        usage.update(tokenizer.encode(list(counted[start : start + BATCH])))
    result = scores.result()
    pixels = sum(clip.shape[0] * clip.shape[1] * clip.shape[2] for clip in heldout)
    codes_in_all = result["codes"] * len(heldout)
    size = {
        "values_per_code": 3 * pixels / codes_in_all,
        "pixels_per_code": pixels / codes_in_all,
        "bits_per_pixel": codes_in_all / len(tokenizer.spec.levels) * tokenizer.spec.bits / pixels,
    }
    return {**result, **size, **usage.result()}


class Reconstructions:
    """The figures of pairs of clips, one at a time."""

    def __init__(self, features: str = "efficientnet_lite0", frechet_frames: int = 2) -> None:
        self.perceptual = PerceptualLoss(features) if features else None
        self.frechet_frames = frechet_frames
        self.features_of = (FeatureGaussian(), FeatureGaussian())
        self.values: dict[str, list[float]] = {}

    def count(self, name: str, value: float) -> None:
        """Add a value whose mean is wanted."""
        self.values.setdefault(name, []).append(value)

    @torch.no_grad()
    def update(self, original: np.ndarray, output: np.ndarray) -> None:
        """Add a clip and its reconstruction, of equal sizes."""
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        self.count("psnr_heldout", psnr(original, output))
        for name, axes in (("mean_picture", (0,)), ("mean_colour", (0, 1, 2))):
            baseline = np.broadcast_to(original.mean(axes).round(), original.shape)
            self.count(f"{name}_psnr_heldout", psnr(original, baseline))
        if min(original.shape[1:3]) >= 11:  # the size of SSIM's Gaussian window
            a, b = (torch.from_numpy(clip.astype(np.float32)).permute(0, 3, 1, 2) for clip in (output, original))
            self.count("ssim_heldout", float(ssim(a, b, data_range=255.0)))
        if (error := change_error(original, output)) is not None:
            self.count("change_error_heldout", error)
        if self.perceptual is not None:
            distance = self.perceptual(to_tensor(output), to_tensor(original))
            self.count(f"perceptual_{self.perceptual.network.name}_heldout", float(distance))
            shown = np.linspace(0, len(original) - 1, min(self.frechet_frames, len(original))).round().astype(int)
            for gaussian, clip in zip(self.features_of, (original, output), strict=True):
                gaussian.update(self.perceptual.network.pooled(to_tensor(clip[shown])))  # type: ignore[operator]

    def result(self) -> dict[str, float]:
        """Means over clips, how many, and the Frechet distance."""
        found = {name: float(np.mean(values)) for name, values in self.values.items()}
        found["items"] = float(len(self.values["psnr_heldout"]))
        if self.perceptual is not None and self.features_of[0].count > 1:
            name = self.perceptual.network.name
            found[f"frechet_{name}_heldout"] = self.features_of[0].distance_to(self.features_of[1])
        return found


def change_error(original: np.ndarray, output: np.ndarray) -> float | None:
    """How wrongly a clip moves: |changes of output - changes of original| / |changes of original|, root mean squares.

    A change is the difference of a frame and the one before. 0 is perfect, 1 is what a still picture gets, more is
    motion or flicker where there was none. None for a clip in which nothing changes.
    """
    wanted, made = (np.diff(clip.astype(np.float64), axis=0) for clip in (original, output))
    moved = float(np.sqrt((wanted**2).sum()))
    return float(np.sqrt(((made - wanted) ** 2).sum())) / moved if moved else None


class Check:
    """A clip is right if of all training clips of its frame size, and its own, the one nearest to it shows what was
    asked for: has the same text.

    Nearest in mean squared error, where the shorter of two clips holds its last frame.
    """

    def __init__(self, tokenizer: VideoTokenizer, training: Sequence[Document]) -> None:
        self.tokenizer = tokenizer
        found = [(_label(document), part_of(document, "video")) for document in training]
        self.known = [(label, media_of(tokenizer, part)) for label, part in found if part is not None]

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """nearest_is_right: share."""
        for answer in answers:
            wanted, made = part_of(answer.document, "video"), answer.part("video")
            assert wanted is not None
            own = media_of(self.tokenizer, wanted)
            answer.right = False
            if made is None or not isinstance(made.data, np.ndarray) or made.data.shape[1:] != own.shape[1:]:
                answer.note = "another size"
                continue
            known = [(_label(answer.document), own)] + [
                item for item in self.known if item[1].shape[1:] == own.shape[1:]
            ]
            distances = clip_distances(made.data, [clip for _, clip in known])
            label = known[int(distances.argmin())][0]
            answer.right = label == known[0][0]
            answer.note = f"nearest: {label}"
        return {"nearest_is_right": share_right(answers)}


def clip_distances(clip: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Mean squared errors of a clip and others of its frame size, `[others]`; the shorter holds its last frame."""
    found = []
    for start in range(0, len(others), KNOWN):
        batch = others[start : start + KNOWN]
        length = max(len(item) for item in (clip, *batch))
        table = np.stack([_held(item, length) for item in batch]).astype(np.float32)
        table -= _held(clip, length)
        # A pair is compared over the longer of the two, not over the longest of all.
        errors = (table**2).mean((2, 3, 4))
        longer = [max(len(clip), len(item)) for item in batch]
        found += [float(line[:count].mean()) for line, count in zip(errors, longer, strict=True)]
    return np.array(found)


def _held(clip: np.ndarray, length: int) -> np.ndarray:
    return clip[np.minimum(np.arange(length), len(clip) - 1)]


def _label(document: Document) -> str:
    return text_of(document) or document.id
