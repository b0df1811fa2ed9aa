"""CIDEr-D and BLEU against slow twins and pycocoevalcap's own numbers; COCO's files."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import AnyglotError
from anyglot.eval.benchmarks.caption_metrics import bleu, cider_d, simple_words
from anyglot.eval.benchmarks.coco_captions import run

CANDIDATES = ["a black cat sits on a mat", "two dogs run", "a red kite in the sky above the hill"]
REFERENCES = [
    ["a black cat is on the mat", "the cat sits on a mat"],
    ["two dogs run in the grass", "dogs are running", "two brown dogs"],
    ["a red kite flies in the sky"],
]
PEER_CIDER = [5.13918548, 2.33873503, 3.6551281]  # of these by pycocoevalcap 1.2
PEER_BLEU = [0.78947368, 0.76948376, 0.68315283, 0.50251138]
caption = st.lists(st.sampled_from(["a", "the", "cat", "dog", "red", "sits"]), min_size=1, max_size=9)
picture = st.tuples(caption, st.lists(caption, min_size=1, max_size=3))


def split(texts):
    return [text.split() for text in texts]


def slow_cider_d(candidates, references):
    """Whole vectors over all n-grams that there are, in NumPy."""

    def count(words, order):
        grams = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
        return np.array([grams.count(gram) for gram in known], dtype=float)

    scores = np.zeros(len(candidates))
    for order in range(1, 5):
        texts = [*candidates, *(reference for group in references for reference in group)]
        known = sorted({tuple(text[i : i + order]) for text in texts for i in range(len(text) - order + 1)})
        if not known:
            continue
        pictures = sum(np.any([count(reference, order) > 0 for reference in group], axis=0) for group in references)
        idf = np.log(len(references)) - np.log(np.maximum(pictures, 1))
        for place, (words, group) in enumerate(zip(candidates, references, strict=True)):
            mine = count(words, order) * idf
            for reference in group:
                other = count(reference, order) * idf
                norms = np.linalg.norm(mine) * np.linalg.norm(other)
                penalty = math.exp(-((len(words) - len(reference)) ** 2) / 72)
                if norms:
                    scores[place] += penalty * (np.minimum(mine, other) @ other) / norms / len(group) / 4 * 10
    return scores


@settings(max_examples=60, deadline=None)
@given(st.lists(picture, min_size=1, max_size=4))
def test_cider_d_is_its_slow_twin(pictures):
    candidates, references = zip(*pictures, strict=True)
    assert cider_d(candidates, references) == pytest.approx(slow_cider_d(candidates, references), abs=1e-9)


def test_the_numbers_are_pycocoevalcap_s():
    candidates, references = split(CANDIDATES), [split(group) for group in REFERENCES]
    assert cider_d(candidates, references) == pytest.approx(PEER_CIDER, abs=1e-6)
    assert bleu(candidates, references) == pytest.approx(PEER_BLEU, abs=1e-6)


def test_bleu_by_hand():
    # "a cat sat" against "a cat sat down": 3/3, 2/2, 1/1, none of four; brevity exp(1 - 4/3)
    brevity = math.exp(1 - 4 / 3)
    assert bleu([["a", "cat", "sat"]], [[["a", "cat", "sat", "down"]]]) == pytest.approx([brevity] * 3 + [0.0])
    # "the the" may count "the" once: 1/2, no bigram right
    assert bleu([["the", "the"]], [[["the", "cat"]]]) == pytest.approx([0.5, 0, 0, 0])
    assert bleu([[]], [[["cat"]]]) == [0.0] * 4


def test_simple_words():
    assert simple_words("A dog\u2019s bowl, isn't it?") == ["a", "dog", "'s", "bowl", "is", "n't", "it"]
    assert simple_words("Two well-fed cats... 3.5 m apart") == ["two", "well-fed", "cats", "3.5", "m", "apart"]
    assert simple_words(" -- !") == []


@pytest.fixture
def coco(tmp_path):
    """Annotations of the three pictures, and a config."""
    pictures = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    captions = [{"image_id": n, "caption": text} for n, group in enumerate(REFERENCES) for text in group]
    (tmp_path / "captions.json").write_text(json.dumps({"images": pictures, "annotations": captions}))
    config = {"kind": "coco_captions", "out": str(tmp_path / "out"), "annotations": str(tmp_path / "captions.json")}

    def measured(results, **more):
        (tmp_path / "results.json").write_text(json.dumps(results))
        return run(config | {"results": str(tmp_path / "results.json")} | more, "here")

    return measured


def test_a_results_file_is_scored_and_what_is_missing_told(coco, tmp_path):
    lines = [{"image_id": n, "caption": text} for n, text in enumerate(CANDIDATES)]
    found = coco(lines, tokenized=True)
    assert found["coco.cider_d"] == pytest.approx(np.mean(PEER_CIDER), abs=1e-6)
    assert found["coco.bleu_4"] == pytest.approx(PEER_BLEU[3], abs=1e-6)
    own = coco(lines[:2])
    assert own.keys() == {"coco.cider_d_simple_words", *(f"coco.bleu_{n}_simple_words" for n in range(1, 5))}
    record = json.loads((tmp_path / "out" / "records.json").read_text())["figures"]["coco.cider_d_simple_words"]
    assert (record["n"], record["failed"]) == (2, {"2": "no caption"})


def test_a_caption_is_worth_the_same_whichever_others_failed(coco, tmp_path):
    """As the weights are of the references of all pictures that were asked about."""
    lines = [{"image_id": n, "caption": text} for n, text in enumerate(CANDIDATES)]
    for kept in ([0, 1], [1, 2], [2]):
        coco([lines[n] for n in kept], tokenized=True)
        figure = json.loads((tmp_path / "out" / "records.json").read_text())["figures"]["coco.cider_d"]
        assert figure["numerators"] == pytest.approx([PEER_CIDER[n] for n in kept], abs=1e-6)


def test_results_of_other_pictures_are_refused(coco):
    with pytest.raises(AnyglotError, match="picture 7 is there twice, or not in the annotations"):
        coco([{"image_id": 7, "caption": "a cat"}])
    with pytest.raises(AnyglotError, match="picture 1 is there twice"):
        coco([{"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "a dog"}])
    with pytest.raises(AnyglotError, match="not a list of image_id and caption"):
        coco([{"image": 1}])
