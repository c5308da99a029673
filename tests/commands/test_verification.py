"""`latentworks verify` finds, quarantines and repairs damage: real DVC, MLflow and stages."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from checkouts import Checkout
from latentworks.integrity.report import Verified
from latentworks.registry import version_files
from latentworks.registry.registry import Registry
from latentworks.repository import dag
from latentworks.runner.verify import verify_checkout
from latentworks.serving import checksums
from servers import closed_port

IMAGES = "data/prepared/images.npy"
SAMPLER = "models/sampler/sampler.npz"


class Kept(Checkout):
    """A checkout with a result, its outs and their cache objects."""

    def verify(self) -> Verified:
        """Verify, keep the reported lines in `told`, and check that dvc.lock did not change."""
        self.told: list[str] = []
        lock = (self.path / "dvc.lock").read_bytes()
        env = {"DVC_SITE_CACHE_DIR": str(self.path / ".dvc/site_cache")}
        verified = verify_checkout(self.path, self.told.append, env)
        assert (self.path / "dvc.lock").read_bytes() == lock
        return verified

    def repaired(self) -> Verified:
        """Verify, and check with a second verification and with DVC that all files are intact."""
        verified = self.verify()
        told = list(self.told)
        assert not verified.lost, verified.lines()
        assert not self.verify().faults
        self.told = told
        self.run("dvc", "status", "--quiet")
        return verified

    def md5(self, name: str) -> str:
        """Return the MD5 of an out in dvc.lock."""
        text = (self.path / "dvc.lock").read_text()
        found = re.search(
            rf"outs:(?:(?!deps:).)*?path: {name}\n *hash: md5\n *md5: (\S+)", text, 16
        )
        assert found, name
        return found[1]

    def stored(self, name: str) -> Path:
        """Return the cache object of a file, or of the file list of a folder."""
        out = next(out for out in self.outs() if Path(name).is_relative_to(out))
        md5 = self.md5(out)
        if name != out:
            entries = json.loads(self.object(md5).read_text())
            inner = Path(name).relative_to(out).as_posix()
            md5 = next(entry["md5"] for entry in entries if entry["relpath"] == inner)
        return self.object(md5)

    def object(self, md5: str) -> Path:
        return self.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]

    def outs(self) -> list[str]:
        stages = dag.stages(self.path).values()
        return [out for stage in stages for out in dag.paths(stage["outs"])]

    def quarantined(self) -> dict[str, Path]:
        found = self.path.glob(".latentworks/quarantine/*/*/**/*")
        return {"/".join(path.parts[path.parts.index("quarantine") + 2 :]): path for path in found}

    def forget(self) -> None:
        shutil.rmtree(self.path / ".latentworks/quarantine", ignore_errors=True)


def flip(path: Path) -> None:
    """Flip one bit, and keep size, mode and times, as a failing disk does."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def make_unreadable(path: Path) -> None:
    """Replace a file by a folder, from which no user, not even root, can read bytes."""
    path.unlink()
    path.mkdir()


DAMAGES = (flip, truncate, empty, make_unreadable, Path.unlink)


@pytest.fixture(scope="module")
def shared(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(finished.copy(tmp_path_factory.mktemp("verified") / "checkout").path)


@pytest.fixture
def checkout(shared: Kept) -> Kept:
    """An intact checkout, shared by the tests: verify repairs the damage that each test does."""
    shared.forget()
    return shared


@pytest.fixture
def own(finished: Checkout, tmp_path: Path) -> Kept:
    return Kept(finished.copy(tmp_path / "checkout").path)


def add_remote(checkout: Kept, path: Path) -> None:
    checkout.run("dvc", "remote", "add", "--default", "store", str(path))
    checkout.run("dvc", "push")


def all_files(checkout: Kept) -> dict[Path, tuple[int, int, bytes]]:
    files = [path for path in checkout.path.rglob("*") if path.is_file()]
    notes = (".dvc/tmp", ".dvc/site_cache", "__pycache__")
    kept = [path for path in files if not any(note in str(path) for note in notes)]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in kept}


