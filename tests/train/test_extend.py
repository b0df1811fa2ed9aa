"""`anyglot extend`: a model learns a modality out of a file, keeps what it knew, and is a plain checkpoint again."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from anyglot.data.documents import Message, Part
from anyglot.data.shards import ShardInfo, write_shard
from anyglot.errors import AnyglotError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.registered import VARIABLE, register
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.train.extend import ExtendConfig, logits_apart, prepare, run
from tests.inference.bundles import make_bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "tune.py"
SMALL = ["rows_steps=8", "layers_steps=8", "rows_learning_rate=0.02", "layers_learning_rate=0.01"]
SMALL += ["pretrain={data: {length: 64, rows: 4}, precision: fp32, log_every: 1, save_every: 5, evaluate_batches: 3}"]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model of text, pictures and speech."""
    return make_bundle(tmp_path_factory.mktemp("extend") / "model")


def write_words(folder, bundle):
    """A token store of the old vocabulary: the same few words over and over."""
    vocabulary = Vocabulary.load(bundle)
    document = Grammar(vocabulary).serialise([Turn(None, [Span("text", np.arange(12) % 5)])])
    folder.mkdir()
    vocabulary.save(folder)
    info = ShardInfo("job", vocabulary.fingerprint, {}, {}, list(vocabulary.modality_names))
    write_shard(folder / "00000.arrow", [(str(n), document) for n in range(40)], info)
    return folder


def write_songs(folder, splits=("train", "heldout")):
    """Scales up and down from every tone of C major."""
    scale = "CDEFGABcdefgab"
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(28):
        notes = [scale[(number + step) % 14] for step in range(6)]
        abc = f"X:1\nK:C\n{''.join(notes if number % 2 else notes[::-1])}"
        parts = [{"type": "text", "text": "a red kite"}, {"type": "tune", "content": abc}]
        lines.append(json.dumps({"id": str(number), "split": splits[number % 7 == 0], "parts": parts}))
    (folder / "songs.jsonl").write_text("\n".join(lines))
    return folder


