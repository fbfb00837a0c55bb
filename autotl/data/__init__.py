"""From the examples of a dataset plugin to batches on a device.

``dataset`` checks every image once, ``split`` assigns the examples to train, validation and test,
``resample`` returns the folds of cross-validations, ``image`` decodes one image, ``packing``
decodes all of them into one memory-mapped array, and ``batches`` reads that array. ``sample`` draws
a part of the examples where there is no time for all.
"""

from autotl.data.batches import RESIDENT_FRACTION, Batches, prefetch
from autotl.data.dataset import Dataset, Issue, check, write_csv, write_issues, write_splits
from autotl.data.image import Progress, decode
from autotl.data.memory_map import MappedArray
from autotl.data.packing import Packed, pack
from autotl.data.resample import Indices, Resample, fold, resample
from autotl.data.sample import FEWEST_PER_CLASS, measure_decoding, sample_examples

__all__ = [
    "FEWEST_PER_CLASS",
    "RESIDENT_FRACTION",
    "Batches",
    "Dataset",
    "Indices",
    "Issue",
    "MappedArray",
    "Packed",
    "Progress",
    "Resample",
    "check",
    "decode",
    "fold",
    "measure_decoding",
    "pack",
    "prefetch",
    "resample",
    "sample_examples",
    "write_csv",
    "write_issues",
    "write_splits",
]
