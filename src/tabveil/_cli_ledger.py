"""`tabveil ledger`: open, show, verify, export, list.

Privacy: sees what was charged, never a row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabveil._cli_output import answer, columns, new_app
from tabveil.records import rounded_up

if TYPE_CHECKING:
    from tabveil.ledger import Ledger

app = new_app("Open, show and verify accounts: what may be spent on a dataset, and what has been.")

LedgerPlace = Annotated[
    str,
    typer.Option(
        "--ledger",
        "-l",
        metavar="LEDGER",
        envvar="TABVEIL_LEDGER",
        help="A ledger file, or a postgresql:// URL (better in TABVEIL_LEDGER, since a process list shows passwords).",
        show_default=False,
    ),
]
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="The account's name.", show_default=False)]
OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[DATASET]", help="One account; all by default.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]


@app.command("open")
def open_(
    dataset: Dataset,
    ledger: LedgerPlace,
    epsilon: Annotated[float, typer.Option("--epsilon", "-e", help="Cap for all who ever use the dataset.")],
    delta: Annotated[float, typer.Option("--delta", "-d", help="Cap; 0, or well below 1 / rows.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", "-s", metavar="FILE", help="Whose privacy unit the account protects.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Open an account. Its cap is final; the ledger is made where there is none."""
    from tabveil.ledger import Ledger
    from tabveil.schema import Schema

    unit = "row" if schema is None else Schema.from_yaml(schema).unit
    Ledger(ledger).open(dataset, epsilon=epsilon, delta=delta, unit=unit)
    data = {"dataset": dataset, "epsilon": epsilon, "delta": delta, "unit": unit}
    answer(data, f"Opened {dataset}: epsilon {epsilon:g} at delta {delta:g} for each {unit}.", as_json=as_json)


@app.command()
def show(ledger: LedgerPlace, dataset: OneOrAll = None, as_json: Json = False) -> None:
    """Show what each account may spend, has spent, and on what."""
    from tabveil.release import as_ledger

    place = as_ledger(ledger)
    accounts = [_account(place, name) for name in ([dataset] if dataset else place.datasets())]
    answer({"accounts": accounts}, "\n\n".join(map(_text, accounts)) or "No account is open.", as_json=as_json)


def _account(ledger: Ledger, dataset: str) -> dict[str, Any]:
    export = ledger.export(dataset)
    entries = [json.loads(e["payload"]) | {"hash": e["hash"]} for e in export["entries"]]
    committed = {e["ref"] for e in entries if e["kind"] == "commit"}
    given_back = {e["ref"] for e in entries if e["kind"] == "release"}
    charges = [
        {
            "label": e["label"],
            "time": e["time"],
            "events": sum(s["count"] for s in e["spends"]),
            "state": "charged" if e["seq"] in committed else "given back" if e["seq"] in given_back else "reserved",
        }
        for e in entries
        if e["kind"] == "reserve"
    ]
    notes = [{"label": e["label"], "time": e["time"]} for e in entries if e["kind"] == "note"]
    cap = export["cap"] or {}
    return {
        "dataset": dataset,
        **{key: cap.get(key) for key in ("epsilon", "delta", "unit", "relation")},
        "spent": export["statement"]["epsilon"],
        "charges": charges,
        "not_private": notes,
        "head": export["head"],
        "theorem": export["statement"]["theorem"],
    }


def _text(account: dict[str, Any]) -> str:
    if account["epsilon"] is None:
        head = f"{account['dataset']}: no account was opened; only runs that promise nothing are on record"
    else:
        head = (
            f"{account['dataset']}: epsilon {rounded_up(account['spent'])} of {account['epsilon']:g} is spent, at "
            f"delta {account['delta']:g}, for each {account['unit']}"
        )
    rows = [(c["time"], c["state"], f"{c['label']} ({c['events']} events)") for c in account["charges"]]
    rows += [(n["time"], "not private", n["label"]) for n in account["not_private"]]
    listed = columns(sorted(rows)) if rows else "nothing has been asked for"
    return f"{head}\n{listed}\nhead {account['head']}"


@app.command()
def verify(
    ledger: LedgerPlace,
    dataset: OneOrAll = None,
    head: Annotated[
        str | None, typer.Option(help="A hash noted earlier that must still be in the DATASET's chain.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute every hash, cost and admission of the chain."""
    from tabveil.release import as_ledger

    heads = as_ledger(ledger).verify(dataset, head=head)
    lines = [f"{name}: the chain holds, head {value}" for name, value in heads.items()]
    answer({"verified": True, "heads": heads}, "\n".join(lines) or "The ledger holds, and is empty.", as_json=as_json)


@app.command()
def export(
    dataset: Dataset,
    ledger: LedgerPlace,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="A file; stdout by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write an account as JSON, from which an outsider recomputes epsilon with dp-accounting alone."""
    from tabveil.release import as_ledger
    from tabveil.tables import write_text

    data = as_ledger(ledger).export(dataset)
    if out is None:
        answer(data, "", as_json=True)
        return
    write_text(out, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    answer({"file": str(out), "head": data["head"]}, f"Wrote {dataset} to {out}.", as_json=as_json)


@app.command("list")
def list_(ledger: LedgerPlace, as_json: Json = False) -> None:
    """List the accounts."""
    from tabveil.release import as_ledger

    names = as_ledger(ledger).datasets()
    answer({"datasets": names}, "\n".join(names) or "No account is open.", as_json=as_json)
