"""VBench's temporal flickering by hand, and from files."""

import numpy as np
import pytest

from anyglot.errors import AnyglotError, MediaError
from anyglot.eval.benchmarks import vbench


def test_flickering_by_hand():
    still = np.full((4, 2, 2, 3), 200, dtype=np.uint8)
    assert vbench.temporal_flickering(still) == 1.0
    flickers = still.copy()
    flickers[1] = 149  # 51 away and back, then nothing: (51 + 51 + 0) / 3 of 255
    assert vbench.temporal_flickering(flickers) == pytest.approx(1 - 34 / 255)
    worst = np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), 255)]).astype(np.uint8)
    assert vbench.temporal_flickering(worst) == 0.0
    with pytest.raises(MediaError, match="single frame"):
        vbench.temporal_flickering(still[:1])


def test_the_published_scale():
    found = vbench.scores_of({"a": 0.6293, "b": 1.0}, {"c": "broken"})
    assert found["vbench.temporal_flickering_unfiltered"].value == pytest.approx((0.6293 + 1) / 2)
    assert found["vbench.temporal_flickering_unfiltered_normalised"].value == pytest.approx(0.5)
    assert found["vbench.temporal_flickering_unfiltered"].failed == {"c": "broken"}


def test_a_folder_of_videos(tmp_path):
    pytest.importorskip("av", reason="videos need the extra `video`")
    from anyglot.tokenizers.clips import write_clip

    (tmp_path / "below").mkdir()
    write_clip(np.full((5, 16, 16, 3), 90, dtype=np.uint8), 8, tmp_path / "below" / "still.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = vbench.run({"kind": "vbench", "out": str(tmp_path / "out"), "videos": str(tmp_path)}, "here")
    assert found["vbench.temporal_flickering_unfiltered"] == pytest.approx(1.0, abs=1e-3)
    from anyglot.eval.records import Records

    score = Records.load(tmp_path / "out").scores["vbench.temporal_flickering_unfiltered"]
    assert (score.ids, list(score.failed)) == (["below/still.mp4"], ["broken.mp4"])
    with pytest.raises(AnyglotError, match="no videos"):
        vbench.run({"kind": "vbench", "out": str(tmp_path), "videos": str(tmp_path / "none")}, "here")
