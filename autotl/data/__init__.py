"""From a source's examples to batches on the device.

``dataset`` checks every picture once, ``split`` divides them, ``resplit`` does so anew, ``picture``
decodes one, and ``batches`` packs them all for the trials, which then only read a memory-mapped
array.
"""

from autotl.data.batches import RESIDENT_SHARE, Batches, Packed, ahead, pack
from autotl.data.dataset import Dataset, Issue, check, write_issues, write_splits
from autotl.data.image import Progress, decode
from autotl.data.mapped import Mapped
from autotl.data.resample import Resplit, Rows, resplit

__all__ = [
    "RESIDENT_SHARE",
    "Batches",
    "Dataset",
    "Issue",
    "Mapped",
    "Packed",
    "Progress",
    "Resplit",
    "Rows",
    "ahead",
    "check",
    "decode",
    "pack",
    "resplit",
    "write_issues",
    "write_splits",
]