def test_a_model_learns_tunes_and_keeps_what_it_knew(bundle, tmp_path, capsys):
    import transformers

    words, songs, out = write_words(tmp_path / "words", bundle), write_songs(tmp_path / "songs"), tmp_path / "out"
    settings = [*SMALL, f"replay.words={words}", f"heldout.words={words}"]
    run(bundle, EXAMPLE, songs, out, settings)

    old = Vocabulary.load(bundle)
    report = json.loads((out / "report.json").read_text())
    assert report["logits_apart"] == {"start": 0.0, "rows": 0.0}
    assert report["ids"] == {"old": old.size, "new": old.size + 2 + 128 + 384}
    bits = report["bits"]
    assert list(bits) == ["checkpoint", "start", "rows", "layers"]
    tune = [bits[stage]["heldout"]["bits/tune"] for stage in ("start", "rows", "layers")]
    assert tune[0] > tune[1] > tune[2]
    assert bits["start"]["words"]["bits/text"] >= bits["checkpoint"]["words"]["bits/text"]  # more ids share the sum
    assert bits["layers"]["words"]["bits/text"] < bits["rows"]["words"]["bits/text"]  # replayed
    printed = " ".join(capsys.readouterr().err.split())
    assert "bits per id of" in printed
    assert f"Logits over the {old.size:,} old ids: 0.0 from the checkpoint's before the first step" in printed

    def tensors(directory):
        return transformers.AutoModelForCausalLM.from_pretrained(directory).state_dict()

    before, rows, after = (tensors(directory) for directory in (bundle, out / "rows" / "model", out / "model"))
    name = "model.embed_tokens.weight"
    assert all(torch.equal(before[key], rows[key]) for key in before if key not in (name, "lm_head.weight"))
    for found in (rows, after):
        assert torch.equal(found[name][: old.size], before[name][: old.size])
    assert not torch.equal(after["model.layers.1.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])

    model = Anyglot.load(out / "model")
    assert list(model.tokenizers) == ["image", "speech", "tune"]
    (reply,) = model.write([[Message(None, [Part("text", text="a red kite")])]], to="tune", max_tokens=30)
    model.tokenizers["tune"].write(reply.parts[-1].data, tmp_path / "written.abc")

    done = (out / "done.json").stat().st_mtime_ns
    run(bundle, EXAMPLE, songs, out, settings)
    assert (out / "done.json").stat().st_mtime_ns == done
    with pytest.raises(AnyglotError, match="made with another 'rows_steps'"):
        run(bundle, EXAMPLE, songs, out, [*settings, "rows_steps=9"])


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(bundle, tmp_path):
    songs = write_songs(tmp_path / "songs")
    reports = []
    for world in (1, 2):
        out = tmp_path / str(world)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        command += ["-m", "anyglot", "extend", str(bundle), "--modality", str(EXAMPLE), "--data", str(songs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--out", str(out), *SMALL], check=True, timeout=300, env=environment)
        reports.append(json.loads((out / "report.json").read_text()))
    one, two = (report["bits"]["layers"]["heldout"] for report in reports)
    assert two == pytest.approx(one, rel=1e-3)


def test_a_tokenizer_that_is_trained(bundle, tmp_path):
    """The file says how; the settings of the command line are merged over its own."""
    file = tmp_path / "sensor.py"
    text = """
        from dataclasses import replace

        from anyglot.tokenizers.motion import MotionTokenizer
        from anyglot.tokenizers.objectives.motion import CONFIG, OBJECTIVE, crop, show


        class SensorTokenizer(MotionTokenizer):
            modality = "sensor"

            @property
            def spec(self):
                return replace(super().spec, modality="sensor")


        TOKENIZER = SensorTokenizer
        NETWORK = {"width": 8, "blocks": 1}
        TRAINING = {
            "model": {"features": 3, "dim": 4, "quantizer": {"type": "vq", "size": 16}, "network": NETWORK},
            "objective": {"frames": 8}, "steps": 50, "batch_size": 4,
        }
    """
    file.write_text(textwrap.dedent(text))
    lines = []
    for number in range(8):
        values = np.random.default_rng(number).standard_normal((16, 3)).astype(np.float32)
        np.save(tmp_path / f"{number}.npy", values)
        parts = [{"type": "text", "text": "the sun"}, {"type": "sensor", "path": f"{number}.npy"}]
        lines.append(json.dumps({"split": "heldout" if number > 5 else "train", "parts": parts}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    name = register(file)
    out = tmp_path / "out"
    config = ExtendConfig(str(bundle), str(file), str(tmp_path / "data.jsonl"), str(out), training={"steps": 2})
    prepare(config, name)
    assert json.loads((out / "tokenizer" / "done.json").read_text())["steps"] == 2
    tokenizer = load_tokenizer(out / "start" / "tokenizers" / "sensor")
    assert tokenizer.spec.modality == "sensor"
    assert Vocabulary.load(out / "start").modality("sensor").fingerprint == tokenizer.fingerprint
    assert logits_apart(bundle, out / "start", Vocabulary.load(bundle)) == 0.0


def test_changed_rows_are_seen(bundle, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(bundle, tmp_path / "changed")
    tensors = load_file(tmp_path / "changed" / "model.safetensors")
    old = Vocabulary.load(bundle)
    tensors["model.embed_tokens.weight"][old.size - 1, 0] += 0.25
    save_file(tensors, tmp_path / "changed" / "model.safetensors", {"format": "pt"})
    assert logits_apart(bundle, tmp_path / "changed", old) >= 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rows_steps=0"], "rows_steps must be 1 or more"),
        (["row_steps=3"], "unknown key 'row_steps'; did you mean 'rows_steps'?"),
        (["heldout.heldout=x"], "the name 'heldout' is that of the new modality's own documents"),
        (["out=x"], "out= is not a setting here"),
        (["training.steps=4"], "training.steps: tune has no OBJECTIVE"),
        (["take={bundle}/tokenizers/image"], "is a tokenizer of 'image'; this modality is 'tune'"),
    ],
)
def test_settings_that_cannot_be(bundle, tmp_path, settings, message):
    songs = write_songs(tmp_path / "songs")
    with pytest.raises(AnyglotError, match=message):
        run(bundle, EXAMPLE, songs, tmp_path / "out", [*SMALL, *(one.format(bundle=bundle) for one in settings)])


def test_documents_that_are_not_there(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnyglotError, match="holds no documents"):
        run(bundle, EXAMPLE, tmp_path / "empty", tmp_path / "out", SMALL)
    songs = write_songs(tmp_path / "songs", splits=("train", "train"))
    with pytest.raises(AnyglotError, match="source 'heldout': no document could be used"):
        run(bundle, EXAMPLE, songs, tmp_path / "out2", SMALL)


def test_a_modality_that_the_model_has(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "model")
    tune = CodeSpec("tune", (128, 384), (Axis("note", "open", 256),))
    Vocabulary.load(bundle).extend(tune, "t").save(tmp_path / "model")
    with pytest.raises(AnyglotError, match="knows 'tune' already; train it further with `anyglot train`"):
        run(tmp_path / "model", EXAMPLE, tmp_path, tmp_path / "out")