# --- intact files --------------------------------------------------------------------------------


def test_verify_leaves_an_intact_checkout_unchanged(checkout: Kept) -> None:
    before = all_files(checkout)
    start = time.monotonic()
    verified = checkout.verify()
    print(f"{time.monotonic() - start:.1f} seconds: {verified.summary()}")
    assert not verified.faults
    assert not verified.notes
    assert all_files(checkout) == before
    size = sum(path.stat().st_size for path in checkout.path.glob("models/servable/**/*"))
    assert verified.num_bytes > 2 * size  # verify read both copies


def test_verify_reports_a_changed_source_file_and_leaves_it_unchanged(own: Kept) -> None:
    flip(own.path / "digits.npz")
    damaged = (own.path / "digits.npz").read_bytes()
    verified = own.verify()
    assert not verified.faults
    assert [note.partition(":")[0] for note in verified.notes] == [
        "digits.npz differs from dvc.lock"
    ]
    assert (own.path / "digits.npz").read_bytes() == damaged


def test_verify_starts_no_stage_in_a_new_clone(own: Kept, tmp_path: Path) -> None:
    own.commit("--force", "dvc.lock")
    clone = Checkout(tmp_path / "clone")
    own.run("git", "clone", "--quiet", ".", str(clone.path))
    for options in ([], ["--result"]):
        assert clone.run("latentworks", "verify", *options).stdout.splitlines() == [
            "No stage has run in this checkout: the outs that dvc.lock records are neither here "
            "nor in DVC's cache. Run `make repro`.",
            "no file was verified",
        ]
    # If all files are lost where stages ran, they run again.
    shutil.rmtree(own.path / "models")
    shutil.rmtree(own.path / ".dvc/cache")
    assert "stage features runs again" in own.run("latentworks", "verify", "--result").stdout


def test_source_files_that_cannot_be_read_hide_no_damage(own: Kept) -> None:
    (own.path / "digits.npz").unlink()
    os.mkfifo(own.path / "digits.npz")  # a reader of it would wait for ever
    flip(own.path / SAMPLER)
    verified = own.verify()
    assert [fault.name for fault in verified.faults] == [SAMPLER]
    assert [note.partition(".")[2] for note in verified.notes] == [
        "npz is neither a file nor a folder. Restore the input that dvc.lock records."
    ]


def test_names_of_files_do_not_break_the_lines_of_the_report(own: Kept) -> None:
    (own.path / "models/sampler/new\nline").write_text("x")
    Path(os.fsdecode(bytes(own.path / "models/sampler") + b"/\xff")).write_text("x")
    done = own.run("latentworks", "verify", "--result")
    lines = [line for line in done.stdout.splitlines() if "not recorded in dvc.lock" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "models/sampler/new\\nline",
        "models/sampler/\\udcff",
    ]


def test_verify_without_dvc_lock_says_so(untouched: Checkout, tmp_path: Path) -> None:
    done = untouched.copy(tmp_path / "checkout").run("latentworks", "verify")
    assert "dvc.lock records no outs: nothing to verify" in done.stdout


def test_files_of_another_result_are_not_reported_as_damage(own: Kept) -> None:
    """dvc.lock is of one result and the files are of another, as after `git checkout`."""
    lock = (own.path / "dvc.lock").read_text()
    (own.path / "models/sampler/sampler.npz").write_text("another")
    own.run("dvc", "commit", "--force", "sample")
    (own.path / "dvc.lock").write_text(lock)
    before = all_files(own)
    verified = own.verify()
    assert not verified.faults
    told = "\n".join(verified.notes)
    assert "models/sampler belongs to another result than dvc.lock records" in told
    assert all_files(own) == before


