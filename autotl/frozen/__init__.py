"""What frozen parts made of pictures: kept on disk, shared by trials, later runs and processes.

``features`` finds rows or has them computed, and keeps to its limits; ``segments`` are the files.
"""

from autotl.frozen.cache import FeatureCache, Rows, Usage, digest

__all__ = ["FeatureCache", "Rows", "Usage", "digest"]
