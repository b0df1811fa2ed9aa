"""What is measured: a tokenizer of ours, a peer of the same size where there is one, and media for both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers

from anyglot.config import load_mapping, typed
from anyglot.tokenizers.action import ActionConfig, ActionTokenizer
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.pretrained_image import PretrainedImage, PretrainedImageConfig
from anyglot.tokenizers.pretrained_speech import PretrainedSpeech, PretrainedSpeechConfig
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer
from anyglot.tokenizers.video import VideoConfig, VideoTokenizer
from tokenizer_bench.peers import Emu3, Faiss, RustFast, Vectors


@dataclass
class Made:
    """amount: of units in the media. size, peer_size: parameters. comparable: share of equal codes, where they are to
    be equal."""

    ours: Any
    media: list[Any]
    amount: float
    peer: Any = None
    comparable: Callable[[Any, Any], float] | None = None
    size: int = field(init=False)
    peer_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size, self.peer_size = count(self.ours), count(self.peer)


@dataclass
class Case:
    name: str
    unit: str
    make: Callable[[], Made]
    peer: str = ""
    note: str = ""


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def share_equal(codes: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float(np.mean([torch.equal(a, b) for a, b in zip(codes, other, strict=True)]))


def speech() -> Made:
    model = load_mapping("speech/seanet", ["data.files=[]", "out=run"])["model"]
    peer = transformers.EncodecConfig(
        sampling_rate=16000, upsampling_ratios=[8, 5, 4, 2], target_bandwidths=[4.0], use_conv_shortcut=False
    )  # 8 codes of 1,024 for 320 samples; num_filters 32, hidden_size 128, two LSTM layers are its defaults
    generator = np.random.default_rng(0)
    media = [(0.1 * generator.standard_normal(n * 16000)).astype(np.float32) for n in (1, 2, 3)]
    ours = SpeechTokenizer(typed(SpeechConfig, model)).eval()
    return Made(ours, media, 6.0, PretrainedSpeech(PretrainedSpeechConfig("encodec", peer.to_dict())).eval())


def image() -> Made:
    network = {"patch": 1, "channels": [64, 64, 128, 128, 256], "blocks": 2, "decoder_blocks": 3, "attention": True}
    quantizer = {"type": "vq", "size": 16384, "width": 8, "metric": "cosine", "kmeans_init": False}
    ours = ImageTokenizer(typed(ImageConfig, {"network": network, "dim": 256, "quantizer": quantizer})).eval()
    peer = transformers.JanusVQVAEConfig(base_channels=64).to_dict()
    generator = np.random.default_rng(0)
    media = [generator.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(4)]
    return Made(ours, media, 4, PretrainedImage(PretrainedImageConfig("janus", peer)).eval())


def video() -> Made:
    network = {"patch": 1, "channels": [64, 128, 128, 256], "halve_time": [True, True, False], "blocks": 2}
    mapping = {
        "network": {**network, "decoder_blocks": 2, "groups": 32, "factorised": True},
        "dim": 18,
        "quantizer": {"type": "lfq", "bits": 18},
    }
    ours = VideoTokenizer(typed(VideoConfig, mapping)).eval()
    generator = np.random.default_rng(0)
    media = [generator.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8) for _ in range(2)]
    return Made(ours, media, 16, Emu3(64))


def motion() -> Made:
    model = load_mapping("motion/t2m", ["data.files=[]", "out=run"])["model"]
    generator = np.random.default_rng(0)
    media = [generator.standard_normal((n, 263)).astype(np.float32) for n in (196, 120, 64, 196)]
    return Made(MotionTokenizer(typed(MotionConfig, model)).eval(), media, sum(map(len, media)))


def action() -> Made:
    generator = np.random.default_rng(0)
    walks = [generator.standard_normal((600, 14)).cumsum(0) for _ in range(20)]
    kernel = np.hanning(30) / np.hanning(30).sum()
    smooth = [np.stack([np.convolve(c, kernel, "same") for c in walk.T], 1).astype(np.float32) for walk in walks]
    ours = ActionTokenizer(ActionConfig(features=14, chunk=50))
    ours.begin(smooth)  # on all: the peer clips what lies beyond
    return Made(ours, smooth[10:], 6000, RustFast(ours), share_equal)


def item() -> Made:
    from anyglot.tokenizers import quantizers

    quantizer = quantizers.build({"type": "rvq", "levels": 3, "size": 256}, 384, "quantizer").eval()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(8000, 384, generator=generator), dim=1)
    quantizer.fit(vectors[:4000])
    return Made(Vectors(quantizer), [vectors[4000:]], 4000, Faiss(quantizer), share_equal)


def graph() -> Made:
    from anyglot.tokenizers.graph import GraphConfig, GraphTokenizer
    from anyglot.tokenizers.molecules import from_smiles

    model = load_mapping("graph/molecules", ["data.files=[]", "out=run"])["model"]
    names = ["CCO", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "C[C@H](N)C(=O)O", "NS(=O)(=O)c1ccc(N)cc1", "CC1(C)C2CCC1(C)C(=O)C2"]
    return Made(GraphTokenizer(typed(GraphConfig, model)).eval(), [from_smiles(s, s) for s in names * 20], 100)


CASES = [
    Case("speech", "seconds of sound", speech, "EnCodec (transformers), the same SEANet and 8 x 1,024 codes"),
    Case("image", "pictures 128 x 128", image, "Janus' VQGAN (transformers), the same widths and blocks"),
    Case(
        "video", "frames 64 x 64", video, "Emu3's (transformers), the same widths and blocks",
        "ours convolves over space, then over time in every block, as VidTok does; Emu3 over time in few of them. The "
        "second one takes 0.6 of the time of the first on this CPU, which is the difference in encoding.",
    ),
    Case("motion", "frames", motion, note="transformers has no motion tokenizer."),
    Case(
        "action", "steps of 14 numbers", action, "FAST with the BPE of `tokenizers` (Rust), same merges",
        "equal codes; the rest of the path, a cosine transform by SciPy, is the same.",
    ),
    Case(
        "item", "vectors [384]", item, "faiss' ResidualQuantizer, same codebooks, beam 1",
        "the part of an item's path that has a peer: 3 x 256 residual codes of its embedding. Ours also checks what it "
        "is given; its products of matrices are the same.",
    ),
    Case(
        "graph", "molecules", graph,
        note="transformers has no molecule tokenizer; decoding is mostly the search for a molecule that can be.",
    ),
]  # fmt: skip