@pytest.mark.parametrize("cached", [True, False], ids=["and in the cache", "alone"])
def test_files_of_another_result_survive_the_run_of_their_stage(own: Kept, cached: bool) -> None:
    """The list of the recorded files is lost. So the stage runs, and DVC deletes the folder."""
    lock = (own.path / "dvc.lock").read_text()
    (own.path / "models/sampler/sampler.npz").write_text("another")
    own.run("dvc", "commit", "--force", "sample")
    (own.path / "dvc.lock").write_text(lock)
    stored = own.object(hashlib.md5(b"another").hexdigest())
    assert stored.read_text() == "another"
    if not cached:
        stored.unlink()
    own.stored("models/sampler").unlink()
    own.repaired()
    assert own.told
    kept = stored if cached else own.quarantined()["checkout/models/sampler/sampler.npz"]
    assert kept.read_text() == "another"


# --- one copy is damaged -------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_object_is_repaired_from_the_checkout(
    checkout: Kept, damage: Callable[[Path], None]
) -> None:
    stored = checkout.stored(IMAGES)
    whole = stored.read_bytes()
    damage(stored)
    damaged = stored.read_bytes() if stored.is_file() else None
    (fault,) = checkout.repaired().faults
    assert fault.repaired == "from the checkout"
    assert stored.read_bytes() == whole
    assert stored.stat().st_mode & 0o777 == 0o444
    assert not checkout.told  # no stage ran
    kept = checkout.quarantined().get(f"cache/{IMAGES}")
    assert (kept is not None) == (damage is not Path.unlink)
    if kept is not None:
        assert fault.kept == str(kept.relative_to(checkout.path))
        assert (kept.read_bytes() if kept.is_file() else None) == damaged


@pytest.mark.parametrize("damage", [*DAMAGES, shutil.rmtree])
def test_a_damaged_or_missing_file_is_repaired_from_the_cache(
    checkout: Kept, damage: Callable[[Path], None]
) -> None:
    place = checkout.path / IMAGES
    whole = place.read_bytes()
    damage(place.parent if damage is shutil.rmtree else place)
    verified = checkout.repaired()
    assert {fault.repaired for fault in verified.faults} == {"from DVC's cache"}
    assert len(verified.lines()) == 1 or damage is shutil.rmtree
    assert place.read_bytes() == whole
    assert not checkout.told


def test_files_of_several_outs_are_restored_by_one_call_of_dvc(own: Kept) -> None:
    """Images of the user stay in the folder, and nothing is left of the repository for DVC."""
    image = own.path / "data/raw/mine.png"
    image.write_text("mine")
    names = ("data/raw/source.json", "data/latents.parquet", SAMPLER)
    files = [own.path / name for name in names]
    files.append(own.path / "models/servable/sampler/sampler.npz")  # equal to that of the sampler
    contents = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    verified = own.verify()
    assert [(fault.wrong, fault.repaired) for fault in verified.faults] == [
        ("missing", "from DVC's cache")
    ] * 4
    assert [file.read_bytes() for file in files] == contents
    assert image.read_text() == "mine"
    assert not (own.path / ".latentworks/repair").exists()
    assert not own.told
    image.unlink()
    assert not own.repaired().faults


def test_a_file_that_cannot_be_restored_is_explained(own: Kept) -> None:
    """A folder of the user is in the place of a recorded file, in an out that keeps such files."""
    place = own.path / "data/raw"
    lock = own.path / "dvc.lock"
    inner = own.stored("data/raw/source.json")
    md5 = inner.parent.name + inner.name
    listing = json.dumps([{"md5": md5, "relpath": "mine/source.json"}], sort_keys=True)
    (own.path / "list").write_text(listing)
    name = dag.md5_of(own.path / "list")
    target = own.object(f"{name}.dir")
    target.parent.mkdir(exist_ok=True)
    (own.path / "list").rename(target)
    lock.write_text(lock.read_text().replace(own.md5("data/raw"), f"{name}.dir"))
    (place / "mine").write_text("a file of the user")
    verified = own.verify()
    assert (place / "mine").read_text() == "a file of the user"
    fault = next(fault for fault in verified.lost if fault.name == "data/raw/mine/source.json")
    assert (fault.place, fault.out, fault.wrong) == ("checkout", "data/raw", "missing")
    assert fault.cure.startswith("DVC could not restore it: File exists: ")


