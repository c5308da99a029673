"""Class labels in the forms that people store: numbers, text, one-hot rows.

A label becomes an id, a whole number or a text. The classes of a source are the ids that are there,
in order: labels 7, 2507 and 5007 are three classes. The id -1, or an empty text, is no label.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from latentworks.errors import DataError
from latentworks.params.faults import escaped, short

MAX_CLASSES = 100_000
MANY_CLASSES = 20
NO_LABEL = -1
TWO_CLASSES = {-1, 1}  # the ids of two classes in many papers, if there are no others

Id = int | str


@dataclass(frozen=True)
class Classes:
    """The names of the classes, and the number of the class of each id."""

    names: tuple[str, ...] = ()
    numbers: Mapping[Id, int] = field(default_factory=dict)

    def number(self, id: Id | None) -> int | None:
        """The number of the class of an id; None for no label."""
        return None if id is None else self.numbers.get(id)


def classes(ids: Iterable[Id | None], where: str, names: tuple[str, ...] = ()) -> Classes:
    """Collect the classes of the ids in `where`. `names[i]` is the name of the number i.

    Raises DataError if ids are both numbers and text, numbers below -1, or too many.
    """
    found: set[Id] = set()
    for id in ids:
        if id is not None and id != "":
            found.add(id)
        if len(found) > MAX_CLASSES:
            raise DataError(
                f"{where}: more than {MAX_CLASSES} classes. Expected the class of each image. "
                "Leave the labels out if they are none."
            )
    numbers = [id for id in found if isinstance(id, int)]
    texts = [id for id in found if isinstance(id, str)]
    if numbers and texts:
        raise DataError(
            f"{where}: labels are numbers and text. Received: {min(numbers)} and "
            f"{short(min(texts))}. Save all as text."
        )
    if min(numbers, default=0) < NO_LABEL:
        raise DataError(
            f"{where}: expected class numbers from 0, or -1 for no label. "
            f"Received: {min(numbers)}. If each number is a class, save the numbers as text."
        )
    if all(re.fullmatch("-?[0-9]{1,18}", text) for text in texts):
        ordered = sorted(found, key=lambda id: (int(id), str(id)))
        if {int(id) for id in found} != TWO_CLASSES and ordered and int(ordered[0]) == NO_LABEL:
            ordered = [id for id in ordered if int(id) != NO_LABEL]
    else:
        ordered = sorted(found, key=str)
    return Classes(
        tuple(_name(id, names) for id in ordered), {id: i for i, id in enumerate(ordered)}
    )


def doubts(known: Classes, num_images: int) -> tuple[str, ...]:
    """A line of log if labels are hardly classes: captions, or numbers to predict."""
    if len(known.names) < MANY_CLASSES or len(known.names) <= num_images / 2:
        return ()
    counts = f"{len(known.names)} classes for {num_images} images"
    return (f"labels give {counts}: leave them out if they are no classes",)


def _name(id: Id, names: tuple[str, ...]) -> str:
    if isinstance(id, int) and 0 <= id < len(names):
        return escaped(names[id])
    return escaped(str(id))


def one_id(value: object, where: str) -> Id | None:
    """Return the id of a label: a whole number, a text, or None. Raises DataError."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace") or None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise DataError(
        f"{where}: expected one class for each image, a whole number or a text. "
        f"Received: {short(value)}."
    )


def row_ids(block: np.ndarray) -> np.ndarray | None:
    """Return ids, int64 [n] or str [n], of labels [n], [n, 1] or one-hot [n, classes].

    None if these labels name no single class: fractions, or rows with several ones.
    """
    if block.ndim == 2 and block.shape[1] > 1:
        return _of_one_hot(block)
    block = block.reshape(-1)
    if block.dtype.kind == "S":
        return np.array([text.decode("utf-8", "backslashreplace") for text in block.tolist()])
    if block.dtype.kind == "U":
        return block
    if block.dtype.kind == "f":
        block = np.where(np.isnan(block), NO_LABEL, block)
        if not ((block == np.rint(block)) & (np.abs(block) < 2**53)).all():
            return None
    if block.dtype.kind == "u" and block.max() > np.iinfo(np.int64).max:
        return None
    return block.astype(np.int64)


def _of_one_hot(block: np.ndarray) -> np.ndarray | None:
    """The column of the one in each row; NO_LABEL for a row of zeros."""
    if not are_flags(block) or (block != 0).sum(axis=1).max() > 1:
        return None
    return np.where((block != 0).any(axis=1), block.argmax(axis=1), NO_LABEL)


def are_flags(block: np.ndarray) -> bool:
    """True if all values are 0 or 1."""
    return block.dtype.kind in "biuf" and bool(np.isin(block, (0, 1)).all())


def distinct(blocks: Iterable[np.ndarray]) -> Iterator[Id]:
    """Yield the ids of each block, each once in a block."""
    for block in blocks:
        yield from np.unique(block).tolist()
