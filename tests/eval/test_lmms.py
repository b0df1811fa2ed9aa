"""lmms-eval finds our model by its entry point and asks it a local task of pictures (`make test-lmms`)."""

import json
import os
import subprocess
import sys
from zlib import crc32

import pytest
from PIL import Image

from anyglot.data.documents import Message, Part
from anyglot.errors import ConfigError, MismatchError
from anyglot.inference.anyglot import Anyglot
from tests.inference.bundles import WORDS, make_bundle, write_picture

pytest.importorskip("lmms_eval", reason="lmms-eval has an environment of its own: make test-lmms")

TASK = """\
task: anyglot_names
dataset_path: parquet
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_messages: !function names.doc_to_messages
doc_to_visual: !function names.doc_to_visual
doc_to_text: "what is this?"
doc_to_target: name
generation_kwargs: {max_new_tokens: 12, until: ["#"], do_sample: true, image_aspect_ratio: original}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""
FUNCTIONS = """\
def doc_to_visual(doc):
    return [doc["picture"]]


def doc_to_messages(doc):
    content = [{"type": "image", "url": doc["picture"]}, {"type": "text", "text": "what is this?"}]
    return [{"role": "user", "content": content}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and a task of six pictures, the last of which is too large for it; its names are what is answered."""
    import datasets

    folder = tmp_path_factory.mktemp("lmms")
    directory = make_bundle(folder / "model")
    model = Anyglot.load(directory)
    names = []
    for number in range(len(WORDS)):
        path = write_picture(folder / f"{number}.png", 8, 400 if number == len(WORDS) - 1 else 12, seed=number)
        picture = Part("image", path=path)
        if number < len(WORDS) - 1:
            asked = [Message("user", [picture, Part("text", text="what is this?")])]
            (reply,) = model.write([asked], "text", 12, seed=crc32(f"anyglot_names/{number}".encode()))
            names.append("".join(part.text or "" for part in reply.parts).partition("#")[0].strip())
    assert len(set(names)) == len(names)
    names[-1] = "something else"
    names.append("never read")
    features = datasets.Features({"picture": datasets.Image(), "name": datasets.Value("string")})
    pictures = [str(folder / f"{number}.png") for number in range(len(WORDS))]
    data = datasets.Dataset.from_dict({"picture": pictures, "name": names}, features=features)
    (folder / "task").mkdir()
    data.to_parquet(folder / "names.parquet")
    (folder / "task" / "anyglot_names.yaml").write_text(TASK.replace("FILE", str(folder / "names.parquet")))
    (folder / "task" / "names.py").write_text(FUNCTIONS)
    return folder


def evaluate(folder, name, *arguments, batch=4):
    """lmms-eval in a process of its own, offline; its metrics and its samples."""
    words = ["--model", "anyglot", "--model_args", ",".join([f"pretrained={folder / 'model'}", *arguments])]
    words += ["--tasks", "anyglot_names", "--include_path", str(folder / "task"), "--batch_size", str(batch)]
    words += ["--log_samples", "--output_path", str(folder / name)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "lmms_eval", *words]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline, cwd=folder)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    (results,) = (folder / name).rglob("*results.json")
    (samples,) = (folder / name).rglob("*samples_anyglot_names.jsonl")
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    answers = {record["doc_id"]: record["filtered_resps"] for record in records}
    return json.loads(results.read_text())["results"]["anyglot_names"], answers, run.stderr


def test_pictures_are_asked_about_and_the_batch_changes_nothing(folder):
    results, answers, told = evaluate(folder, "together", batch=4)
    assert results["exact_match,none"] == pytest.approx((len(WORDS) - 2) / len(WORDS))
    assert answers[len(WORDS) - 1] == ""
    assert "document 5: not answered" in told
    assert "400 x 8 pixels" in told
    assert told.count("image_aspect_ratio") == 1, "told once"
    _, alone, _ = evaluate(folder, "alone", "max_side=16", batch=1)
    assert {key: answers[key] for key in range(5)} == {key: alone[key] for key in range(5)}
    assert alone[5], "shrunk, it can be read"


def test_pictures_are_drawn(folder):
    _, answers, _ = evaluate(folder, "drawn", "to=image", "max_tokens=40", f"out={folder / 'media'}", "max_side=16")
    for answer in answers.values():
        (path,) = json.loads(answer)["images"]
        assert Image.open(path).format == "PNG"
        assert path.startswith(str(folder / "media" / "anyglot_names"))


def test_what_cannot_be_is_said_before_any_task(folder):
    from lmms_eval.models import get_model

    model = get_model("anyglot")
    with pytest.raises(MismatchError, match="writes no 'motion'"):
        model(pretrained=str(folder / "model"), to="motion")
    with pytest.raises(ConfigError, match="batch_size 'auto'"):
        model(pretrained=str(folder / "model"), batch_size="auto")
    with pytest.raises(NotImplementedError, match="chat models only write"):
        model(pretrained=str(folder / "model")).loglikelihood([])
