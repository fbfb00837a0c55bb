"""The GPU of the tests marked ``gpu``: a real one, or where there is none a simulated one."""

from __future__ import annotations

import torch

SIMULATED = not torch.cuda.is_available()
