"""Verification of a local store's database: the SQLite file, and its rows against the records."""

from contextlib import suppress
from dataclasses import replace

from latentworks.errors import Untrusted
from latentworks.integrity.report import Fault, Verified, count
from latentworks.registry.records import Record, Records
from latentworks.registry.signatures import Keys
from latentworks.tracking import local_store


def loss(records: Records, num_versions: int) -> Fault | None:
    """Describe the damage or loss of a database that held `num_versions`; None if it is whole."""
    database = records.database
    num_recorded = sum(record.kind == "version" for record in records.all())
    exists = database.exists() and database.stat().st_size
    wrong = local_store.damage(database) if exists else ""
    if not wrong:
        gone = local_store.lost(database)
        if not gone and not exists and num_versions:
            gone = "empty" if database.exists() else "missing"
        wrong = (
            f"{gone}; it held {count(max(num_versions, num_recorded), 'version')}" if gone else ""
        )
    if not wrong:
        return None
    cure = "Run `latentworks restore FILE` with a file of `latentworks backup`"
    if num_recorded:
        cure += (
            f", or `latentworks restore`, which has records of {count(num_recorded, 'version')}."
        )
    else:
        anew = "`latentworks sync` and `latentworks register` write this result anew."
        cure += f". Without one, {'move it away: ' * bool(exists)}{anew}"
    return Fault("mlflow", database.name, database.name, wrong=wrong, cure=cure)


def verify(records: Records, name: str, keys: Keys) -> Verified:
    """Compare the records of the model `name` with the database, and repair either.

    Afterwards, each version and decision in the database has a record.
    """
    seen = Verified()
    for record in records.all():
        if record.name == name:
            seen += _verify(records, record, keys)
    if not seen.lost:
        records.keep(name)
    return seen


def _verify(records: Records, record: Record, keys: Keys) -> Verified:
    fault = Fault("mlflow", str(record), str(record))
    lacks = records.lacks(record)
    try:
        recorded = record.tags()
    except ValueError as damage:
        fault = replace(fault, name=f"the record of {record}", wrong=str(damage))
        if lacks:
            return Verified(
                faults=(replace(fault, cure=f"If you need it no more, delete {record.path}."),)
            )
        records.write(record)
        return Verified(faults=(replace(fault, repaired="from the database"),))
    if lacks:
        cure = f"Run `latentworks restore`. If you deleted it on purpose, delete {record.path}."
        return Verified(faults=(replace(fault, wrong="missing in the database", cure=cure),))
    if record.kind == "version" and records.deleted(record):
        record.path.unlink()
        return Verified(notes=(f"{record} was deleted in MLflow",))
    present = records.tags(record)
    if present == recorded:
        return Verified()
    if record.kind == "version":
        if _is_signed(record, present, keys):  # anew, after the record was made
            records.write(record)
            return Verified()
        if not _is_signed(record, recorded, keys):
            return Verified()  # nothing loads this version; its own verification follows
    records.put_back([record])
    fault = replace(fault, wrong="tags differ from the record", repaired="from the record")
    return Verified(faults=(fault,))


def _is_signed(record: Record, tags: dict[str, str], keys: Keys) -> bool:
    with suppress(Untrusted):
        keys.check(str(record), record.name, tags)
        return True
    return False
