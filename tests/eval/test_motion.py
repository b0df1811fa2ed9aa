"""Motion metrics on hand-computed numbers, their invariances, and the figures of a whole evaluation."""

from string import ascii_uppercase

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from anyglot import assets
from anyglot.config import load_mapping, typed
from anyglot.data.corpora import signs as corpus
from anyglot.data.documents import Document, Message, Part
from anyglot.eval.answers import Answer
from anyglot.eval.documents import load_documents, part_of, text_of
from anyglot.eval.motion import Check, evaluate, foot_skate_ratio, mpjpe, pa_mpjpe, velocity_error
from anyglot.eval.recognition import SignLetters, recognition
from anyglot.inference.anyglot import Reply
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.skeletons import signs
from anyglot.tokenizers.skeletons.figures import FIGURES
from anyglot.train.tokenizer import run as train

SQUARE = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0.5)])


def test_distances_by_hand():
    a = np.stack([SQUARE, SQUARE])
    b = a.copy()
    b[0, 1] += (3, 4, 0)  # 5 away, one of eight joints
    assert mpjpe(a, b) == pytest.approx(5 / 8)
    moved = a.copy()
    moved[1] += (0, 0, 2)  # two units between two frames, at 10 frames a second
    assert velocity_error(a, moved, 10.0) == pytest.approx(20.0)
    assert velocity_error(a + 7, a, 10.0) == 0


def test_aligned_error_knows_no_place_size_or_turn_but_mirror_images():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((6, 9, 3))
    turned = np.stack([Rotation.random(random_state=frame).as_matrix() for frame in range(6)])
    b = 2.5 * np.einsum("fij,fkj->fki", turned, a) + generator.standard_normal((6, 1, 3))
    assert pa_mpjpe(a, b) < 1e-9 < mpjpe(a, b)
    assert pa_mpjpe(b, a) < 1e-9
    assert pa_mpjpe(a, a * (-1, 1, 1)) > 0.1
    noisy = a + 0.1 * generator.standard_normal(a.shape)
    assert 0 < pa_mpjpe(a, noisy) < mpjpe(a, noisy)
    twin = []
    for original, found in zip(a, noisy, strict=True):  # frame by frame: scipy's own alignment, then the best scale
        x, y = original - original.mean(0), found - found.mean(0)
        best = Rotation.align_vectors(x, y)[0].apply(y)
        twin.append(np.linalg.norm(x - best * (x * best).sum() / (best**2).sum(), axis=1).mean())
    assert pa_mpjpe(a, noisy) == pytest.approx(float(np.mean(twin)), abs=1e-9)


def test_a_foot_skates_where_it_slides_on_the_floor():
    joints = np.zeros((5, 3, 3))  # two feet and something else
    joints[:, 0, 0] = (0, 0, 0.1, 0.2, 0.2)  # slides 0.1 m in two of four steps: 1 m/s at 10 frames a second
    joints[:, 1] = [(0, 0, 0), (0, 0.5, 0), (9, 0.5, 0), (9, 0, 0), (9, 0, 0)]  # steps: stands in the last only
    joints[:, 2, 0] = np.arange(5)
    assert foot_skate_ratio(joints, (0, 1), 10.0) == pytest.approx(2 / 5)
    assert foot_skate_ratio(joints, (0, 1), 1.0) == 0  # ten times slower
    joints[..., 1] += 1
    assert foot_skate_ratio(joints, (0, 1), 10.0) == 0  # nothing near the floor
    assert foot_skate_ratio(joints, (0, 1), 10.0, floor=1.0) == pytest.approx(2 / 5)


class Exact(MotionTokenizer):
    """Gives back what it got, off by `off` times the training standard deviation in every feature and frame."""

    off = 0.0

    def decode(self, codes, lengths=None):
        return [motion + self.off * self.std.numpy() for motion in self.given]

    def encode(self, media):
        self.given = list(media)
        return super().encode(media)


@pytest.mark.parametrize("skeleton", FIGURES)
def test_an_evaluation_says_what_it_measures(skeleton):
    features = FIGURES[skeleton].features
    torch.manual_seed(0)
    model = {"features": features, "network": {"width": 8, "blocks": 0}, "dim": 4, "skeleton": skeleton}
    quantizer = {"type": "vq", "size": 4, "kmeans_init": False}
    tokenizer = Exact(typed(MotionConfig, {**model, "quantizer": quantizer})).eval()
    generator = np.random.default_rng(0)
    media = [generator.standard_normal((n, features)).astype(np.float32) for n in (9, 16, 1)]
    tokenizer.begin(media)
    exact = evaluate(tokenizer, media)
    assert exact["variance_left_heldout"] == exact["joints_error"] == exact["velocity_error_heldout"] == 0
    assert exact["joints_error_aligned"] < 1e-6
    assert exact["items"] == 3
    assert exact["codes_per_second"] == 5
    assert exact["bits_per_second"] == 10
    assert 0 < exact["codebook_usage"] <= 1
    assert ("joints_skating_original" in exact) == (skeleton != "signs")
    tokenizer.off = 0.5
    shifted = evaluate(tokenizer, media)
    assert shifted["variance_left_heldout"] == pytest.approx(0.25, rel=1e-4)
    assert shifted["velocity_error_heldout"] == pytest.approx(0, abs=1e-5)
    assert shifted["joints_error"] > shifted["joints_error_aligned"] > 0
    assert shifted["still_velocity_error_heldout"] == exact["still_velocity_error_heldout"] > 1


