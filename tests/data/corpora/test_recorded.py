import json
import os
import shutil

import pytest
import soundfile

from anyglot.assets import cache_root
from anyglot.data.corpora import recorded
from anyglot.errors import AssetError

FOLDERS = [
    cache_root() / "debian",
    *([recorded.Path(os.environ["ANYGLOT_ASSETS"])] if "ANYGLOT_ASSETS" in os.environ else []),
]


def test_transcripts_leave_out_sounds_and_comments():
    text = "; a comment: of theirs\n\nagent-pass: Please enter  your password.\nbeep: [a beep]\ndigits/1: one\nempty:\n"
    assert recorded.transcripts(text) == {"agent-pass": "Please enter your password.", "digits/1": "one"}


def test_absence_is_said_with_what_to_supply(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYGLOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANYGLOT_ASSETS", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(AssetError, match=r"asterisk-core-sounds-en_\*\.deb in a folder and set ANYGLOT_ASSETS"):
        recorded.run({}, tmp_path / "out", "test")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AssetError, match="needs dpkg-deb"):
        recorded.run({}, tmp_path / "out", "test")


def test_the_real_packages_become_documents(tmp_path):
    if not all(any(list(folder.glob(f"{name}_*.deb")) for folder in FOLDERS) for name in recorded.PACKAGES):
        pytest.skip("asterisk-core-sounds-en{,-wav} are not on this machine; `anyglot fetch recorded` gets them")
    recorded.run({"max_seconds": 2.0}, tmp_path, "test")
    documents = [json.loads(line) for line in (tmp_path / "recorded.jsonl").read_text("utf-8").splitlines()]
    assert len(documents) > 200
    assert {document["split"] for document in documents} == {"train", "heldout"}
    for document in documents:
        text, speech = document["parts"]
        info = soundfile.info(tmp_path / speech["path"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration <= 2.0
        assert text["text"]
