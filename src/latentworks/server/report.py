"""A report of the process that watches the registry: one line of JSON, which the server reads."""

from typing import TypedDict


class Report(TypedDict, total=False):
    fault: str  # why the registry does not answer, or names no version
    shown: str  # the same for everybody: without addresses
    target: int  # the version that the alias names
    number: int  # the version that the next fields are about
    sha256: str
    tags: dict[str, str]
    folder: str  # of the version, which passed its checks
    refused: str  # why the version is refused
