"""Files that are either written whole or not at all.

Privacy: an error names the path and the reason, never what was to be written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tabveil.errors import StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "its folder is not a folder",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the disk is read-only",
    errno.ENAMETOOLONG: "its name is too long",
}


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends well, and leaves nothing behind when it does not.

    The bytes go to a hidden file in the same folder (`.tabveil-*.tmp`), are flushed to the disk, and are then renamed
    onto `path`, which until then keeps what it held. Only a killed process can leave the hidden file.

    Raises:
      StorageError: the disk is full, the folder is missing or may not be written, or `path` is no regular file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise StorageError(f"{os.fspath(path)!r} cannot be written: something that is no file has that name.")
    temporary = target.with_name(f".tabveil-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            reason = _REASONS.get(error.errno or 0, "the disk reported an error")
            raise StorageError(f"{os.fspath(path)!r} cannot be written: {reason}. Nothing was left behind.") from error
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the renaming survive a power cut; some file systems cannot, and the file is whole in any case."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` atomically; raises StorageError as `atomic_file` does."""
    with atomic_file(path) as handle:
        handle.write(data)


def write_text_once(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as `write_text` does unless something is there already, which stays: of several writers one wins.

    Where the file system has no hard links, two at the same moment may both write, and the last one wins.
    """
    target = Path(path)
    beside = target.with_name(f".tabveil-{uuid.uuid4().hex}.tmp")
    write_text(beside, text)
    try:
        os.link(beside, target)
    except FileExistsError:
        return
    except OSError:
        if not target.exists():
            os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` atomically as UTF-8 with the line ends it has; raises StorageError as `atomic_file` does."""
    write_bytes(path, text.encode())
