"""Decoding of a source's images, in order, on all cores if decoding is slow.

The number of images in memory is bounded, however large the source is.
"""

import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np

from latentworks.datasets.source import FirstFrame, Item, Reject, Source
from latentworks.errors import DataError

CHUNK_ITEMS = 16  # sent to a worker at once
CHUNKS_PER_WORKER = 2  # one in progress, one queued

Read = Callable[[], np.ndarray | FirstFrame]
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decoded:
    """A decoded image, or the reason for rejecting it."""

    image: np.ndarray | None  # transformed; None if rejected
    height: int = 0  # pixels, before the transform
    width: int = 0
    reject: str = ""  # code, if image is None
    is_first: bool = False  # True if the file has more frames or pages


def decoded(source: Source, transform: Transform) -> Iterator[tuple[Item, Decoded]]:
    """Read and transform every item of a source, in order.

    `transform` and the items' `read` must be picklable. Raises DataError if a worker is killed.
    """
    if source.decodes:
        yield from _decoded_in_workers(source, transform)
    else:
        for item in source.items:
            yield item, _decode(item.read, transform)


def _decode(read: Read, transform: Transform) -> Decoded:
    try:
        raw = read()
    except Reject as reject:
        return Decoded(None, reject=reject.code)
    image = raw.image if isinstance(raw, FirstFrame) else raw
    height, width = image.shape[:2]
    return Decoded(transform(image), height, width, is_first=isinstance(raw, FirstFrame))


def _decode_chunk(reads: list[Read], transform: Transform) -> list[Decoded]:
    return [_decode(read, transform) for read in reads]


def _decoded_in_workers(source: Source, transform: Transform) -> Iterator[tuple[Item, Decoded]]:
    num_workers = min(_num_cores(), math.ceil(source.num_items / CHUNK_ITEMS))
    remaining = iter(source.items)
    pending: deque[tuple[list[Item], Future[list[Decoded]]]] = deque()
    with ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as pool:
        while True:
            while len(pending) < CHUNKS_PER_WORKER * num_workers and (
                chunk := list(islice(remaining, CHUNK_ITEMS))
            ):
                reads = [item.read for item in chunk]
                pending.append((chunk, pool.submit(_decode_chunk, reads, transform)))
            if not pending:
                return
            chunk, future = pending.popleft()
            try:
                yield from zip(chunk, future.result(), strict=True)
            except BrokenProcessPool:
                raise DataError(
                    f"A process that decodes images was killed, at {chunk[0].name} or one of the "
                    f"{CHUNK_ITEMS * len(pending)} images after it. The usual cause is too little "
                    "memory: free some, and run the stage again."
                ) from None


def _num_cores() -> int:
    """Count the cores that this process may use, not all cores of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait forever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
