"""The release folder: built beside its final place, renamed into it when whole, every file under one manifest.

Privacy: what is written here may be published: samples, the fitted model, public knowledge, the account's events.
Nothing here reads a private row; how long a fit took, which depends on the rows, is left out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tabveil.columns import Boolean, Column, Date, Datetime, Decimal
from tabveil.errors import LedgerError, StorageError, UsageError
from tabveil.ledger import Ledger
from tabveil.records import Finding, PrivacyStatement, Provenance, Record, Score
from tabveil.schema import Schema
from tabveil.tables import sync_folder, write_batches, write_text

FORMAT = 1
"""Version of the folder's layout, under the key `tabveil_release`."""

MANIFEST = "manifest.json"
STAMP_FILE = "NOT_PRIVATE.txt"
"""Lies in every release folder whose table is not private, so that a listing of it says so.

Beside a sampled file, or folder of parts, lies a file of its name with this ending, not in it: whoever reads such a
folder as one table (`pandas.read_parquet`) takes every file in it for a part.
"""

DECLARED_FILE = "schema.declared.yaml"
"""The schema as the user gave it, where the fit learned what it leaves out; schema.yaml is then the one with that
filled in."""

RESCUED = ".rescued-model"
"""Added to the release's name where a paid model is kept though the release could not be written."""

PACKAGES = ("numpy", "pandas", "pyarrow", "scikit-learn", "dp-accounting", "opendp", "sqlalchemy")
"""Packages whose versions a manifest names."""

BYTES_PER_CELL = 24
"""Disk one synthetic cell takes at most, CSV and Parquet together, for ordinary tables."""

BYTES_BESIDE = 8 * 2**20
"""Disk for the model, the reports and the rest."""


@dataclass(frozen=True)
class Manifest(Record):
    """What a release folder says of itself.

    Attributes:
      tabveil_release: FORMAT.
      stamp: "" for a private release, else "NOT PRIVATE" or "NOT A RELEASE".
      provenance: a `records.Provenance` as a dict: generator, options, versions, created, rows; no seconds.
      epsilon, delta: what was asked for; the statement says what was spent.
      schema: digest of schema.yaml's content.
      dataset: the account that paid, or None.
      ledger_head: hash of the newest entry of the exported account, "" without one.
      files: SHA-256 of every other file, by its path in the folder.
      sha256: of everything above, so that a flipped byte in the manifest shows too.
    """

    tabveil_release: int
    stamp: str
    provenance: dict[str, Any]
    epsilon: float
    delta: float
    schema: str
    dataset: str | None
    ledger_head: str
    files: dict[str, str] = field(default_factory=dict)
    sha256: str = ""

    def sealed(self) -> Manifest:
        """With `sha256` filled in."""
        open_ = replace(self, sha256="")
        return replace(open_, sha256=hashlib.sha256(open_.to_json().encode()).hexdigest())

    def text(self) -> str:
        """The file's content."""
        return json_text(self.to_dict())


@dataclass(frozen=True)
class Release:
    """What `synthesize` made.

    Attributes:
      folder: the release, fit to be handed over whole.
      statement: what is promised about everything in it.
      provenance: how it came to be; `seconds` are internal.
      digest: the manifest's SHA-256, which stands for every file.
      internal: the folder with the internal report, None where nothing was measured.
      scores, findings: what was measured on real rows: INTERNAL.
    """

    folder: Path
    statement: PrivacyStatement
    provenance: Provenance
    digest: str
    internal: Path | None = None
    scores: tuple[Score, ...] = ()
    findings: tuple[Finding, ...] = ()


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as all files of a release hold it: sorted, indented, one line end at its end."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> tuple[str, dict[str, str]]:
    """Python's version, and those of PACKAGES."""
    return platform.python_version(), {p: importlib.metadata.version(p) for p in PACKAGES}


# ----------------------------------------------------------------------------------------------------------- the folder


