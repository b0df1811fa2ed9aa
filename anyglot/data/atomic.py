"""RecBole's atomic files: tables whose header says what each column holds, `user_id:token  rating:float`, by tabs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError

Column = list[Any]
KINDS: dict[str, Callable[[str], Any]] = {
    "token": str,
    "float": float,
    "token_seq": lambda cell: cell.split(),
    "float_seq": lambda cell: [float(number) for number in cell.split()],
}


def read_atomic(source: str | Path | bytes, needed: Sequence[str] = (), name: str = "") -> Mapping[str, Column]:
    """The columns of an `.inter`, `.item`, `.user` ... file by their names.

    Args:
        source: the file, or its bytes (then `name` is what messages call it). needed: columns that must be there.
    Returns:
        name -> values: str of a token, float, and lists of them of a `_seq`; rows in the order of the file.
    Raises:
        AnyglotError: naming the file and line: no UTF-8, a header that is none, a missing column, a row of another
            length, a number that is none.
    """
    name = name or str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        # Line feeds alone end rows: cells may hold what str.splitlines takes for ends of lines too, such as U+2028.
        header, *lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise AnyglotError(f"{name}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise AnyglotError(f"{name}: not UTF-8 ({error}); save it as UTF-8") from error
    if not header:
        raise AnyglotError(f"{name}: empty; expected a header such as 'user_id:token', and rows")
    names, kinds = _header(header, name)
    missing = [column for column in needed if column not in names]
    if missing:
        raise AnyglotError(f"{name}: no column {missing[0]!r}; it has: {', '.join(names)}")
    columns: dict[str, Column] = {column: [] for column in names}
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        cells = line.split("\t")
        if len(cells) != len(names):
            raise AnyglotError(f"{name}:{number}: {len(cells)} cells, the header has {len(names)}; mend the row")
        for column, kind, cell in zip(names, kinds, cells, strict=True):
            try:
                columns[column].append(KINDS[kind](cell))
            except ValueError as error:
                raise AnyglotError(f"{name}:{number}: {column} is {cell!r}, no {kind}; mend the row") from error
    return columns


def _header(line: str, name: str) -> tuple[list[str], list[str]]:
    fields = [field.rpartition(":") for field in line.split("\t")]
    for column, _, kind in fields:
        if not column or kind not in KINDS:
            raise AnyglotError(
                f"{name}:1: header field {f'{column}:{kind}'.lstrip(':')!r} is not NAME:TYPE with a type of "
                f"{', '.join(KINDS)}"
            )
    names = [column for column, _, _ in fields]
    if len(set(names)) < len(names):
        raise AnyglotError(f"{name}:1: a column occurs twice in {', '.join(names)}; rename one")
    return names, [kind for _, _, kind in fields]
