"""Real speech with transcripts: the English prompts of Debian's asterisk-core-sounds packages, one voice, 24 minutes.

Written below the output folder: speech/NAME.wav (mono 16-bit) and recorded.jsonl (text and speech documents).
An optional second source: it is to be had only where the packages lie in a local folder, or apt-get can fetch them.
Apt checks what it downloads against Debian's signatures; the packages are unpacked, not installed.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot.assets import cache_root
from anyglot.config import typed
from anyglot.data.corpora.names import split_of
from anyglot.errors import AssetError
from anyglot.files import atomic_path

PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-wav")  # transcripts, recordings
LICENCE = "CC BY-SA 3.0, (c) 2003-2010 Allison Smith"
TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
RECORDINGS = "usr/share/asterisk/sounds/en_US_f_Allison"


@dataclass
class RecordedCorpus:
    """Fields of configs/corpora/recorded.yaml; see there."""

    max_seconds: float = 10.0
    sample_rate: int = 16000
    heldout_one_in: int = 10


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Raises AssetError saying what to supply if the packages cannot be had."""
    config = typed(RecordedCorpus, mapping, where)
    packages = [_package(name) for name in PACKAGES]
    print(f"{', '.join(package.name for package in packages)}, licence: {LICENCE}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="anyglot.") as unpacked:
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", str(package), unpacked], check=True)
        _convert(Path(unpacked), out, config)


def transcripts(text: str) -> dict[str, str]:
    """Recording name -> what is said, from `name: words` lines; comments and [descriptions of sounds] left out."""
    found = {}
    for line in text.splitlines():
        name, colon, words = line.partition(":")
        words = " ".join(words.split())
        if colon and not line.startswith(";") and words and not words.startswith(("[", "(")):
            found[name.strip()] = words
    return found


def _convert(unpacked: Path, out: Path, config: RecordedCorpus) -> None:
    import soundfile
    import torch
    from torchaudio.functional import resample

    texts = transcripts(gzip.decompress((unpacked / TRANSCRIPTS).read_bytes()).decode("utf-8"))
    documents = []
    for name, text in sorted(texts.items()):
        recording = unpacked / RECORDINGS / f"{name}.wav"
        if not recording.is_file() or soundfile.info(recording).duration > config.max_seconds:
            continue
        samples, rate = soundfile.read(recording, dtype="float32")
        identity = name.replace("/", "_")
        converted = resample(torch.from_numpy(samples), rate, config.sample_rate).clamp(-1, 1).numpy()
        with atomic_path(out / "speech" / f"{identity}.wav") as temporary:
            soundfile.write(temporary, converted, config.sample_rate, subtype="PCM_16")
        parts = [{"type": "text", "text": text}, {"type": "speech", "path": f"speech/{identity}.wav"}]
        documents.append({"id": identity, "split": split_of(text, config.heldout_one_in), "parts": parts})
    with atomic_path(out / "recorded.jsonl") as temporary:
        temporary.write_text("".join(f"{json.dumps(item, ensure_ascii=False)}\n" for item in documents), "utf-8")


def _package(name: str) -> Path:
    """The .deb file: from the local folder, the cache, or downloaded by apt-get into the cache."""
    local, cache = os.environ.get("ANYGLOT_ASSETS"), cache_root() / "debian"
    for folder in [cache, *([Path(local)] if local else [])]:
        if found := sorted(folder.glob(f"{name}_*.deb")):
            return found[-1]
    supply = f"put {name}_*.deb in a folder and set ANYGLOT_ASSETS to it"
    if not shutil.which("dpkg-deb"):
        raise AssetError(f"{name}: this corpus needs dpkg-deb to unpack it; it is optional, nothing else depends on it")
    if local or not shutil.which("apt-get"):
        raise AssetError(f"{name} is not in {local or cache} and is not downloaded; {supply}")
    cache.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(["apt-get", "download", name], cwd=cache, capture_output=True, text=True)
    if not (found := sorted(cache.glob(f"{name}_*.deb"))):
        reason = (result.stderr.strip().splitlines() or ["apt-get gave no reason"])[-1]
        raise AssetError(f"cannot download {name} ({reason}); {supply}")
    return found[-1]
