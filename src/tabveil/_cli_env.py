"""`tabveil env`: list, create, remove.

Privacy: opens no table. Only `create` uses the network: pip's.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from tabveil._cli_output import answer, columns, new_app, tell
from tabveil.errors import UsageError

app = new_app("Make and remove environments of packages that cannot live beside tabveil: anonymeter's attacks.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="See `tabveil env list`.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the environments that can be made, and say which are there."""
    from tabveil import environments

    found = [_said(name) for name in environments.names()]
    rows = [(e["name"], "there" if e["there"] else "not there", f"{e['licence']}: {e['about']}") for e in found]
    answer({"environments": found}, columns(rows), as_json=as_json)


@app.command()
def create(
    name: Name,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the licence and patent notice, and agree.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an environment with venv and pip, once its licence and patent notice was read and agreed to."""
    from tabveil import environments

    environment = environments.load(name)
    tell(f"{environment.licence}. {environment.notice}")
    made = environments.create(name, accepted=accept_licence or _agreed(name), tell=tell)
    answer(_said(name) | {"folder": str(made)}, f"{name} is there: {made}", as_json=as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove an environment and all it holds."""
    from tabveil import environments

    removed = environments.remove(name)
    text = f"Removed {name}." if removed else f"There was nothing of {name} to remove."
    answer({"name": name, "removed": removed}, text, as_json=as_json)


def _agreed(name: str) -> bool:
    """Ask whoever sits before the terminal; a script has to say so on the command line."""
    if not sys.stdin.isatty():
        raise UsageError(f"Nobody is there to agree: tabveil env create {name} --accept-licence.")
    if not typer.confirm("Go on?", err=True):
        raise UsageError("Not agreed to, so nothing was made.")
    return True


def _said(name: str) -> dict[str, Any]:
    from tabveil import environments

    found = environments.load(name)
    return {
        "name": name,
        "about": found.about,
        "licence": found.licence,
        "there": environments.is_there(name),
        "accepted_on": environments.accepted_on(name),
    }