@pytest.mark.parametrize("content", [None, b"[", b'[{"relpath": "a"}]'])
def test_a_damaged_file_list_of_a_folder_is_repaired_from_the_checkout(
    checkout: Kept, content: bytes | None
) -> None:
    stored = checkout.stored("models/servable")
    whole = stored.read_bytes()
    flip(stored)
    if content is not None:
        stored.chmod(0o644)
        stored.write_bytes(content)
    (fault,) = checkout.repaired().faults
    assert fault.repaired == "from the checkout"
    assert stored.read_bytes() == whole
    assert [*checkout.quarantined()] == ["cache/models", "cache/models/servable.dir"]


def test_unrecorded_files_are_quarantined_except_images_of_the_user(checkout: Kept) -> None:
    (checkout.path / "models/autoencoder/stranger").write_text("stranger")
    image = checkout.path / "data/raw/mine.png"
    image.write_text("mine")
    (fault,) = checkout.verify().faults
    image.unlink()
    assert "not recorded in dvc.lock" in str(fault)
    kept = checkout.quarantined()["checkout/models/autoencoder/stranger"]
    assert kept.read_text() == "stranger"
    assert not checkout.repaired().faults


def test_a_file_list_with_a_path_outside_its_folder_is_not_followed(own: Kept) -> None:
    """The MD5 of the list is correct, since dvc.lock was rewritten, too."""
    victim = own.path / "data/victim"
    victim.write_text("precious")
    member = own.stored(IMAGES)
    md5 = member.parent.name + member.name
    text = json.dumps([{"md5": md5, "relpath": "../victim"}], sort_keys=True)
    (own.path / "list").write_text(text)
    name = dag.md5_of(own.path / "list")
    target = own.object(f"{name}.dir")
    target.parent.mkdir(exist_ok=True)
    (own.path / "list").rename(target)
    before = own.md5("data/prepared")
    lock = (own.path / "dvc.lock").read_text()
    (own.path / "dvc.lock").write_text(lock.replace(before, f"{name}.dir"))
    verified = own.verify()
    assert "prepare ran again, and its outs differ from dvc.lock: data/prepared" in "".join(
        map(str, verified.lost)
    )
    assert victim.read_text() == "precious"
    assert not target.exists()


# --- both copies are damaged ---------------------------------------------------------------------


def test_a_file_with_both_copies_damaged_is_repaired_from_another_out(checkout: Kept) -> None:
    """The servable holds the file of the sampler, too."""
    for path in (checkout.stored(SAMPLER), checkout.path / SAMPLER):
        flip(path)
    verified = checkout.repaired()
    assert [fault.repaired for fault in verified.faults] == [
        "from the checkout",
        "from DVC's cache",
    ]
    assert not checkout.told


def test_a_file_that_two_outs_share_is_made_by_one_stage_and_copied_to_the_other(
    checkout: Kept,
) -> None:
    """All three copies are damaged: the cache object, and the files of sampler and servable."""
    stored = checkout.stored(SAMPLER)
    whole = stored.read_bytes()
    twin = checkout.path / "models/servable/sampler/sampler.npz"
    for path in (stored, checkout.path / SAMPLER, twin):
        flip(path)
    verified = checkout.repaired()
    assert [line for line in checkout.told if "Running stage" in line] == [
        "Running stage 'sample':"
    ]
    assert [(fault.place, fault.repaired) for fault in verified.faults] == [
        ("cache", "by stage sample, which ran again"),
        ("checkout", "by stage sample, which ran again"),
        ("checkout", "from DVC's cache"),
    ]
    assert twin.read_bytes() == whole


