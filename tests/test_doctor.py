import json
import sys

import pytest

from anyglot import assets, doctor


@pytest.fixture(scope="module")
def found():
    return {(finding.topic, finding.name): finding for finding in doctor.findings()}


def test_it_says_what_is_installed(found):
    import torch

    assert torch.__version__ in found["torch", "torch"].value
    assert "GFLOP/s" in found["torch", "bf16"].value
    assert found["deepspeed", "deepspeed"].ok
    assert ("attention", "flash-attn") in found
    assert found["audio", "soundfile"].ok
    assert {name for topic, name in found if topic == "assets"} == set(assets.table())


def test_every_lack_says_how_to_mend_it(found):
    lacking = [finding for finding in found.values() if finding.ok is False and finding.name != "accelerator"]
    assert all(finding.hint for finding in lacking)


def test_extras_are_those_of_the_package():
    assert "jinja2" in doctor.extras()["eval"]
    assert doctor.extra_of("faster_whisper.audio") == "eval"
    assert doctor.extra_of("anyglot.nothing") == doctor.extra_of(None) == ""


def test_a_missing_asset_is_found_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("ANYGLOT_CACHE", str(tmp_path))
    monkeypatch.delenv("ANYGLOT_ASSETS", raising=False)
    assert {finding.ok for finding in doctor._assets()} == {False}


def test_a_torchaudio_that_does_not_load_is_reported_not_raised(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    finding = next(doctor._audio())
    assert finding.ok is False
    assert "does not load" in finding.value


def test_nothing_is_compiled_or_probed(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail(f"started {a}"))
    assert list(doctor._deepspeed())


def test_json_and_table_show_the_same_names(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "findings", lambda: [doctor.Finding("torch", "gpu", "[red]none[/]", False, "buy one")])
    doctor.show(as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"topic": "torch", "name": "gpu", "value": "[red]none[/]", "ok": False, "hint": "buy one"}
    ]
    doctor.show(as_json=False)
    assert "[red]none[/] (buy one)" in capsys.readouterr().out
