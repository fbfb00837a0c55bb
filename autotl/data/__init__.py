"""From a source's examples to batches on the device.

``dataset`` checks every picture once, ``split`` divides them, ``picture`` decodes one, and
``batches`` packs them all for the trials, which then only read a memory-mapped array.
"""

from autotl.data.batches import Batches, Packed, pack
from autotl.data.dataset import Dataset, Issue, check, write_issues, write_splits
from autotl.data.picture import Progress, decode

__all__ = [
    "Batches",
    "Dataset",
    "Issue",
    "Packed",
    "Progress",
    "check",
    "decode",
    "pack",
    "write_issues",
    "write_splits",
]