def test_a_file_with_both_copies_damaged_is_repaired_by_its_stage(checkout: Kept) -> None:
    whole = (checkout.path / IMAGES).read_bytes()
    flip(checkout.stored(IMAGES))
    truncate(checkout.path / IMAGES)
    verified = checkout.repaired()
    assert [fault.repaired for fault in verified.faults] == [
        "by stage prepare, which ran again"
    ] * 2
    assert [line for line in checkout.told if "Running stage" in line] == [
        "Running stage 'prepare':"
    ]
    assert (checkout.path / IMAGES).read_bytes() == whole
    assert {f"cache/{IMAGES}", f"checkout/{IMAGES}"} <= set(checkout.quarantined())


def test_stages_that_repair_outs_run_in_dvc_order(checkout: Kept) -> None:
    """Of data/samples, the file list is damaged, too: no record of its files is left."""
    for name in ("models/autoencoder/model.keras", "data/samples/latents.npy"):
        flip(checkout.stored(name))
        flip(checkout.path / name)
    flip(checkout.stored("data/samples"))
    checkout.repaired()
    assert [line for line in checkout.told if "Running stage" in line] == [
        "Running stage 'train':",
        "Running stage 'sample':",
    ]


def test_an_uncached_file_is_repaired_from_git_or_by_its_stage(own: Kept) -> None:
    metrics = own.path / "reports/metrics.json"
    whole = metrics.read_bytes()
    own.commit("reports/metrics.json", "dvc.lock")
    flip(metrics)
    (fault,) = own.repaired().faults
    assert fault.repaired == "from git"
    curves = own.path / "reports/curves.csv"
    empty(curves)
    (fault,) = own.repaired().faults
    assert fault.repaired == "by stage evaluate, which ran again"
    assert metrics.read_bytes() == whole


