"""Where a training can go on after its process was killed, without a second charge.

A folder holds `charge.json`, the key under which the charge can be found again, written before anything is charged;
`state.npz`, the last state, replaced whole or not at all; and `answer-NAME.npz`, what was learned of rows in one go. No
pickle: nested dicts of arrays and plain JSON values.

Privacy: a state is a function of noisy gradients and public knowledge: post-processing of the charge, safe to keep as
far as the charge's epsilon goes. It holds no row. What a folder says is not trusted with the budget: uses of the charge
are counted by the ledger before they happen (`Receipt.claim`), so that a folder which is lost, copied, or put back to
an older state never makes a step run that was not paid for. Steps claimed by a killed process and not saved are spent.
Answers are saved before they are used, and asked for by the process that charged alone, or once, after a claim.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tabveil._atomic import write_bytes, write_text_once
from tabveil._torch import torch
from tabveil.accounting import Spend
from tabveil.errors import DataError, LedgerError, StorageError, UnchargedError, UsageError
from tabveil.ledger import Ledger, Receipt, Resumable

FORMAT = 1
"""Version of the two files."""

CHARGE, STATE, ANSWER = "charge.json", "state.npz", "answer-{}.npz"

T = TypeVar("T")


class Stateful(Protocol):
    """What can be saved: modules, optimisers, averages."""

    def state_dict(self) -> Any:
        """A tree of dicts, lists, tuples, arrays, tensors and JSON values."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Undo `state_dict`."""


