"""Which files below a folder are images: the rules that all commands share.

Only names and types are looked at; no file is opened.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""The suffixes of the image files that are read."""

CONVERT = "convert them, e.g. to PNG"
UNREADABLE_FORMATS: Mapping[str, str] = {
    **dict.fromkeys((".dcm", ".dicom", ".ima"), "DICOM"),
    **dict.fromkeys((".nii", ".mha", ".mhd", ".nrrd"), "medical volumes"),
    **dict.fromkeys((".svs", ".ndpi", ".czi", ".nd2", ".lif", ".vsi", ".mrxs"), "microscopy"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5", ".hdf5"), "arrays"),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw"), "raw photos"),
    **dict.fromkeys((".rw2", ".pef", ".srw"), "raw photos"),
    **dict.fromkeys((".jxl", ".jxr", ".exr", ".hdr", ".dpx", ".cin", ".fits", ".fit"), "images"),
    **dict.fromkeys((".psd", ".xcf", ".ai", ".svg", ".eps", ".pdf"), "drawings"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "videos"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".tfrecord"), "archives"),
    "": "files without a suffix",
}
"""What files with other suffixes contain that may be the images which a user means."""

SYSTEM_FOLDERS = frozenset(
    {
        "__macosx",
        "@eadir",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
    }
    | {"$recycle.bin", "$recycle", "recycler", "recycled", "system volume information"}
    | {"lost+found", "network trash folder", "temporary items", "__pycache__"}
    | {"lightroom previews.lrdata"}
)
"""Folders, in lower case, in which systems and network drives put thumbnails and deleted files."""

SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
"""Files, in lower case, that systems put beside images."""

NAMED = 5
"""The number of files that a problem names."""


@dataclass(frozen=True)
class Listing:
    """What is below a folder; all paths are relative to it, sorted.

    Attributes:
        images: The image files.
        others: Files with other suffixes.
        folders: The folders that were listed, without the root.
        skipped: What was not looked into, and why: repeated and system folders, folders that cannot
            be listed, and what is neither a file nor a folder. Hidden ones are not mentioned.
    """

    images: tuple[Path, ...]
    others: tuple[Path, ...]
    folders: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]


def list_images(root: Path) -> Listing:
    """List the image files anywhere below ``root``.

    Links are followed, but each folder is listed once: first under its own name, and never a folder
    that contains ``root``. Names that begin with a dot and those of the system are left out.

    Raises:
        OSError: ``root`` cannot be listed.
    """
    walk = _Walk(root)
    walk.visit(Path())
    walk.visit_links()
    return Listing(
        images=tuple(sorted(walk.images)),
        others=tuple(sorted(walk.others)),
        folders=tuple(sorted(walk.folders)),
        skipped=tuple(sorted(walk.skipped)),
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out: a hidden one, or one of the system."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES | SYSTEM_FOLDERS


class _Walk:
    """The state of one walk through the folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Path] = []
        self.others: list[Path] = []
        self.folders: list[Path] = []
        self.skipped: list[tuple[Path, str]] = []
        self._links: list[Path] = []
        status = root.stat()
        self._visited: dict[tuple[int, int], str] = {(status.st_dev, status.st_ino): "the data"}
        real = root.resolve()
        self._above = {(s.st_dev, s.st_ino) for s in map(os.stat, real.parents)}

    def visit(self, top: Path) -> None:
        """List ``top`` and the folders in it; links to folders are put aside."""
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda e: e.name)
            except OSError as error:
                if folder == Path():
                    raise
                self.skipped.append((folder, f"cannot be listed ({error.strerror})"))
                continue
            if folder != Path():
                self.folders.append(folder)
            pending += [p for entry in entries if (p := self._sort_in(folder, entry))]

    def visit_links(self) -> None:
        """List the folders that links point to, unless they were listed already."""
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                if self._is_new(link):
                    self.visit(link)

    def _sort_in(self, folder: Path, entry: os.DirEntry[str]) -> Path | None:
        """Note a file; return a folder that is to be listed."""
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
            return None
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            missing = entry.is_symlink()
            self.skipped.append((path, "a link to nothing" if missing else str(error.strerror)))
            return None
        if stat.S_ISDIR(mode):
            if entry.name.lower() in SYSTEM_FOLDERS:
                self.skipped.append((path, "a folder of the system"))
            elif entry.is_symlink():
                self._links.append(path)
            elif self._is_new(path):
                return path
        elif not stat.S_ISREG(mode):
            self.skipped.append((path, "not a file but a pipe, socket or device"))
        else:
            is_image = entry.name.lower().endswith(SUFFIXES)
            (self.images if is_image else self.others).append(path)
        return None

    def _is_new(self, folder: Path) -> bool:
        """Whether a folder was not listed yet and does not contain the root; it is noted."""
        status = (self.root / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in self._above:
            self.skipped.append((folder, "a link to a folder that contains the data"))
            return False
        first = self._visited.setdefault(identity, str(folder))
        if first != str(folder):
            self.skipped.append((folder, f"the same folder as {first}"))
        return first == str(folder)


def describe_unread(listing: Listing) -> Iterator[tuple[str, str, str]]:
    """Yield ``(name, problem, action)`` of everything that is not read, one for each kind.

    Files that are no images by their suffix, such as texts, come last.
    """
    by_suffix: defaultdict[str, list[Path]] = defaultdict(list)
    for path in listing.others:
        by_suffix[path.suffix.lower()].append(path)
    for suffix in sorted(by_suffix, key=lambda s: (s not in UNREADABLE_FORMATS, s)):
        paths = by_suffix[suffix]
        kind = UNREADABLE_FORMATS.get(suffix)
        name = f"*{suffix}" if suffix else "no suffix"
        what = f"{len(paths)} {'files' if len(paths) > 1 else 'file'}"
        if suffix == "":
            action = "not read; give images the suffix of their format"
        elif kind:
            what, action = f"{what} ({kind})", f"not read; {CONVERT}, if they are your images"
        else:
            action = "not read: no suffix of an image"
        yield name, f"{what}: {join_paths(paths)}", action
    by_reason: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)
    for path, reason in listing.skipped:
        # The many folders of one system are one problem; each of the others has its own.
        by_reason[path.name if reason.endswith("the system") else str(path), reason].append(path)
    for (name, reason), paths in by_reason.items():
        more = f": {join_paths(paths)}" if len(paths) > 1 else ""
        yield name, f"{reason}{more}", "not read"


def join_paths(paths: Iterable[Path]) -> str:
    """The first paths, and how many more there are."""
    names = [path.as_posix() for path in paths]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