def check_new(out: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that is not there yet, or is empty.

    Raises:
      UsageError: something is there already.
    """
    target = Path(os.path.realpath(out))
    taken = not target.is_dir() if target.exists() else False
    if taken or (target.is_dir() and any(target.iterdir())):
        raise UsageError(
            f"{os.fspath(out)!r} is there already: name a folder that does not exist yet, or an empty one."
        )
    return target


@contextlib.contextmanager
def new_folder(out: str | os.PathLike[str], *, needed: int = 0, keep: str | None = None) -> Iterator[Path]:
    """A folder that appears under `out` when the block ends well, and leaves nothing there when it does not.

    Args:
      out: its place; must not exist, or be an empty folder. Missing folders above it are made, and taken away again.
      needed: bytes that must be free on the disk.
      keep: a folder inside that is worth keeping when the block fails once it exists: it is renamed to `out` + RESCUED,
        which takes no disk, and the error gets a note saying so.

    Raises:
      UsageError: `out` is taken.
      StorageError: too little disk is free, or the disk reported an error.
    """
    target = check_new(out)
    temporary = target.with_name(f".tabveil-{uuid.uuid4().hex}.tmp")
    made = [p for p in target.parents if not p.exists()]
    try:
        if target.exists():  # a mount point, say, cannot be replaced: better known now than when all is paid for
            temporary.mkdir()
            os.rename(temporary, target)
        temporary.mkdir(parents=True)
        check_space(temporary, needed)
        yield temporary
        sync(temporary)
        os.rename(temporary, target)
    except BaseException as error:
        note = _rescue(temporary / keep, target) if keep else ""
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        failure = _told(error, temporary=temporary, out=os.fspath(out))
        failure.__notes__ = [*getattr(error, "__notes__", []), *([note] if note else [])]
        if failure is error:
            raise
        raise failure from None
    sync(target.parent, deep=False)


def _rescue(model: Path, target: Path) -> str:
    if not (model / "model.json").is_file():
        return ""
    place = target.with_name(target.name + RESCUED)
    while place.exists():
        place = target.with_name(f"{target.name}.{uuid.uuid4().hex[:6]}{RESCUED}")
    with contextlib.suppress(OSError):
        os.rename(model, place)
        return f"The fitted model, which is paid for, was kept in {str(place)!r}: `tabveil sample` draws rows from it."
    return ""


def _told(error: BaseException, *, temporary: Path, out: str) -> BaseException:
    """The error in words that name the release instead of the hidden folder."""
    if isinstance(error, StorageError):
        return StorageError(str(error).replace(str(temporary), out).replace(" Nothing was left behind.", ""))
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return StorageError(f"{out!r} cannot be written: {'the disk is full' if full else reason(error)}.")
    return error


def reason(error: OSError) -> str:
    """Why the operating system refused, in its own words, which name no file."""
    return (os.strerror(error.errno) if error.errno else "the disk reported an error").lower()


def check_space(folder: Path, needed: int) -> None:
    """Raise StorageError where fewer than `needed` bytes are free at `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"The disk has {_mebibytes(free)} free and the release may need {_mebibytes(needed)}: make room, or write "
            "it elsewhere."
        )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def space_for(schema: Schema, rows: int | None) -> int:
    """Bytes a release may need: an estimate from public knowledge."""
    return BYTES_BESIDE + BYTES_PER_CELL * len(schema.columns) * (rows or schema.public_rows or 0)


def sync(folder: Path, *, deep: bool = True) -> None:
    """Make names in `folder` survive a power cut; the files in it have been synced when they were written."""
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())] if deep else [folder]:
        sync_folder(place)


# ------------------------------------------------------------------------------------------------------------ its files


def files_of(folder: Path) -> list[str]:
    """Paths of everything in `folder` that is no folder, relative, with "/" between, sorted; the manifest left out."""
    inside = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(set(inside) - {MANIFEST})


def hash_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of all files that lie in `folder` now."""
    sealed = replace(manifest, files={name: hash_of(folder / name) for name in files_of(folder)}).sealed()
    write_text(folder / MANIFEST, sealed.text())
    return sealed


def write_synthetic(frame: pd.DataFrame, schema: Schema, folder: Path) -> None:
    """synthetic.parquet and synthetic.csv, both readable under `schema`."""
    for name in ("synthetic.parquet", "synthetic.csv"):
        write_rows(frame, schema, folder / name)


def write_rows(frame: pd.DataFrame, schema: Schema, path: Path) -> None:
    """A file of rows that is readable under `schema`; raises as `write_table` does."""
    write_frames([frame], schema, path)


def write_frames(frames: Iterable[pd.DataFrame], schema: Schema, path: Path) -> None:
    """`write_rows` for rows that come in several frames, one in memory at a time."""
    typed = path.suffix.lower() == ".parquet"
    write_batches(frames if typed else (spelled(f, schema) for f in frames), path, **schema.text_formats)


def write_parts(frames: Iterable[pd.DataFrame], schema: Schema, folder: Path) -> None:
    """A new folder of Parquet files part-00000.parquet, ..., one for each frame: all of them, or no folder.

    Raises:
      UsageError: the folder is there and not empty.
      StorageError: it cannot be written.
    """
    with new_folder(folder) as place:
        for number, frame in enumerate(frames):
            write_rows(frame, schema, place / f"part-{number:05d}.parquet")


def spelled(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """`frame` with missing cells and truth values spelled as `schema` reads them.

    A text file has an empty cell for a missing one and `true` and `false`; a schema may know other words only.
    """
    words = {c.name: _spelled(c, frame[c.name]) for c in schema.learned}
    return frame.assign(**{name: values for name, values in words.items() if values is not None})


def _spelled(column: Column, values: pd.Series) -> pd.Series | None:
    """The column as text, or None where `write_table` writes what the schema reads."""
    odd = isinstance(column, Boolean) and not (_knows(column.true, "true") and _knows(column.false, "false"))
    if not odd and (not column.nullable or "" in column.missing):
        return None
    texts = _texts(column, values)
    return texts.fillna(column.missing[0]) if column.nullable and "" not in column.missing else texts


def _knows(texts: tuple[str, ...], word: str) -> bool:
    return word in {t.lower() for t in texts}


def _texts(column: Column, values: pd.Series) -> pd.Series:
    """Text of every cell that is not missing, in the column's own format."""
    if isinstance(column, Boolean):
        texts = values.map({True: column.true[0], False: column.false[0]}, na_action="ignore")
    elif isinstance(column, Decimal):
        texts = values.map(f"{{:.{column.decimals}f}}".format, na_action="ignore")
    elif isinstance(column, Date | Datetime):
        texts = values.dt.strftime(column.format)
    else:
        texts = values.astype("string")
    return texts.astype(object).where(values.notna(), None)


# ----------------------------------------------------------------------------------------------------------- who pays


def as_ledger(ledger: Ledger | str | Path) -> Ledger:
    """A ledger, or the one at a path or URL, which must be there; raises LedgerError."""
    if isinstance(ledger, Ledger):
        return ledger
    if "://" not in str(ledger) and not Path(ledger).is_file():
        raise LedgerError(
            f"There is no ledger file {str(ledger)!r}: open an account in it first, `tabveil ledger open`."
        )
    return Ledger(ledger, create=False)