class Checkpoints:
    """The states of one training in a folder of its own.

    Args:
      folder: made where it is missing; keep it as you keep the model.
      every: at most this many steps between two states; by default a tenth of the training's.

    Raises:
      StorageError: the folder cannot be made or written.
      DataError: its files are damaged, or of another version.
    """

    def __init__(self, folder: str | Path, *, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UsageError("every must be a whole number of steps, 1 or more.")
        self.folder, self.every = Path(folder), every
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder {str(folder)!r} cannot be made.") from error
        self._key: str | None = None

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r})"

    def receipt(
        self,
        ledger: Ledger,
        dataset: str,
        spends: Sequence[Spend],
        *,
        label: str,
        labels: Sequence[str],
        about: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """The receipt of this training's one charge: made now, or found again.

        Args:
          ledger: keeps the account.
          dataset: the account that pays.
          spends: the whole plan.
          label: of the charge.
          labels: the spends that can be gone on with: each is claimed in the ledger before it is used.
          about: what else makes this training another one, as JSON values.

        Raises:
          UsageError: the folder belongs to another plan or account.
          BudgetExceededError, LedgerError: as `Ledger.charge`.
        """
        key = self._key_for(_fingerprint(dataset, spends, labels=labels, about=about or {}))
        try:
            return ledger.resume(dataset, key)
        except LedgerError:
            if self.found:
                raise
        return ledger.charge(dataset, spends, label=label, resumable=Resumable(key, tuple(labels)))

    def _key_for(self, plan: str) -> str:
        """The key in the folder, or a new one, on the disk before anything is charged under it."""
        path = self.folder / CHARGE
        if not path.exists():
            write_text_once(path, json.dumps({"format": FORMAT, "key": uuid.uuid4().hex, "plan": plan}))
        known = _parsed(path)
        if known.get("plan") != plan:
            raise UsageError(
                f"The folder {str(self.folder)!r} belongs to the training of another plan or account: use another."
            )
        self._key = str(known["key"])
        return self._key

    @property
    def found(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.folder / STATE).exists()

    def once(self, name: str, ask: Callable[[], T], form: tuple[Callable[[T], Any], Callable[[Any], T]]) -> T:
        """What `ask` gives, on the disk when this returns; where it is there already, that, and nothing is asked.

        Args:
          name: of the answer, for a file's name.
          ask: asks charged rows.
          form: to a tree as `Stateful` has it, and back.

        Raises:
          UnchargedError: an earlier process may have asked and was stopped before the answer was saved.
          DataError: as `read`.
        """
        path = self.folder / ANSWER.format(name)
        if path.exists():
            head, arrays = self._known(path)
            return form[1](_unpacked(head["answer"], arrays))
        try:
            found = ask()
        except UnchargedError as error:
            raise UnchargedError(
                f"The charge of {str(self.folder)!r} has nothing left for {name!r}: an earlier process was stopped "
                "between asking for it and saving it. It stays spent, and this fit cannot be finished: fit anew with "
                "another folder, which is charged again."
            ) from error
        self._write(path, {"answer": form[0](found)})
        return found

    def save(self, done: int, states: Mapping[str, Stateful]) -> None:
        """Replace the state by one after `done` steps; on the disk when this returns."""
        self._write(self.folder / STATE, {"done": done, "states": {n: s.state_dict() for n, s in states.items()}})

    def read(self) -> tuple[int, dict[str, Any]] | None:
        """Steps done and every state's tree, as saved last; None where nothing was saved.

        Raises:
          DataError: damaged, of another version, or of another charge.
        """
        if not self.found:
            return None
        head, arrays = self._known(self.folder / STATE)
        return int(head["done"]), _unpacked(head["states"], arrays)

    def _write(self, path: Path, parts: Mapping[str, Any]) -> None:
        arrays: list[NDArray[Any]] = []
        head = {"format": FORMAT, "key": self._key, **{name: _packed(p, arrays) for name, p in parts.items()}}
        write_bytes(path, _written(head, arrays))

    def _known(self, path: Path) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        head, arrays = _read(path)
        if head.get("format") != FORMAT or head.get("key") != self._key:
            raise DataError(f"The state in {str(self.folder)!r} is of another version, or of another charge.")
        return head, arrays

    def clear(self) -> None:
        """Take all files away, once the training's result is kept elsewhere."""
        for path in (*self.folder.glob(ANSWER.format("*")), self.folder / STATE, self.folder / CHARGE):
            path.unlink(missing_ok=True)


def _fingerprint(dataset: str, spends: Sequence[Spend], *, labels: Sequence[str], about: Mapping[str, Any]) -> str:
    events = [s.to_dict() for s in spends]
    plan = {"dataset": dataset, "spends": events, "labels": list(labels), "about": about}
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _parsed(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read.") from error
    if not isinstance(known, dict) or known.get("format") != FORMAT or not known.get("key"):
        raise DataError(f"{str(path)!r} is no charge of this version.")
    return known


# --------------------------------------------------------------------------------------------------------------- trees
def _packed(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """`value` as JSON, its arrays put aside: {"t": i} a tensor, {"n": i} an array, {"d": pairs}, {"l": .}, {"u": .}."""
    if isinstance(value, torch.Tensor):
        arrays.append(value.detach().cpu().numpy().copy())
        return {"t": len(arrays) - 1}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"n": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {"d": [[k, _packed(v, arrays)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"l" if isinstance(value, list) else "u": [_packed(v, arrays) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"A state holds a {type(value).__name__}, which cannot be saved.")


def _unpacked(tree: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    if not isinstance(tree, dict):
        return tree
    kind, inner = next(iter(tree.items()))
    if kind == "t":
        return torch.from_numpy(arrays[inner])
    if kind == "n":
        return arrays[inner]
    if kind == "d":
        return {k: _unpacked(v, arrays) for k, v in inner}
    items = [_unpacked(v, arrays) for v in inner]
    return items if kind == "l" else tuple(items)


def _written(head: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    """One file: what `numpy.load` reads, and the JSON beside it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("state.json", json.dumps(head))
        for number, array in enumerate(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)
            archive.writestr(f"{number}.npy", part.getvalue())
    return buffer.getvalue()


def _read(path: Path) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read("state.json"))
            parts = [archive.read(f"{i}.npy") for i in range(len(archive.namelist()) - 1)]
        arrays = [np.lib.format.read_array(io.BytesIO(part), allow_pickle=False) for part in parts]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} cannot be read.") from error
    return head, arrays
