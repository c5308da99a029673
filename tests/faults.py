"""Faults at random moments while `latentworks repro` runs the real stages: `make faults N=200`.

A fault kills processes, sends SIGTERM, cuts off or damages a file, or starts the command twice.
After each fault the same command is started again, and nothing else is done. When it has made its
result, the outs, dvc.lock and the MLflow run are compared with those of undisturbed stages.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil

from checkouts import Checkout, small_checkout
from latentworks.repository import dag

EPOCHS = 12
LONGEST = 9.0  # seconds from a start to a fault, at most; a little longer than any stage takes
SIGNS = ("Running stage", "Updating lock file", "Epoch ", "train: ", "prepare: ", "encode: ")
ENDED = 10.0  # seconds that processes may go on after SIGTERM
GONE = 5.0  # seconds that processes may go on after a kill
REPORTED = 60.0  # seconds in which a runner reports a kill, once `dvc checkout` has restored outs
PATIENCE = 300.0  # seconds that an undisturbed `latentworks repro` may take here
DAMAGE = "a damaged cache object"
ENOUGH = 5  # of so many damaged objects, DVC leaves some for `latentworks verify` to find
BUSY, TERMINATED = 75, 143


@dataclass
class Fault:
    """One fault: the action, and the state of the checkout afterwards."""

    kind: str
    recovered: bool = True  # no manual step was needed
    identical: bool = True  # the result equals that of undisturbed stages
    said: list[str] = field(default_factory=list)  # the moment of the fault, and each error found


class Missed(Exception):
    """The command ended before the fault could happen."""


class Run:
    """A process `latentworks repro` in a checkout, its child processes and its output."""

    def __init__(self, checkout: Checkout) -> None:
        self.lines: list[str] = []
        self.was_late = False
        self.process = subprocess.Popen(
            ["latentworks", "repro"],
            cwd=checkout.path,
            env=checkout.environment(PYTHONPATH=str(checkout.path / "src")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def wait_for(self, sign: str, seconds: float) -> None:
        """Wait until a line begins with `sign`, `seconds` are over, or the process has ended."""
        with self._said:
            self._said.wait_for(
                lambda: any(line.startswith(sign) for line in self.lines) or not self.is_on, seconds
            )

    def ends_or_tells(self, told: int, seconds: float) -> None:
        """Wait until there are more than `told` lines, or the process has ended.

        It is late if neither happens within `seconds`.
        """
        with self._said:
            if not self._said.wait_for(lambda: len(self.lines) > told or not self.is_on, seconds):
                self.was_late = True

    def epochs(self) -> list[int]:
        """Return the epochs of `train` that began. `features` has epochs, too, and starts over."""
        began: list[int] = []
        stage = None
        with self._said:
            for line in self.lines:
                if match := re.match(r"Running stage '(\w+)'", line):
                    stage = match[1]
                if stage == "train" and (match := re.match(r"Epoch (\d+)/", line)):
                    began.append(int(match[1]))
        return began

    @property
    def is_on(self) -> bool:
        return self.process.poll() is None

    def family(self) -> dict[str, psutil.Process]:
        """Return the processes that run now: the runner, DVC, the stage, and others."""
        members = {"runner": psutil.Process(self.process.pid)}
        for child in members["runner"].children(recursive=True):
            try:
                words = " ".join(child.cmdline())
            except psutil.Error:
                continue
            name = (
                "stage" if "latentworks.stages" in words else "dvc" if "dvc" in words else "other"
            )
            members[name] = child
        return members

    def wait_for_one_of(self, names: tuple[str, ...]) -> dict[str, psutil.Process]:
        """Wait until one of the named processes runs, and return all that run now.

        Raises Missed if the command ends first.
        """
        while self.is_on:
            with suppress(psutil.NoSuchProcess):
                family = self.family()
                if any(name in family for name in names):
                    return family
            with_timeout(self.process, 0.01)
        raise Missed

    def end(self, seconds: float) -> int:
        """Wait for the exit code, and return it. Kill the processes that go on after `seconds`."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.was_late = True
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.lines.append(f"it was still at it after {seconds:.0f} seconds")
        self._reader.join(GONE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.returncode


# --- faults --------------------------------------------------------------------------------------


def killing(*names: str) -> Callable[["Harness", Run, Fault], None]:
    """Return a fault that kills the named processes, or all. The others have to end with them."""

    def kill(harness: "Harness", run: Run, fault: Fault) -> None:
        family = run.wait_for_one_of(names or ("runner",))
        while not all(held(run, family[name]) for name in names):
            family = run.wait_for_one_of(names)
        told = len(run.lines)
        needed = any(is_needed(family[name]) for name in names if name in family)
        for name in names or (*family,):
            if name in family:
                with suppress(psutil.NoSuchProcess):
                    family[name].kill()
        if not names or "runner" in names:
            run.process.wait()
        alive = still_there([family[name] for name in family if name != "runner"], GONE)
        if names and not needed:
            run.ends_or_tells(told, REPORTED)
        run.end(REPORTED if needed else PATIENCE)  # a runner that was not killed
        if alive:
            fault.recovered = False
            fault.said.append(f"goes on behind a kill: {alive}")
        if run.was_late:
            fault.recovered = False
            fault.said.append("the runner does not end after a kill")

    return kill


def is_needed(process: psutil.Process) -> bool:
    """True unless the runner can go on without a process, as without a `dvc checkout`."""
    words = process.cmdline()
    return "repro" in words or "latentworks.stages" in words


def held(run: Run, process: psutil.Process) -> bool:
    """Suspend a process.

    Return False if the process has just ended by itself and cannot be killed any more.
    """
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        while (status := process.status()) != psutil.STATUS_ZOMBIE:
            if status == psutil.STATUS_STOPPED:
                return True
            with_timeout(run.process, 0.01)
    return False


def telling(harness: "Harness", run: Run, fault: Fault) -> None:
    """Send SIGTERM to the runner, as a machine does that shuts down."""
    family = run.wait_for_one_of(("runner",))
    run.process.send_signal(signal.SIGTERM)
    late = still_there([family[name] for name in family if name == "stage"], ENDED)
    code = run.end(GONE)
    alive = still_there([*family.values()], 0)
    if late or alive or code not in (TERMINATED, 0, -signal.SIGTERM):
        fault.recovered = False
        fault.said.append(f"after SIGTERM: exit {code}, late {late}, alive {alive}")


def still_there(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return the processes that still run after `seconds`. A zombie does not run."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    running = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def cutting(name: str) -> Callable[["Harness", Run, Fault], None]:
    """Return a fault that kills all processes, and cuts off a file of DVC."""

    def cut(harness: "Harness", run: Run, fault: Fault) -> None:
        path = harness.checkout.path / name
        wait_until(run, lambda: path.is_file() and path.stat().st_size > 0)
        killing()(harness, run, fault)
        if path.is_file():  # the runner may just have moved a damaged file away
            os.truncate(path, harness.rng.randrange(max(1, path.stat().st_size)))

    return cut


def wait_until(run: Run, there: Callable[[], bool]) -> None:
    """Wait until a file to damage is `there`. Raises Missed if the command ends first."""
    while True:
        with suppress(FileNotFoundError):  # the file comes and goes
            if there():
                return
        if not run.is_on:
            raise Missed
        with_timeout(run.process, 0.05)


def damaging(harness: "Harness", run: Run, fault: Fault) -> None:
    """Kill all processes, change a byte of a cache object, and remove outs."""
    root = harness.checkout.path

    def objects() -> list[Path]:
        files = (root / ".dvc/cache/files").rglob("*")
        return sorted(path for path in files if path.is_file())

    wait_until(run, lambda: bool(objects()))
    killing()(harness, run, fault)
    path = harness.rng.choice(objects())
    path.chmod(0o644)
    content = bytearray(path.read_bytes() or b" ")
    content[harness.rng.randrange(len(content))] ^= 1 << harness.rng.randrange(8)
    path.write_bytes(content)
    path.chmod(0o444)
    for out in ("models/autoencoder", "data/samples", "data/prepared"):
        shutil.rmtree(root / out, ignore_errors=True)


def starting_twice(harness: "Harness", run: Run, fault: Fault) -> None:
    """Start the command again while the runner holds the lock; then kill all processes."""
    run.wait_for_one_of(("dvc", "stage"))  # the runner holds the lock by then
    started = time.monotonic()
    second = Run(harness.checkout)
    code = second.end(PATIENCE)
    seconds = time.monotonic() - started
    said = " ".join(second.lines)
    if run.is_on and (code != BUSY or f"process {run.process.pid} on" not in said):
        fault.recovered = False
        fault.said.append(f"a second start: exit {code} after {seconds:.1f} s: {said}")
    killing()(harness, run, fault)


KINDS: dict[str, Callable[["Harness", Run, Fault], None]] = {
    "SIGKILL of the stage": killing("stage"),
    "SIGKILL of DVC": killing("dvc"),
    "SIGKILL of the runner": killing("runner"),
    "SIGKILL of everything": killing(),
    "SIGTERM": telling,
    "an rwlock cut off": cutting(".dvc/tmp/rwlock"),
    "a dvc.lock cut off": cutting("dvc.lock"),
    DAMAGE: damaging,
    "a second start": starting_twice,
}


# --- rounds --------------------------------------------------------------------------------------


class Harness:
    """Runs rounds. A round leads from no outs to a result, with faults on the way."""

    def __init__(
        self,
        folder: Path,
        origin: Checkout,
        whole: Checkout,
        seed: int,
        longest: float = LONGEST,
        faults: tuple[int, int] = (1, 20),
    ) -> None:
        """Rounds start in copies of `origin`, in which no stage has run; `whole` has their result.

        A fault comes at most `longest` seconds after a start. `faults` are the minimum and the
        maximum number of faults in a round. A round that has its result earlier has fewer.
        """
        self.folder = folder
        self.origin = origin
        self.rng = random.Random(seed)
        self.longest = longest
        self.faults_of_round = faults
        self.faults: list[Fault] = []
        self.num_found = 0  # damaged cache objects that `latentworks verify` found
        self.checkout = whole
        self.expected = self.state()

    def state(self) -> dict[str, str]:
        """Return the hashes of all outs and of dvc.lock, and the content of the MLflow runs."""
        root = self.checkout.path
        outs = [out for stage in dag.stages(root).values() for out in dag.outs_of(stage)]
        found = {out: dag.md5_of(root / out) for out in outs if (root / out).exists()}
        return {**found, "dvc.lock": dag.md5_of(root / "dvc.lock"), **self._runs()}

    def _runs(self) -> dict[str, str]:
        client = mlflow.MlflowClient(self.checkout.database)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        told = []
        for run in client.search_runs(experiments):
            points = client.get_metric_history(run.info.run_id, "train/loss")
            pictures = client.list_artifacts(run.info.run_id, "images")
            files = sorted(entry.path for entry in client.list_artifacts(run.info.run_id))
            curve = sorted((point.step, point.value) for point in points)
            told.append([run.info.status, curve, len(pictures), files])
        return {"MLflow": json.dumps(told)}

    def run(
        self, number: int, progress: Callable[[Fault], None], first: Sequence[str] = ()
    ) -> None:
        """Run rounds until `number` faults have happened and the last round has its result.

        The kinds in `first` happen before all others. Then each kind happens once, and so on.
        """
        kinds = self.rng.sample(first, len(first))
        while len(self.faults) < number:
            left = number - len(self.faults)
            self.checkout = self.origin.copy(self.folder / f"round-{len(self.faults)}")
            self._round(min(left, self.rng.randint(*self.faults_of_round)), kinds, progress)
            shutil.rmtree(self.checkout.path)

    def _round(self, number: int, kinds: list[str], progress: Callable[[Fault], None]) -> None:
        faults: list[Fault] = []
        starts: list[list[int]] = []  # the epochs that each start began
        while True:
            run = Run(self.checkout)
            if len(faults) == number:
                code = run.end(PATIENCE)
                break
            moment = self._moment(run)
            if not kinds:
                kinds += self.rng.sample([*KINDS], len(KINDS))
            fault = Fault(kinds[-1])
            try:
                KINDS[fault.kind](self, run, fault)
            except Missed:
                code = run.end(GONE)
                break
            kinds.pop()
            run.end(GONE + ENDED)
            starts.append(run.epochs())
            fault.said.append(f"{moment}, {self._where(run)}")
            faults.append(fault)
            progress(fault)
        starts.append(run.epochs())
        self._judge(faults, code, run, starts)
        self.faults += faults

    def _moment(self, run: Run) -> str:
        """Wait for a random moment: a time, or a line and a little more. Return it as text."""
        if self.rng.random() < 0.5:
            seconds = self.rng.uniform(0, self.longest)
            with_timeout(run.process, seconds)
            return f"after {seconds:.2f} s"
        sign = self.rng.choice(SIGNS)
        run.wait_for(sign, self.longest)
        seconds = self.rng.expovariate(5)
        with_timeout(run.process, seconds)
        return f"{seconds:.2f} s after {sign.strip()!r}"

    @staticmethod
    def _where(run: Run) -> str:
        said = [match[1] for line in run.lines if (match := re.match(r"([a-z]+): ", line))]
        return f"after {said[-1]}" if said else "at the start"

    def _judge(self, faults: list[Fault], code: int, run: Run, starts: list[list[int]]) -> None:
        if not faults:
            assert code == 0, run.lines
            return
        if code != 0:
            faults[-1].recovered = False
            faults[-1].said += [f"the last start ended with {code}", *run.lines[-5:]]
        state = self.state()
        others = [name for name in self.expected if state.get(name) != self.expected[name]]
        if done_again(faults, starts):
            others.append("more than one epoch was done again after one fault")
        others += self._not_found()
        for fault in faults:
            fault.identical = not others
            if others:
                fault.said.append(f"differs: {', '.join(others)}")
        if "MLflow" in others:
            faults[-1].said.append(f"expected {self.expected['MLflow']}, got {state['MLflow']}")

    def _not_found(self) -> list[str]:
        """Verify the result; return which damage `latentworks verify` did not find and repair.

        DVC reads few objects of its cache again, so most damage is still there.
        """
        damaged = self._damaged()
        ours = {"PYTHONPATH": str(self.checkout.path / "src")}
        done = self.checkout.run("latentworks", "verify", "--result", expected=None, **ours)
        found = done.stdout.count(" in DVC's cache: ")
        wrong = [f"verify ended with {done.returncode}: {done.stderr}"] * bool(done.returncode)
        if found < len(damaged):
            wrong.append(f"verify found {found} of the damaged objects {damaged}: {done.stdout}")
        self.num_found += found
        if left := self._damaged():
            wrong.append(f"verify left damage in {left}")
        return wrong

    def _damaged(self) -> list[str]:
        """The objects of DVC's cache whose content has not the MD5 that is their name."""
        files = self.checkout.path / ".dvc/cache/files/md5"
        names = {path: path.parent.name + path.stem for path in files.rglob("*") if path.is_file()}
        return [name for path, name in names.items() if dag.md5_of(path) != name]


def done_again(faults: list[Fault], starts: list[list[int]]) -> bool:
    """Return True if a fault made a training repeat more than the epoch that was in progress.

    After the fault DAMAGE, which removes its outs, a training may start over.
    """
    reached = 0
    for fault, epochs in zip([None, *faults], starts, strict=True):
        if fault is not None and fault.kind == DAMAGE:
            reached = 0
        if epochs and epochs[0] < reached:
            return True
        reached = max([reached, *epochs])
    return False


def with_timeout(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait for `seconds`, or for the end of the process."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def table(faults: list[Fault]) -> str:
    """Return a Markdown table with a row for each kind of fault."""
    lines = ["| fault | times | recovered by itself | identical bytes | manual steps |"]
    lines.append("|---|---:|---:|---:|---:|")
    for kind in [*KINDS, "all"]:
        some = [fault for fault in faults if kind in (fault.kind, "all")]
        recovered = sum(fault.recovered for fault in some)
        identical = sum(fault.identical for fault in some)
        row = (kind, len(some), recovered, identical, len(some) - recovered)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def longer(checkout: Checkout) -> Checkout:
    """Give a checkout a training that is long enough to be interrupted, and commit it."""
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {EPOCHS}")
    checkout.commit("--update")
    return checkout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=20, help="of faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        origin = longer(small_checkout(folder / "origin"))
        whole = origin.copy(folder / "whole")
        whole.run("latentworks", "repro", PYTHONPATH=str(whole.path / "src"))
        harness = Harness(folder, origin, whole, arguments.seed)

        def progress(fault: Fault) -> None:
            done = f"{time.monotonic() - started:6.0f} s  {fault.kind}: {'; '.join(fault.said)}"
            print(done, flush=True)

        harness.run(arguments.number, progress)
    for fault in harness.faults:
        if not (fault.recovered and fault.identical):
            print(f"{fault.kind}: {fault.said}")
    print(f"\n{table(harness.faults)}\n\n{time.monotonic() - started:.0f} s, seed {arguments.seed}")
    print(f"`latentworks verify` found {harness.num_found} damaged cache objects")
    damaged = sum(fault.kind == DAMAGE for fault in harness.faults)
    if damaged >= ENOUGH and not harness.num_found:
        print("that is too few: it did not look into the cache")
        return 1
    return 0 if all(fault.recovered and fault.identical for fault in harness.faults) else 1


if __name__ == "__main__":
    sys.exit(main())
