"""The interface between a dataset and `prepare`: a stream of images, decoded one at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "val", "test"]

MAX_PIXELS = 50_000_000  # per image; a larger one is an attack or a mistake


class Reject(Exception):
    """An image cannot be used. `code` is a short reason such as `truncated`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class FirstFrame(NamedTuple):
    """The first of several frames or pages of a file; the others are not read."""

    image: np.ndarray


@dataclass(frozen=True)
class Item:
    """An image that is not decoded yet. Items are sent to worker processes: `read` must pickle."""

    name: str  # unique within the source: a relative path, or `file[index]`
    # [h, w, c], c in 1..4 (even: with alpha), see `dtypes`; raises Reject
    read: Callable[[], np.ndarray | FirstFrame]
    label: int | None = None  # index into Source.class_names
    split: Split | None = None  # set if the source has splits of its own


@dataclass(frozen=True)
class Stream:
    """Items that are read from a file again each time that they are asked for."""

    start: Callable[[], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.start()


@dataclass(frozen=True)
class Source:
    """A dataset that is open, and not read yet."""

    items: Iterable[Item]  # in a fixed order, the same each time
    num_items: int
    class_names: tuple[str, ...] = ()  # empty without labels
    decodes: bool = False  # True if `read` is slow enough to be worth all cores
    splits: frozenset[Split] = frozenset({"train", "test"})  # of the items that have one
    notes: tuple[str, ...] = ()  # how the source was understood: a line of log each
    dtypes: tuple[str, ...] = ("uint8", "uint16")  # that `read` may return; these are of pictures
