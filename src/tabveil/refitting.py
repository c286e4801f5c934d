"""A generator by name and options as a function from a table to a synthetic table: what auditors fit again and again.

Privacy: a shadow fit runs the whole private fit, with fresh noise from the operating system, under an account of its
own that exists for this one call. The dataset's account is left alone, on purpose: what the fit gives is seen by the
curator who has the rows anyway, stays in his process, and leaves it as INTERNAL numbers only. Were a shadow table, or a
number made of it, to be published, it would cost its own epsilon like any other fit, and nobody has paid that: do not
publish it, and use `synthesize` for tables that are to leave the house.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from tabveil.generators.base import create
from tabveil.ledger import Ledger
from tabveil.schema import Schema

_ACCOUNT = "shadow fit"


@dataclass(frozen=True, kw_only=True, repr=False)
class Refitting:
    """Fits one generator anew for every call; a `tabveil.audit.base.Refit`, and pickles.

    A public row count is taken out of the schema: tables with one row more must be fitted by the same mechanism, and a
    shadow fit sees fewer rows than the release had. The count is then bought from the same epsilon.

    Args:
      generator: plugin name.
      schema: what the columns are, as for a release.
      rows: how many synthetic rows each call gives.
      epsilon: of each fit; math.inf for none.
      delta: likewise.
      options: of the generator.
    """

    generator: str
    schema: Schema
    rows: int
    epsilon: float
    delta: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    fresh_noise: ClassVar[bool] = True

    def __repr__(self) -> str:
        """All that fits depend on, the schema by its digest: an audit recognises by it the fits that it has kept."""
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("schema", "options")}
        options = dict(sorted(self.options.items()))
        return f"Refitting({shown}, options={options}, schema={self.schema.digest})"

    @property
    def promise(self) -> tuple[float, float] | None:
        """What each fit promises, as `AuditInput.promise` takes it; None where that is nothing."""
        return (self.epsilon, self.delta or 0.0) if math.isfinite(self.epsilon) else None

    def __call__(self, table: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Synthetic rows of a fit to `table`.

        Args:
          table: rows with the schema's columns.
          seed: of initialisation and sampling, 0 to below 2^63; never of noise.

        Raises:
          DataError, SchemaError, UsageError, MissingDependencyError: as `create` and `Generator.fit`.
        """
        schema = dataclasses.replace(self.schema, public_rows=None)
        made = create(self.generator, epsilon=self.epsilon, delta=self.delta, random_state=seed, **self.options)
        if self.promise is None:
            return made.fit(table, schema).sample(self.rows)
        ledger = Ledger(":memory:")
        ledger.open(_ACCOUNT, epsilon=self.epsilon, delta=self.delta or 0.0, unit=schema.unit)
        return made.fit(table, schema, ledger=ledger, dataset=_ACCOUNT).sample(self.rows)
