"""What frozen parts made of pictures: kept on disk, shared by trials, later runs and processes.

``features`` finds rows or has them computed, and keeps to its limits; ``segments`` are the files.
"""

from autotl.frozen.cache import Features, Rows, Usage, digest

__all__ = ["Features", "Rows", "Usage", "digest"]
