"""Does a release folder hold what it says? Every claim in it is recomputed from the rest.

A manifest proves that nothing was changed by accident. Against somebody who rewrites the folder and its manifest stand the
ledger of the dataset (`verify(folder, ledger=...)`: the folder's account must be that ledger's) and the manifest's digest,
which `synthesize` prints and whoever publishes can pass on another way.

Privacy: reads a release, which may be published; no private row.
"""

from __future__ import annotations
