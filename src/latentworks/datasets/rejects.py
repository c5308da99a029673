"""The reasons for which images are rejected, in words."""

from typing import NamedTuple

from latentworks.datasets.layout import printable
from latentworks.datasets.source import MAX_PIXELS


class Reason(NamedTuple):
    """A reason for which images are rejected."""

    one: str  # continues "1 image"
    many: str  # continues "2 images"
    cure: str  # a sentence without its full stop


REASONS = {
    "animated": Reason(
        "is an animated PNG, WebP or AVIF",
        "are animated PNG, WebP or AVIF files",
        "Save the frame that you want",
    ),
    "archive": Reason(
        "is an archive", "are archives", "Unpack beside the other images, and remove the archive"
    ),
    "broken_link": Reason(
        "is a link to a file that is missing",
        "are links to files that are missing",
        "Run `dvc checkout` for links of DVC, `git annex get` for links of git-annex",
    ),
    "dicom": Reason(
        "is a DICOM file",
        "are DICOM files",
        "Convert to PNG: the package pydicom reads the pixels and their range",
    ),
    "empty": Reason("is an empty file", "are empty files", "Copy again"),
    "heic": Reason(
        "is in HEIC, which needs a package",
        "are in HEIC, which needs a package",
        "Run `pip install pillow-heif`",
    ),
    "html": Reason(
        "is a web page in place of a picture",
        "are web pages in place of pictures",
        "Download again: the server sent a page, for instance of a login",
    ),
    "lfs_pointer": Reason(
        "is a pointer of Git LFS", "are pointers of Git LFS", "Run `git lfs pull` in the repository"
    ),
    "link_outside": Reason(
        "is a link out of the folder",
        "are links out of the folder",
        "Put the files there, or set dataset.path to a folder that holds links and files",
    ),
    "missing": Reason(
        "is named by a label file and missing",
        "are named by a label file and missing",
        "Add the file, or correct its line",
    ),
    "not_finite": Reason(
        "has NaN or infinity among its values",
        "have NaN or infinity among their values",
        "Replace these values",
    ),
    "too_deep": Reason(
        "has 32 bits or signed numbers per channel",
        "have 32 bits or signed numbers per channel",
        "Save 8 or 16 bits, after scaling the values to the whole range",
    ),
    "too_large": Reason(
        f"has more than {MAX_PIXELS // 1_000_000} million pixels",
        f"have more than {MAX_PIXELS // 1_000_000} million pixels",
        "Shrink, or cut into tiles",
    ),
    "truncated": Reason("is truncated", "are truncated", "Copy again"),
    "unreadable": Reason(
        "is damaged, or no picture", "are damaged, or no pictures", "Copy again, or remove"
    ),
    "unsupported_format": Reason(
        "is in a format that is not read",
        "are in a format that is not read",
        "Convert to PNG, or remove",
    ),
}


def sentence(code: str, names: list[str]) -> str:
    """Say what is wrong with the images of these names: "3 images are truncated, such as a.jpg"."""
    return counted(names, REASONS[code].one, REASONS[code].many)


def counted(names: list[str], one: str, many: str) -> str:
    """Say something of the images of these names, with the first as an example."""
    if len(names) == 1:
        return f"1 image {one}: {printable(names[0])}"
    return f"{len(names):,} images {many}, such as {printable(names[0])}"
