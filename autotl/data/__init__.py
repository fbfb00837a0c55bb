"""From a data source to batches on a device.

``source`` reads the examples of a dataset plugin. ``dataset`` checks them: ``inspection`` opens
each example once, ``offered`` parses the labels and ``labels`` compares the names of classes,
``copies`` and ``duplicates`` find copies and near-copies, and ``split`` assigns the examples to
train, validation and test; ``problems`` are those that leave nothing out, and ``tables`` say what
became of each example. ``unlabelled`` has those without a label, and ``domains`` joins a source and
a target. ``resample`` returns the folds of cross-validations. ``image_kind`` is the kind of input
that images are, ``image`` decodes one, with the ``scale`` of those with more than 8 bits, and
``toy_images`` makes easy ones. ``encoding`` encodes an example of any kind, ``packing`` all of them
into one memory-mapped array, and ``batches`` reads that array. ``resident`` owns the memory of a
GPU that examples and features stay in, and ``device_memory`` asks the GPU. ``sample`` draws a part
of the examples where there is no time for all.
"""

from autotl.data import device_memory, resident, scale
from autotl.data.batches import (
    Batches,
    copy_in_order,
    prefetch,
    send_positions,
    to_channels_first,
)
from autotl.data.copies import digest_examples
from autotl.data.dataset import Dataset, check, describe_scales
from autotl.data.domains import join_domains, separate_domains
from autotl.data.encoding import encode
from autotl.data.image import Progress, decode
from autotl.data.image_kind import IMAGES, ImageInput, find_kind, match_channels
from autotl.data.labels import find_same, parse_label
from autotl.data.memory_map import MappedArray
from autotl.data.packing import (
    PACKED_SUFFIX,
    PARTIAL_SUFFIX,
    Packed,
    open_or_encode,
    pack,
    packed_bytes,
    read_packed_row_bytes,
)
from autotl.data.remote import fetch
from autotl.data.resample import Indices, Resample, fitted_and_scored, fold, resample
from autotl.data.sample import (
    FEWEST_PER_CLASS,
    draw_items,
    measure_opening,
    order_by_stratum,
    rarest_labels,
    sample_examples,
)
from autotl.data.scale import Scale, Scales
from autotl.data.source import (
    Source,
    parse_options,
    read_source,
    read_target,
    read_without_labels,
)
from autotl.data.tables import write_csv, write_issues, write_splits
from autotl.data.unlabelled import Unlabelled, join_unlabelled

__all__ = [
    "FEWEST_PER_CLASS",
    "IMAGES",
    "PACKED_SUFFIX",
    "PARTIAL_SUFFIX",
    "Batches",
    "Dataset",
    "ImageInput",
    "Indices",
    "MappedArray",
    "Packed",
    "Progress",
    "Resample",
    "Scale",
    "Scales",
    "Source",
    "Unlabelled",
    "check",
    "copy_in_order",
    "decode",
    "describe_scales",
    "device_memory",
    "digest_examples",
    "draw_items",
    "encode",
    "fetch",
    "find_kind",
    "find_same",
    "fitted_and_scored",
    "fold",
    "join_domains",
    "join_unlabelled",
    "match_channels",
    "measure_opening",
    "open_or_encode",
    "order_by_stratum",
    "pack",
    "packed_bytes",
    "parse_label",
    "parse_options",
    "prefetch",
    "rarest_labels",
    "read_packed_row_bytes",
    "read_source",
    "read_target",
    "read_without_labels",
    "resample",
    "resident",
    "sample_examples",
    "scale",
    "send_positions",
    "separate_domains",
    "to_channels_first",
    "write_csv",
    "write_issues",
    "write_splits",
]
