"""What a dataset gives to `prepare`: a stream of images that are decoded one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]

MAX_PIXELS = 50_000_000  # of one image; more is taken for an attack or a mistake


class Reject(Exception):
    """One image that cannot be used. `code` is a short reason such as `truncated`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Item:
    """One image, not yet decoded. It travels to worker processes, so `read` must pickle."""

    name: str  # unique within the source: a relative path, or `file[index]`
    read: Callable[[], np.ndarray]  # uint8 or uint16 [h, w, c], c in 1..4 (even: with alpha)
    label: int | None = None  # index into Source.class_names
    split: Split | None = None  # where the source itself separates train from test


@dataclass(frozen=True)
class Source:
    """A dataset that is opened but not yet read."""

    items: Iterable[Item]  # in a fixed order
    num_items: int
    class_names: tuple[str, ...] = ()  # empty where there are no labels
    decodes: bool = False  # whether `read` is work enough to spread over all cores
