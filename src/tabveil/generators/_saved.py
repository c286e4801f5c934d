"""A model's folder: arrays.npz and model.json, sealed; no pickle, no rows, and no code is run from it.

Privacy: what a generator's `_state` hands over is written as it is; nothing here sees a row.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabveil.errors import DataError, MissingDependencyError, StorageError, TabveilError
from tabveil.tables import write_bytes, write_text

Arrays = dict[str, NDArray[Any]]

FORMAT = 1
"""Version of the folder's layout."""


def write_model(folder: str | Path, model: Mapping[str, Any], arrays: Arrays) -> None:
    """Write `model`, JSON values, and `arrays` into `folder`, which is made where it is missing.

    Raises:
      StorageError: the folder cannot be written.
    """
    target, packed, told = new_or_old_folder(folder), _npz(arrays), {"tabveil_model": FORMAT, **model}
    told["sha256"] = _seal(told, packed)
    write_bytes(target / "arrays.npz", packed)
    write_text(target / "model.json", json.dumps(told, ensure_ascii=False, indent=1, allow_nan=False))


def read_model(source: Path) -> tuple[dict[str, Any], Arrays]:
    """model.json and the arrays beside it, once they are seen to be as they were saved.

    Raises:
      DataError: another format, or changed since.
    """
    model, packed = json.loads((source / "model.json").read_bytes()), (source / "arrays.npz").read_bytes()
    if model.get("tabveil_model") != FORMAT:
        raise DataError(f"{source.name!r} holds a model of another format; this version reads format {FORMAT}.")
    if model.pop("sha256", None) != _seal(model, packed):
        raise DataError(f"{source.name!r} holds a model whose files were changed since it was saved.")
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        return model, {k: stored[k] for k in stored.files}


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """Inside, whatever goes wrong is the saved model's fault."""
    try:
        yield
    except (MissingDependencyError, DataError):
        raise
    except (TabveilError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(f"{source.name!r} holds no tabveil model that can be read.") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{source.name!r} holds a model whose arrays cannot be read.") from error


def new_or_old_folder(folder: str | Path) -> Path:
    """`folder`, made where it is missing; StorageError where it cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be made.") from error
    return Path(folder)


def _seal(model: Mapping[str, Any], packed: bytes) -> str:
    """SHA-256 of a model's two files, so that a flipped byte is found before anything is sampled."""
    text = json.dumps(model, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode() + packed).hexdigest()


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:  # what numpy.savez writes, typed
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # without the time of day: the same model gives the same bytes
            archive.writestr(entry, part.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