def test_an_answer_is_right_if_the_nearest_training_motion_is_called_the_same():
    features = 5
    network = {"width": 8, "blocks": 0}
    mapping = {"features": features, "network": network, "dim": 4, "quantizer": {"type": "vq", "size": 4}}
    tokenizer = MotionTokenizer(typed(MotionConfig, mapping)).eval()
    slow = np.arange(40, dtype=np.float32)[:, None] * np.ones(features, np.float32)

    def document(text, motion):
        return Document(text, [Message(None, [Part("text", text=text), Part("motion", data=motion)])])

    training = [document("climb, in red", slow), document("climb, in blue", slow), document("fall, in red", -slow)]
    tokenizer.begin([slow, -slow])
    check = Check(tokenizer, training)
    assert check.names == ["climb", "fall"]
    asked = document("climb, in green", slow)
    written = [
        [Part("motion", data=slow[::2] + 1)],
        [Part("motion", data=-slow[:30])],
        [],
        [Part("text", text="climb")],
    ]
    answers = [Answer(asked, Reply([], [], parts)) for parts in written]
    assert check.judge(answers)["nearest_is_right"].value == 0.25
    assert [answer.right for answer in answers] == [True, False, False, False]
    assert [answer.note for answer in answers] == ["nearest: climb", "nearest: fall", "no motion", "no motion"]


def hands(count: int, kind: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Clips of a hand shape of its own, in noise."""
    shape = np.random.default_rng(kind).standard_normal(60)
    found = []
    for _ in range(count):
        clip = np.zeros((12, signs.FEATURES), np.float32)
        clip[:, signs.RIGHT.start] = 1
        clip[:, signs.RIGHT][:, 3:] = 0.3 * shape + 0.02 * generator.standard_normal((12, 60))
        found.append(clip)
    return found


def test_recognition_finds_shapes_and_falls_to_chance_without_them():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'anyglot[eval]'")
    generator = np.random.default_rng(0)
    training = [clip for kind in range(4) for clip in hands(6, kind, generator)]
    heldout = [clip for kind in range(4) for clip in hands(5, kind, generator)]
    flat = [np.zeros_like(clip) for clip in heldout]
    labels, wanted = list("AAAAAABBBBBBCCCCCCDDDDDD"), list("AAAAABBBBBCCCCCDDDDD")
    found = recognition(SignLetters(), training, labels, heldout, flat, wanted)
    assert found.original.mean() == 1.0
    assert found.decoded.mean() == 0.25  # the same answer to all
    assert found.original.shape == (20,)


def test_statistics_know_no_size_and_no_length():
    clip = hands(1, 0, np.random.default_rng(0))[0]
    letters = SignLetters()
    larger = clip.copy()
    larger[:, signs.RIGHT][:, 3:] *= 1.7
    np.testing.assert_allclose(letters(larger), letters(clip), rtol=1e-4, atol=1e-5)
    slower = np.repeat(clip, 2, axis=0)
    np.testing.assert_allclose(letters(slower), letters(clip), atol=0.05)


@pytest.mark.slow
def test_letters_are_still_recognised_after_coding(tmp_path):
    """One fold of scripts/bench_motion.py; all of them say what share is kept, with an interval."""
    if not assets.cached("spoken-to-signed"):
        pytest.skip("the wheel of spoken-to-signed is not cached; `anyglot fetch signs` downloads it")
    corpus.run({}, tmp_path, "here")
    train(load_mapping("motion/signs", [f"data.files=[{tmp_path / 'signs.jsonl'}]", f"out={tmp_path / 'run'}"]), "here")
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    clips: dict[str, list] = {"train": [], "heldout": []}
    for document in load_documents([tmp_path / "signs.jsonl"]):
        letter = text_of(document).split()[2]
        if len(letter) == 1 and letter in ascii_uppercase:
            clips[document.split].append((tokenizer.read(part_of(document, "motion").path), letter))
    training, labels = zip(*clips["train"], strict=True)
    heldout, wanted = zip(*clips["heldout"], strict=True)
    decoded = tokenizer.decode(tokenizer.encode(heldout), [len(clip) for clip in heldout])
    found = recognition(SignLetters(), training, labels, heldout, decoded, wanted)
    assert len(heldout) == 80
    assert found.original.mean() > 0.45
    assert found.decoded.mean() > 0.75 * found.original.mean()
