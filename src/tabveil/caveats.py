"""What the guarantee of a fit does not cover, in sentences that a statement carries.

Privacy: made of the schema alone, which is public knowledge.
"""

from __future__ import annotations

from tabveil.columns import Categorical, Column
from tabveil.schema import Schema


def outside(schema: Schema, *, bought: bool = True) -> tuple[str, ...]:
    """Sentences naming what the guarantee of a fit under `schema` does not cover.

    Args:
      schema: as declared.
      bought: whether the fit pays for what is left to be learned; else that is read off the rows.
    """
    earlier = bought_before(schema)
    subject = "What the schema declares" if earlier or schema.unresolved else "The schema"
    sentences = [f"{subject} (bounds, categories, resolutions) is public knowledge that a person vouches for."]
    if schema.unresolved:
        learned = "; ".join(f"{', '.join(c.unknown)} of {c.name!r}" for c in schema.unresolved)
        how = "Not public, but learned inside the guarantee" if bought else "Read from rows, outside any guarantee"
        sentences[0] += f" {how}: {learned}."
    sentences += earlier
    if schema.constraints:
        listed = "; ".join(map(str, schema.constraints))
        sentences.append(f"Constraints between columns are public knowledge that a person vouches for: {listed}.")
    if schema.public_rows is not None:
        sentences.append(f"The row count {schema.public_rows} is declared public.")
    sentences.append(
        "How long a run took, and whether an earlier one was stopped, can be read from the ledger's times and entries."
    )
    refusing = [c.name for c in schema.learned if _refuses(c)]
    if refusing:
        names = ", ".join(repr(n) for n in refusing)
        sentences.append(f"A value that is not allowed in {names} stops the run: whether one did is not covered.")
    return tuple(sentences)


def bought_before(schema: Schema) -> tuple[str, ...]:
    """The sentence about columns that an earlier fit is said to have paid for; none where there is no such column."""
    named = ", ".join(repr(c.name) for c in schema.columns if c.source == "charged")
    said = f"The schema says that bounds or categories of {named} were bought from a ledger before: that they were is "
    return (said + "not shown here.",) if named else ()


def _refuses(column: Column) -> bool:
    """Whether some cell stops a run: `encode` refuses it, in the fit or in the curator's check before it."""
    if isinstance(column, Categorical) and column.catch_all is not None:
        return False
    return column.invalid == "refuse" or not column.nullable
