"""Generators: each file here is one, named after the file.

Privacy: a generator reads rows only through `mechanisms` (and later `sgd`), under a committed charge.
"""

from tabveil.registry import Registry

generators = Registry("tabveil.generators", base="Generator")
"""Every generator by name."""
