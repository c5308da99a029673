"""Folders of picture files. Folder names or a file of labels give classes and splits.

Hidden files and folders, and files that systems leave behind, are ignored, and so are texts such as
readme.md. Every other file is counted, with the reason if it is rejected.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import NoReturn

import numpy as np

from latentworks.datasets import label_files
from latentworks.datasets.formats import ENDINGS, kind_inside
from latentworks.datasets.layout import Layout, listed
from latentworks.datasets.links import Links
from latentworks.datasets.pictures import START_BYTES, kind_of, read_picture
from latentworks.datasets.source import FirstFrame, Item, Reject, Source
from latentworks.errors import DataError

# Extensions of pictures: such a file is damaged if its content is none.
PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif"),
)
TEXTS = (
    *(".txt", ".md", ".json", ".jsonl", ".csv", ".xml", ".yaml", ".yml", ".py", ".html", ".htm"),
)
IGNORED = ("__macosx", "thumbs.db", "desktop.ini")  # left behind by macOS and Windows
EXPECTED = "Expected PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIC files"


def load(path: Path) -> Source:
    """List a folder, without opening its pictures. Raises DataError if it has none."""
    require_folder(path)
    links = Links.of(path)
    try:
        entries = list(_entries(links))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}.") from None
    files = sorted((file for file, is_folder in entries if not is_folder), key=PurePath)
    images = [file for file in files if not file.casefold().endswith(TEXTS)]
    if all(image.casefold().endswith(tuple(ENDINGS)) for image in images):
        received = listed(files) if files else "no file"
        raise DataError(
            f"{path}: the folder has no images. {EXPECTED}. Received: {received}."
            f"{kind_inside(path, 'image_folder')}"
        )
    likely = [image for image in images if _is_likely(image)] or images
    layout = Layout.of(likely)
    of_labels = [file for file in files if _is_of_labels(links, layout, file)]
    given = label_files.read(path, of_labels, images)

    class_of = given.labels.get if given.labels else layout.class_name
    class_names = given.class_names() or sorted(set(filter(None, map(class_of, likely))))
    label_of = {name: label for label, name in enumerate(class_names)}
    split_of = {image: given.splits.get(image) or layout.split(image) for image in images}
    splits = frozenset(split for split in split_of.values() if split)
    items = [
        Item(
            name=_printable(image),
            read=partial(read_image, links, image),
            label=label_of.get(class_of(image) or ""),
            split=split_of[image] or ("train" if splits else None),
        )
        for image in images
    ]
    items += [Item(_printable(file), _missing) for file in given.missing]
    folders = (folder for folder, is_folder in entries if is_folder)
    notes = [*layout.notes(likely, folders), *given.notes]
    if class_names:
        counted = "1 class" if len(class_names) == 1 else f"{len(class_names):,} classes"
        notes.append(f"{counted}: {listed(class_names, ', ')}")
    return Source(
        items,
        len(items),
        tuple(map(_printable, class_names)),
        decodes=True,
        splits=splits,
        notes=tuple(notes),
    )


def require_folder(path: Path) -> None:
    """Raise DataError if a path is no folder, with the cure for an archive."""
    if path.is_dir():
        return
    if not path.exists():
        raise DataError(f"{path}: no such folder. Correct dataset.path, or put the images there.")
    kind = ENDINGS.get(path.suffix.casefold())
    other = f", or set dataset.kind to {kind}" if kind else ""
    cure = "Correct dataset.path"
    if _is_archive(path):
        cure = "Unpack the archive, and set dataset.path to the folder that this gives"
    raise DataError(f"{path}: not a folder. Expected a folder of images. {cure}{other}.")


def _is_archive(path: Path) -> bool:
    if not path.is_file():  # a pipe would block
        return False
    with suppress(OSError), path.open("rb") as stream:
        return kind_of(stream.read(START_BYTES)) == "archive"
    return False


def _is_likely(file: str) -> bool:
    """True if a file is a picture by its name: archives and papers beside classes are none."""
    return file.casefold().endswith(PICTURES) or not PurePath(file).suffix


def _is_of_labels(links: Links, layout: Layout, file: str) -> bool:
    """True for a file of labels beside the images, and not for a pipe, or a link out of them."""
    *folders, name = PurePath(file).parts
    if name.casefold() not in label_files.NAMES or tuple(folders) not in layout.levels():
        return False
    path = os.path.realpath(os.path.join(links.root, file))
    return os.path.isfile(path) and links.allow(path)


def _entries(links: Links, folder: str = "", linked: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the relative paths of all files and folders, and if each is a folder.

    A link to a folder is followed if it leads into the folder, and is not inside another such link
    or around itself. Otherwise it counts as a file.
    """
    with os.scandir(os.path.join(links.root, folder)) as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.startswith(".") or entry.name.casefold() in IGNORED:
                continue
            is_link = entry.is_symlink()
            is_folder = os.path.isdir(entry.path)  # not entry.is_dir(): a link to itself raises
            if not is_folder or (is_link and (linked or not _leads_inside(links, path))):
                yield path, False
            else:
                yield path, True
                yield from _entries(links, path, linked or is_link)


def _leads_inside(links: Links, path: str) -> bool:
    """True if a link leads into the folder of images, and not to a folder around the link."""
    link = os.path.join(links.root, path)
    target = os.path.realpath(link)
    return links.allow(target) and not link.startswith(os.path.join(target, ""))


def _printable(path: str) -> str:
    """Escape the bytes of a file name that are not UTF-8, so that reports can show it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _missing() -> NoReturn:
    raise Reject("missing")


def read_image(links: Links, file: str) -> np.ndarray | FirstFrame:
    """Decode a file, upright, to uint8 or uint16 [h, w, c]: c is 1 to 4, and even with alpha.

    Raises Reject with a code of `rejects.REASONS`.
    """
    path = os.path.realpath(os.path.join(links.root, file))
    if not links.allow(path):
        raise Reject("link_outside")
    if not os.path.isfile(path):  # a broken link, or a pipe, which would block forever
        raise Reject("unreadable" if os.path.exists(path) else "broken_link")
    try:
        with open(path, "rb") as stream:
            return read_picture(stream, os.fstat(stream.fileno()).st_size)
    except Reject as reject:
        if reject.code == "unsupported_format" and file.casefold().endswith(PICTURES):
            raise Reject("unreadable") from None
        raise
    except OSError:
        raise Reject("unreadable") from None
