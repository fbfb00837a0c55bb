"""From a source's examples to batches on the device.

``dataset`` checks every picture once, ``split`` divides them, ``resample`` does so anew, ``picture``
decodes one, and ``batches`` packs them all for the trials, which then only read a memory-mapped
array.
"""

from autotl.data.batches import RESIDENT_FRACTION, Batches, Packed, pack, prefetch
from autotl.data.dataset import Dataset, Issue, check, write_issues, write_splits
from autotl.data.image import Progress, decode
from autotl.data.mapped import MappedRows
from autotl.data.resample import Resample, Rows, resample

__all__ = [
    "RESIDENT_FRACTION",
    "Batches",
    "Dataset",
    "Issue",
    "MappedRows",
    "Packed",
    "Progress",
    "Resample",
    "Rows",
    "prefetch",
    "check",
    "decode",
    "pack",
    "resample",
    "write_issues",
    "write_splits",
]
