"""torch, or one sentence that names the extra which installs it.

Privacy: nothing here touches a table.
"""

from __future__ import annotations

from tabveil.errors import MissingDependencyError

try:
    import torch as torch
    from torch import Tensor as Tensor
    from torch import nn as nn
except ModuleNotFoundError as error:
    raise MissingDependencyError("Neural generators need torch: pip install 'tabveil[deep]'.") from error