def test_repair_tries_the_remote_before_it_runs_the_stage(own: Kept, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    add_remote(own, remote)
    for name in (IMAGES, "data/latents.parquet", "data/samples/latents.npy"):
        flip(own.stored(name))
        flip(own.path / name)
    flip(own.stored("data/samples"))
    verified = own.repaired()
    assert {fault.repaired for fault in verified.faults} == {
        "from DVC's remote store",
        "from DVC's cache",
    }
    assert not own.told
    # A remote can be damaged, too.
    stored = own.stored(IMAGES)
    there = remote / stored.relative_to(own.path / ".dvc/cache")
    for path in (stored, own.path / IMAGES, there):
        flip(path)
    verified = own.repaired()
    assert "; its replacement is damaged, too" in verified.lines()[0]
    assert any("Running stage 'prepare'" in line for line in own.told)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_outs_linked_into_the_cache_are_repaired_and_stay_links(own: Kept, kind: str) -> None:
    own.run("dvc", "config", "cache.type", kind)
    own.run("dvc", "checkout", "--relink")
    assert not own.verify().faults
    place, stored = own.path / IMAGES, own.stored(IMAGES)
    assert place.samefile(stored)
    whole = place.read_bytes()
    flip(stored)
    if kind == "hardlink":
        flip(own.stored("data/prepared"))  # DVC would link the new out to the damaged cache object
    verified = own.repaired()
    assert "by stage prepare, which ran again" in {fault.repaired for fault in verified.faults}
    if kind == "symlink":  # a link to a quarantined cache object is no damage of its own
        assert [fault.wrong for fault in verified.faults if fault.place == "checkout"] == [
            "missing"
        ]
    assert place.read_bytes() == whole
    assert place.samefile(stored)
    place.unlink()
    own.repaired()
    assert place.samefile(stored)
    assert place.is_symlink() == (kind == "symlink")


# --- damage that cannot be repaired --------------------------------------------------------------


def test_a_stage_with_changed_params_does_not_run_for_a_repair(own: Kept) -> None:
    flip(own.stored("data/samples/latents.npy"))
    flip(own.path / "data/samples/latents.npy")
    own.edit("params.yaml", "num_components: 5", "num_components: 4")
    done = own.run("latentworks", "verify", "--result", expected=11)
    assert "Stage sample was not run, since it would make a different result." in done.stdout
    assert "Changed since dvc.lock was written: params.yaml sample modified. Run" in done.stdout
    assert "Running stage" not in done.stdout
    assert done.stderr.startswith("Not repaired: data/samples/latents.npy")
    assert "Traceback" not in done.stderr


def test_damage_that_cannot_be_quarantined_is_not_deleted_by_its_stage(own: Kept) -> None:
    place, stored = own.path / SAMPLER, own.stored(SAMPLER)
    twin = own.path / "models/servable/sampler/sampler.npz"
    for path in (place, stored, twin):
        flip(path)
    damaged = place.read_bytes()
    obstacle = own.path / ".latentworks/quarantine"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("a file in the place of the folder")
    faults = own.verify().lost
    assert {fault.kept for fault in faults} == {""}
    assert all(fault.cure.startswith("It could not be quarantined: ") for fault in faults)
    assert place.read_bytes() == stored.read_bytes() == damaged
    assert not own.told  # no stage ran
    obstacle.unlink()
    assert len(own.repaired().faults) == len(faults) == 3


def test_a_file_that_dvc_cannot_restore_is_repaired_by_its_stage(own: Kept) -> None:
    (own.path / ".latentworks/repair").write_text("a file in the place of the folder")
    (own.path / SAMPLER).unlink()
    (fault,) = own.repaired().faults
    assert fault.repaired == "by stage sample, which ran again"


def test_verify_reports_a_stage_whose_new_outs_differ_from_dvc_lock(own: Kept) -> None:
    lock = own.path / "dvc.lock"
    lock.write_text(lock.read_text().replace(own.md5("data/prepared"), "0" * 32 + ".dir"))
    for _ in range(2):  # the second time, too: no record has the new outs
        verified = own.verify()
        assert "its outs differ from dvc.lock: data/prepared" in "\n".join(verified.lines())


@pytest.mark.parametrize("outcome", ["fails", "makes other outs"])
def test_a_stage_that_repairs_nothing_leaves_the_previous_outputs(own: Kept, outcome: str) -> None:
    """DVC deletes all outs of a stage before it runs, and its cache lacks two of `evaluate`."""
    curves, metrics = own.path / "reports/curves.csv", own.path / "reports/metrics.json"
    content = metrics.read_bytes()
    flip(curves)
    code = own.path / "src/latentworks/stages/__main__.py"  # no dep of a stage
    written = code.read_text()
    if outcome == "fails":
        code.write_text('raise SystemExit("this stage fails")')
    else:
        for name in ("metrics.json", "curves.csv"):
            code.write_text(f"{code.read_text()}\nopen('reports/{name}', 'a').write(' ')\n")
    (fault,) = own.verify().lost
    assert fault.name == "reports/curves.csv"
    assert fault.kept
    assert ("Stage evaluate failed" if outcome == "fails" else "its outs differ") in fault.cure
    assert metrics.read_bytes() == content
    assert not [path for path in (own.path / ".latentworks/kept").rglob("*") if path.is_file()]
    code.write_text(written)
    (fault,) = own.repaired().faults
    assert fault.repaired == "by stage evaluate, which ran again"


def test_a_note_on_another_result_goes_once_its_stage_made_the_recorded_one(own: Kept) -> None:
    lock = (own.path / "dvc.lock").read_text()
    (own.path / "models/sampler/sampler.npz").write_text("another")
    own.run("dvc", "commit", "--force", "sample")
    (own.path / "dvc.lock").write_text(lock)
    own.stored("data/samples/latents.npy").unlink()
    (own.path / "data/samples/latents.npy").unlink()
    verified = own.repaired()
    assert not verified.notes, verified.notes


@pytest.mark.parametrize("content", ["", "schema: '2.0'\nstages:\n  fet"])
def test_a_damaged_dvc_lock_is_reported_as_lost(own: Kept, content: str) -> None:
    lock = own.path / "dvc.lock"
    intact = lock.read_text()
    for number in range(2):
        lock.write_text(f"{content}{number}" if content else "")
        for _ in range(2):  # also in the next call, which finds no dvc.lock
            done = own.run("latentworks", "verify", "--result", expected=11)
            assert "quarantined as .latentworks/torn/dvc.lock; NOT repaired." in done.stdout
            assert "no outs" not in done.stdout
            assert done.stderr.startswith("Not repaired: dvc.lock.")
    torn = own.path / ".latentworks/torn"
    assert sorted(path.name for path in torn.iterdir()) == ["dvc.lock", "dvc.lock.1"]
    lock.write_text(intact)
    own.run("latentworks", "verify", "--result")
    lock.unlink()  # by the user, who wants a new result
    assert "dvc.lock records no outs" in own.run("latentworks", "verify", "--result").stdout


def test_verify_refuses_a_dvc_lock_entry_that_is_no_md5(own: Kept) -> None:
    lock = own.path / "dvc.lock"
    lock.write_text(lock.read_text().replace(own.md5("data/samples"), "../../etc"))
    told = own.run("latentworks", "verify", expected=1).stderr
    assert told.startswith("dvc.lock has no MD5 of data/samples. Received: '../../etc'.")


def test_verify_after_a_killed_verify_repairs_all_damage(own: Kept) -> None:
    rng = random.Random(0)
    files = sorted(path for path in (own.path / "models/servable").rglob("*") if path.is_file())
    names = [path.relative_to(own.path).as_posix() for path in files]
    contents = [path.read_bytes() for path in files]
    objects = [own.stored(name) for name in names]
    for _ in range(3):
        for place, stored in zip(files, objects, strict=True):
            flip(rng.choice((place, stored)))
        process = subprocess.Popen(
            ["latentworks", "verify", "--result"], cwd=own.path, env=own.environment()
        )
        seen = len(own.quarantined())
        deadline = time.monotonic() + 30
        while len(own.quarantined()) == seen and time.monotonic() < deadline:
            pass  # wait until the process has begun to quarantine files
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        own.repaired()
        assert not own.told
        assert [path.read_bytes() for path in files] == contents
        assert not [*(own.path / "models").rglob(".*.partial")]
        assert not [*(own.path / ".dvc/cache").rglob(".*.partial")]


# --- versions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A checkout with a local store, in which version 1 is champion, and a copy of version 1."""
    path = tmp_path_factory.mktemp("registered") / "checkout"
    checkout = Kept(finished.copy(path).path)
    checkout.run("latentworks", "register", PYTHONPATH=str(path / "src"))
    registry = Registry(path, f"sqlite:///{path / 'mlflow.db'}")
    registry.store.move_alias("autoencoder", "champion", 1)
    registry.store.fetch(registry.store.get("autoencoder", 1))
    return checkout


@pytest.fixture
def versions(registered: Kept, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.database)
    registered.forget()
    return registered


def copies(checkout: Kept) -> tuple[Path, Path]:
    """Return the folders of the version: the local copy, and MLflow's copy."""
    (local,) = (checkout.path / ".latentworks/versions").glob("*")
    (stored,) = (path.parent for path in (checkout.path / "mlartifacts").rglob("SHA256SUMS"))
    return local, stored


def test_verify_finds_no_damage_in_an_intact_version(versions: Kept) -> None:
    verified = version_files.verify(versions.path)
    assert (verified.num_versions, verified.num_absent, verified.faults) == (1, 0, ())


def test_a_damaged_local_copy_of_a_version_is_repaired_from_mlflow(versions: Kept) -> None:
    local, _ = copies(versions)
    flip(local / "artifacts/servable/decoder.onnx")
    (fault,) = version_files.verify(versions.path).faults
    assert fault.repaired == "from MLflow"
    assert "artifacts/servable/decoder.onnx does not match its sha256" in str(fault)
    assert (versions.path / fault.kept / "pyfunc.py").is_file()
    checksums.verify(local, local.name, "it")


def test_a_damaged_version_in_mlflow_is_repaired_from_the_local_copy(versions: Kept) -> None:
    local, stored = copies(versions)
    flip(stored / "pyfunc.py")
    (stored / "code/stranger.py").write_text("import nothing")
    shutil.rmtree(stored / "provenance")
    (fault,) = version_files.verify(versions.path).faults
    assert fault.repaired == "from the copy in .latentworks/versions"
    assert (versions.path / fault.kept / "code/stranger.py").is_file()
    checksums.verify(stored, local.name, "it")
    shutil.rmtree(stored)
    (fault,) = version_files.verify(versions.path).faults
    assert fault.repaired
    checksums.verify(stored, local.name, "it")


def test_a_version_with_both_copies_damaged_is_reported_as_not_repaired(versions: Kept) -> None:
    local, stored = copies(versions)
    whole = local.with_name("whole")
    shutil.copytree(local, whole)
    for folder in (local, stored):
        empty(folder / "scores.json")
    done = versions.run("latentworks", "verify", expected=11)
    assert "autoencoder version 1 in MLflow: scores.json does not match its sha256" in done.stdout
    assert "It is champion: run `latentworks rollback`" in done.stdout
    assert "Not repaired: autoencoder version 1 in MLflow, the copy of" in done.stderr
    whole.rename(local)  # the user puts an intact copy back
    done = versions.run("latentworks", "verify")
    assert "1 damaged or missing, 1 repaired" in done.stdout
    checksums.verify(stored, local.name, "it")


def test_a_version_that_latentworks_did_not_register_is_left_alone(versions: Kept) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    source = client.get_model_version("autoencoder", "1").source
    number = client.create_model_version("autoencoder", str(source)).version
    verified = version_files.verify(versions.path)
    client.delete_model_version("autoencoder", str(number))
    assert not verified.faults
    assert verified.notes == (
        f"autoencoder version {number} was not verified: `latentworks register` did not make it",
    )


def test_verify_checks_cache_objects_that_only_a_version_names(
    versions: Kept, tmp_path: Path
) -> None:
    lock = versions.path / "dvc.lock"
    text = lock.read_text()
    stored = versions.stored("data/samples/latents.npy")
    copy = shutil.copy(stored, tmp_path)
    lock.write_text(re.sub(r"  sample:.*?(?=\n  \w)", "", text, flags=re.DOTALL))
    flip(stored)
    (fault,) = version_files.verify(versions.path).lost
    assert fault.what.startswith("data/samples of autoencoder version 1/latents.npy")
    assert "Only `latentworks rebuild` needs it" in str(fault)
    assert not stored.exists()
    verified = version_files.verify(versions.path)
    assert (verified.num_absent, verified.faults) == (1, ())
    shutil.copy(copy, stored)
    less = lock.read_text()
    lock.write_text(text)
    add_remote(versions, tmp_path / "remote")
    lock.write_text(less)
    flip(stored)
    (fault,) = version_files.verify(versions.path).faults
    assert fault.repaired == "from DVC's remote store"
    lock.write_text(text)
    versions.run("dvc", "remote", "remove", "store")


def test_verify_reports_damaged_files_even_if_mlflow_is_unreachable(checkout: Kept) -> None:
    flip(checkout.stored(IMAGES))
    away = f"http://127.0.0.1:{closed_port()}"
    done = checkout.run("latentworks", "verify", expected=69, MLFLOW_TRACKING_URI=away)
    assert f"{IMAGES} in DVC's cache: content differs from its MD5; quarantined as " in done.stdout
    assert done.stderr.startswith(f"MLflow at {away} failed: ")
    assert len(done.stderr.splitlines()) == 1
