import json
import logging

import numpy as np
import pytest
from PIL import Image

from anyglot.errors import AnyglotError
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.train.media import MediaCorpus, find_parts

CONFIG = ImageConfig(quantizer={"type": "fsq", "sizes": [8, 5]}, dim=2)
CONFIG.network.channels, CONFIG.network.groups = [8], 8


@pytest.fixture
def tokenizer():
    return ImageTokenizer(CONFIG)


def corpus(folder, documents, broken=()):
    for name in {part["path"] for d in documents for part in d["parts"] if "path" in part}:
        if name in broken:
            (folder / name).write_bytes(b"")
        else:
            Image.new("RGB", (4, 4), (int(name[0]), 0, 0)).save(folder / name)
    path = folder / "images.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def document(name, **fields):
    return {"parts": [{"type": "text", "text": "a"}, {"type": "image", "path": name}], **fields}


def test_splits_and_repetitions(tmp_path, tokenizer):
    file = corpus(
        tmp_path,
        [
            document("1.png", split="train"),
            document("2.png", split="heldout"),
            document("3.png"),
            document("1.png", split="train"),
        ],
    )
    assert [p.path.name for p in find_parts([file], "image", "train")] == ["1.png", "3.png"]
    assert [p.path.name for p in find_parts([file], "image", "heldout")] == ["2.png", "3.png"]
    with pytest.raises(AnyglotError, match=r"no speech in split 'train' of .*images\.jsonl"):
        find_parts([file], "speech", "train")


@pytest.mark.parametrize("room", [0, 50, 10**6])
def test_media_are_the_same_with_any_cache(tmp_path, tokenizer, room):
    file = corpus(tmp_path, [document(f"{i}.png") for i in range(4)])
    media = MediaCorpus(find_parts([file], "image", "train"), tokenizer, room)
    for _ in range(2):
        assert [int(picture[0, 0, 0]) for picture in media[:]] == [0, 1, 2, 3]


def test_a_bad_medium_is_reported_once_and_another_stands_in(tmp_path, tokenizer, caplog):
    file = corpus(tmp_path, [document(f"{i}.png") for i in range(3)], broken={"2.png"})
    media = MediaCorpus(find_parts([file], "image", "train"), tokenizer, 10**6)
    with caplog.at_level(logging.WARNING):
        assert [int(media[2][0, 0, 0]) for _ in range(2)] == [0, 0]
    assert len(caplog.records) == 1
    assert "2.png: empty file" in caplog.text


def test_nothing_readable_is_an_error(tmp_path, tokenizer):
    file = corpus(tmp_path, [document("1.png")], broken={"1.png"})
    media = MediaCorpus(find_parts([file], "image", "train"), tokenizer, 0)
    with pytest.raises(AnyglotError, match="none of 1 media can be read"):
        media[0]


def test_arrays_in_memory_pass_through(tokenizer):
    from anyglot.data.documents import Part

    picture = np.zeros((4, 4, 3), np.uint8)
    assert MediaCorpus([Part("image", data=picture)], tokenizer, 0)[0] is picture
