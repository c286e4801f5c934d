"""`tabveil audit`: attacks and counts on a release or a table, kept as they come, judged by profiles.

Privacy: what it prints and writes was computed from real rows outside any budget: INTERNAL. No cell is among it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabveil._cli_output import answer, columns, progress, tell
from tabveil._cli_schema import Json
from tabveil.records import readable

if TYPE_CHECKING:
    from tabveil.auditing import Audited
    from tabveil.records import Finding

PARTS = ".parts"
"""Added to the answer's name for the folder of what is done so far."""

ASIDE = re.compile(r" \((?!epsilon)[^()]*\)")
"""What a finding's name says in brackets: the file has it, a line has no room for it."""


def audit(
    synthetic: Annotated[str, typer.Argument(metavar="SYNTHETIC", help="A release, or a table.", show_default=False)],
    train: Annotated[str, typer.Option(metavar="TABLE", help="The rows it was made from.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .json file for the whole audit.")],
    holdout: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Real rows no fit has seen; without them only --refit attacks.")
    ] = None,
    population: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Rows of all the people that the training rows are some of.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", "-s", metavar="FILE", help="Needed unless SYNTHETIC is a release.")
    ] = None,
    auditor: Annotated[list[str] | None, typer.Option(help="An auditor; all by default. May be repeated.")] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="A profile, or a .yaml file of your own; wp29 by default. May be repeated."),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Also fit a release's generator again, hundreds of times: the privacy game.")
    ] = False,
    random_state: Annotated[int, typer.Option("--random-state", help="Repeats every choice of rows.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a synthetic table, count who looks alike, and judge both by profiles. Reads real rows: INTERNAL."""
    from tabveil import _audit_parts, auditing, pipeline

    _check_place(out)
    parts = out.with_name(out.name + PARTS)
    try:
        with progress() as show:
            found = pipeline.audit(
                synthetic,
                train=train,
                holdout=holdout,
                population=population,
                schema=schema,
                auditors=auditor,
                profiles=profile or [auditing.THREE_QUESTIONS],
                store=parts,
                saved=lambda found: _write(found, out),
                refit=refit,
                random_state=random_state,
                progress=show,
            )
    except BaseException as error:
        if _audit_parts.any_kept(parts):
            error.add_note(f"What was done is kept in {parts.name!r}: the same command goes on from there.")
        raise
    for note in found.notes:
        tell(note)
    answer({"file": str(out), **found.to_dict()}, _text(found, out), as_json=as_json)


def _check_place(out: Path) -> None:
    """Before anything is attacked: can the answer be written?"""
    from tabveil.errors import StorageError, UsageError

    if out.suffix.lower() != ".json":
        raise UsageError("An audit is written as JSON: name the file something.json.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise StorageError(f"{str(out)!r} cannot be written: it is a folder, or its folder is not there or read-only.")


def _write(found: Audited, out: Path) -> None:
    from tabveil.tables import write_text

    write_text(out, json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def auditors(as_json: Json = False) -> None:
    """List the auditors, and what each tries."""
    from tabveil.audit import registry

    found = [{"name": name, "tries": (registry.get(name).__doc__ or "").split("\n")[0]} for name in registry.names()]
    rows = [(a["name"], a["tries"]) for a in found]
    answer({"auditors": found}, columns([("auditor", "what it tries"), *rows]), as_json=as_json)


def _text(found: Audited, out: Path) -> str:
    blocks = [_findings(found.findings), _judgements(found), _measurements(found)]
    return "\n\n".join([*(b for b in blocks if b), f"Wrote the audit to {out}. INTERNAL: do not publish it."])


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    head = ("INTERNAL: read real rows", "result", "interval", "baseline", "control", "ceiling", "shown")
    rows = [
        (
            f"{f.auditor}: {ASIDE.sub('', f.name)}",
            f"{f.value:.3f}",
            f"{f.interval[0]:.3f} to {f.interval[1]:.3f}",
            *(f"{v:.3f}" for v in (f.baseline, f.control, f.ceiling)),
            _shown(f),
        )
        for f in findings
    ]
    return columns([head, *rows])


def _shown(found: Finding) -> str:
    """What a finding says beside its baseline, which is guessing or a claim, in a word or two."""
    from tabveil.audit.rates import beyond

    if beyond(found):
        return "CLAIM BROKEN" if found.baseline_of == "claim" else "a leak"
    return "nothing" if found.ceiling > found.baseline else "nothing: too few tries"


def _judgements(found: Audited) -> str:
    """Outcomes with the numbers that decided; why, in a sentence each, is in the file."""
    rows = [(j.profile, j.outcome, _brief(j.value), _brief(j.threshold), j.requirement) for j in found.judgements]
    if not rows:
        return ""
    return (
        columns([("profile", "outcome", "number", "line", "asked"), *rows]) + "\nWhy, in a sentence each: in the file."
    )


def _brief(value: float | None) -> str:
    return "" if value is None else readable(value)


def _measurements(found: Audited) -> str:
    """What was counted of classes as such; what was counted of sensitive values in them is in the file."""
    rows = [(m.name, m.table, readable(m.value), ", ".join(m.columns)) for m in found.measurements if not m.sensitive]
    more = len(found.measurements) - len(rows)
    told = f"\n{more} more, of sensitive columns, are in the file." if more else ""
    return columns([("counted", "table", "value", "known columns"), *rows]) + told if rows else ""
