"""Faults of MLflow: some may pass, and others need something to be done first.

A fault that may pass becomes Unavailable, and any other one RegistryError. The message is the
program's own reason, and ends with what to do.
"""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store import db_migrations
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.system.console import first_line
from latentworks.tracking.uri import SQLITE, without_password

# MLflow's error codes that may pass with another try; the first one also means no answer.
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
LOGIN = {  # what to do about MLflow's error codes for the statuses 401 and 403
    "UNAUTHENTICATED": "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN.",
    "PERMISSION_DENIED": "Ask its administrator for the right to do this.",
}
BUSY = (OperationalError, sqlite3.OperationalError)
UNREADABLE = "Could not decode to UTF-8"  # damage, although SQLite and MLflow say that it may pass
UNREACHED = "Max retries exceeded"  # in the text of a connection that failed
CAUSE = re.compile(r"(?<=\] )[\w ]+|timed out")  # in that text: `[Errno 111] Connection refused`
SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")


@contextmanager
def one_line(uri: str, resume: str) -> Iterator[None]:
    """Turn a fault of the store at `uri` in a `with` block into one line that ends with `resume`.

    `resume` is used unless another cure is known. Raises Unavailable if another try may succeed,
    else RegistryError.
    """
    try:
        yield
    except Unavailable as error:
        raise Unavailable(f"{str(error).removesuffix(resume).strip()} {resume}") from None
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError) as error:
        place = without_password(uri)
        if other := other_schema(uri, error):
            raise RegistryError(f"MLflow's database at {place} {other}") from None
        reason = _reason(error)
        kind = Unavailable if _passes(error) else RegistryError
        raise kind(f"MLflow at {place} failed: {reason}. {_cure(error) or resume}") from None


def reason_and_cure(uri: str, error: Exception, resume: str) -> str:
    """Return the reason of any error and its cure in one line; `resume` is for those without."""
    if other := other_schema(uri, error):
        return f"its database {other}"
    if isinstance(error, LatentworksError) and not isinstance(error, Unavailable):
        return without_password(" ".join(str(error).split()))  # its message ends with the cure
    return f"{_reason(error)}. {_cure(error) or resume}"


def _reason(error: Exception) -> str:
    """Return the first line of an error; of a connection that failed, only why."""
    text = without_password(first_line(error)).rstrip(".")
    causes = CAUSE.findall(text) if UNREACHED in text else []
    return f"no connection: {causes[-1]}" if causes else text


def _passes(error: Exception) -> bool:
    """True if another try may succeed."""
    if UNREADABLE in first_line(error):
        return False
    return isinstance(error, BUSY) or getattr(error, "error_code", "") in PASSING


def _cure(error: Exception) -> str:
    """Say what to do before another try; return "" if no cure is known."""
    code = getattr(error, "error_code", "")
    if code in LOGIN:
        return LOGIN[code]
    if isinstance(error, ImportError):
        return "Install the missing package."
    damaged = isinstance(error, DatabaseError | sqlite3.DatabaseError) and not _passes(error)
    if damaged or UNREADABLE in first_line(error):
        return "Run `latentworks verify`, which names the cure."
    return ""


def other_schema(uri: str, error: BaseException) -> str:
    """Say which MLflow made a database that this one cannot use, and the cure; else "".

    MLflow calls every other schema out of date. Its package has the migrations up to its own.
    """
    found = SCHEMA.search(str(error))
    if not found:
        return ""
    migrations = Path(next(iter(db_migrations.__path__))) / "versions"
    if any(migrations.glob(f"{found[1]}_*.py")):
        backup = "Run `latentworks backup FILE`" if uri.startswith(SQLITE) else "Back it up"
        upgrade = f"`mlflow db upgrade {shlex.quote(without_password(uri))}`"
        login = "" if uri.startswith(SQLITE) else ", with its user and password"
        return f"was made by an older MLflow. {backup}, then run {upgrade}{login}."
    return (
        f"was made by a newer MLflow than {mlflow.__version__}. Use it from a checkout that has "
        "that MLflow, or from a newer commit after `make setup`."
    )
