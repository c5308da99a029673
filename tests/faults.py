"""Faults, one after the other, in runs of the real stages: `make faults N=200`.

Something is killed, told to end, cut off or damaged at a moment drawn by chance; then the same
command is given again, and nothing else. When a run has come to its end, its files, its dvc.lock
and its MLflow run are compared with those of a run that nothing has disturbed.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil

from conftest import Checkout, small_checkout
from latentworks.repository import dag

EPOCHS = 12
LONGEST = 9.0  # seconds from a start to a fault, at most: a little longer than any stage takes
SIGNS = ("Running stage", "Updating lock file", "Epoch ", "train: ", "prepare: ", "encode: ")
ENDED = 10.0  # seconds that whatever runs may go on after SIGTERM
GONE = 5.0  # and after a kill
PATIENCE = 300.0  # seconds that an undisturbed run may take here
DAMAGE = "a damaged cache object"
BUSY, TERMINATED = 75, 143


@dataclass
class Fault:
    """One fault: the action, and the state of the checkout afterwards."""

    kind: str
    recovered: bool = True  # the next start went on by itself
    identical: bool = True  # and in the end all was as if nothing had happened
    said: list[str] = field(default_factory=list)  # what was wrong


class Missed(Exception):
    """The run was over before there was anything to disturb."""


class Run:
    """`latentworks repro`, started in a checkout, and all that it has started."""

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

    def wait_for(self, sign: str, seconds: float) -> None:
        """Until a line begins so, or the time is over, or nothing more will be said."""
        with self._said:
            self._said.wait_for(
                lambda: any(line.startswith(sign) for line in self.lines) or not self.is_on, seconds
            )

    def epochs(self) -> list[int]:
        """Those of `train` that it began; `features` has epochs, too, and begins anew."""
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
        """Who is at work now: the runner, DVC, the stage, and others."""
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
        """Who is at work once one of these is. Raises Missed where none of them comes any more."""
        while self.is_on:
            with suppress(psutil.NoSuchProcess):
                family = self.family()
                if any(name in family for name in names):
                    return family
            with_timeout(self.process, 0.01)
        raise Missed

    def end(self, seconds: float) -> int:
        """Its exit code; it is killed where it goes on for so long."""
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
    """SIGKILL of some; the others have to end with them."""

    def kill(harness: "Harness", run: Run, fault: Fault) -> None:
        family = run.wait_for_one_of(names or ("runner",))
        while not all(held(run, family[name]) for name in names):
            family = run.wait_for_one_of(names)
        for name in names or (*family,):
            if name in family:
                with suppress(psutil.NoSuchProcess):
                    family[name].kill()
        if not names or "runner" in names:
            run.process.wait()
        alive = still_there([family[name] for name in family if name != "runner"], GONE)
        run.end(ENDED)  # where the runner is left, it says what happened
        if alive or run.was_late:
            fault.recovered = False
            fault.said.append(f"goes on behind a kill: {alive}")

    return kill


def held(run: Run, process: psutil.Process) -> bool:
    """Stop a process where it is. False where it has just ended by itself: it cannot be killed."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        while (status := process.status()) != psutil.STATUS_ZOMBIE:
            if status == psutil.STATUS_STOPPED:
                return True
            with_timeout(run.process, 0.01)
    return False


def telling(harness: "Harness", run: Run, fault: Fault) -> None:
    """SIGTERM of the runner, as a machine that shuts down sends it."""
    family = run.wait_for_one_of(("runner",))
    run.process.send_signal(signal.SIGTERM)
    late = still_there([family[name] for name in family if name == "stage"], ENDED)
    code = run.end(GONE)
    alive = still_there([*family.values()], 0)
    if late or alive or code not in (TERMINATED, 0, -signal.SIGTERM):
        fault.recovered = False
        fault.said.append(f"after SIGTERM: exit {code}, late {late}, alive {alive}")


