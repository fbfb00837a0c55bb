"""Features of frozen layers, computed once: the split point of a model, and the cache on disk.

``split_point`` divides a model into a frozen prefix and a trainable suffix, with the help of
``tracing``; ``cache`` stores what the prefix computes, ``activations`` with or without the model's
input; ``segments`` are the files of the cache, and ``rows`` reads them; ``reading_speed`` measures
how fast.
"""

from autotl.frozen.cache import FeatureCache, Usage, entry_name
from autotl.frozen.rows import CachedRows

__all__ = ["CachedRows", "FeatureCache", "Usage", "entry_name"]