def still_there(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that run after so long. One that nobody has asked how it ended does not run."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    running = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def cutting(name: str) -> Callable[["Harness", Run, Fault], None]:
    """A kill of everything that leaves a file of DVC's cut off."""

    def cut(harness: "Harness", run: Run, fault: Fault) -> None:
        path = harness.checkout.path / name
        wait_until(run, lambda: path.is_file() and path.stat().st_size > 0)
        killing()(harness, run, fault)
        if path.is_file():  # the run may just have moved a torn one away
            os.truncate(path, harness.rng.randrange(max(1, path.stat().st_size)))

    return cut


def wait_until(run: Run, there: Callable[[], bool]) -> None:
    """Until there is something to damage. Raises Missed where nothing comes."""
    while True:
        with suppress(FileNotFoundError):  # it comes and goes
            if there():
                return
        if not run.is_on:
            raise Missed
        with_timeout(run.process, 0.05)


def damaging(harness: "Harness", run: Run, fault: Fault) -> None:
    """A kill of everything; a byte of DVC's cache is another, and what was made is lost."""
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
    """Another start while one is at it."""
    run.wait_for_one_of(("dvc", "stage"))  # it has the lock
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
    """Rounds: from nothing to a result, with faults on the way."""

    def __init__(
        self,
        folder: Path,
        origin: Checkout,
        whole: Checkout,
        seed: int,
        longest: float = LONGEST,
        faults: tuple[int, int] = (1, 20),
    ) -> None:
        """From `origin`, in which nothing was run, to what `whole` has.

        A fault comes at most `longest` seconds after a start; there are `faults`, at least and at
        most, on the way to one result, if it takes as long.
        """
        self.folder = folder
        self.origin = origin
        self.rng = random.Random(seed)
        self.longest = longest
        self.faults_of_round = faults
        self.faults: list[Fault] = []
        self.checkout = whole
        self.expected = self.state()

    def state(self) -> dict[str, str]:
        """Hashes of all outs, dvc.lock, and what MLflow has."""
        root = self.checkout.path
        outs = [out for stage in dag.stages(root).values() for out in dag.outs_of(stage)]
        found = {out: dag.md5_of(root / out) for out in outs if (root / out).exists()}
        return {**found, "dvc.lock": dag.md5_of(root / "dvc.lock"), **self._runs()}

    def _runs(self) -> dict[str, str]:
        client = mlflow.MlflowClient(f"sqlite:///{self.checkout.path / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        told = []
        for run in client.search_runs(experiments):
            points = client.get_metric_history(run.info.run_id, "loss")
            pictures = client.list_artifacts(run.info.run_id, "images")
            files = sorted(entry.path for entry in client.list_artifacts(run.info.run_id))
            curve = sorted((point.step, point.value) for point in points)
            told.append([run.info.status, curve, len(pictures), files])
        return {"MLflow": json.dumps(told)}

    def run(self, number: int, progress: Callable[[Fault], None]) -> None:
        """Until there were so many faults, and the last one was recovered from."""
        kinds: list[str] = []
        while len(self.faults) < number:
            left = number - len(self.faults)
            self.checkout = self.origin.copy(self.folder / f"round-{len(self.faults)}")
            self._round(min(left, self.rng.randint(*self.faults_of_round)), kinds, progress)
            shutil.rmtree(self.checkout.path)

    def _round(self, number: int, kinds: list[str], progress: Callable[[Fault], None]) -> None:
        faults: list[Fault] = []
        starts: list[list[int]] = []  # the epochs that each began
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
        """Wait for a moment drawn by chance: a time, or a line and a little more."""
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
        for fault in faults:
            fault.identical = not others
            if others:
                fault.said.append(f"differs: {', '.join(others)}")
        if "MLflow" in others:
            faults[-1].said.append(f"expected {self.expected['MLflow']}, got {state['MLflow']}")


def done_again(faults: list[Fault], starts: list[list[int]]) -> bool:
    """True if a training went back by more than the epoch that it was in.

    Where what it had made was damaged, it has to begin anew.
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
    """Wait for a moment, or for the end of the process."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def table(faults: list[Fault]) -> str:
    """A line for each kind, as Markdown."""
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
    """With a training that there is time to interrupt."""
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {EPOCHS}")
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
    checkout.run("git", *author, "commit", "--quiet", "--all", "--message", "longer")
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
    return 0 if all(fault.recovered and fault.identical for fault in harness.faults) else 1


if __name__ == "__main__":
    sys.exit(main())
