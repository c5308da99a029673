"""DVC, called as a command in a checkout."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from graphlib import TopologicalSorter
from pathlib import Path

from configobj import ConfigObj

from latentworks.errors import Busy, LatentworksError
from latentworks.repository import dag
from latentworks.system import locks, processes, relay
from latentworks.system.console import first_line

OUTCOMES = {  # a part of the line that DVC prints for a stage, and the outcome it stands for
    "didn't change, skipping": "unchanged",
    "is cached - skipping run, checking out outputs": "restored",
    "Running stage": "ran",
}
# Lines of DVC that are not shown: its advice after each stage, and empty lines.
ADVICE = re.compile(
    r"\s*($|To track|git add|To enable|dvc config core\.autostage|Use `dvc push`|"
    r"Updating lock file|Generating lock file|Data and pipelines are up to date)"
)
ERROR = "error: "  # the beginning of a stage's error; of DVC's, in upper case
FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': (.+)")  # with the reason
EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")  # a reason that is a stage's end
KILLED = ("-9", "137")  # exit codes after SIGKILL
# "changed command", or {"changed deps": {"data/raw": "modified"}}; a file of params has its keys
Change = str | dict[str, dict[str, str | dict[str, str]]]
Environment = Mapping[str, str] | None  # variables to add to those of this process


def needs(folder: Path, env: Environment = None) -> dict[str, set[str]]:
    """Return the stages in DVC's order, each with the stages whose outs it reads."""
    graph: dict[str, set[str]] = {name: set() for name in dag.stages(folder)}
    dot = run(folder, "dag", "--dot", env=env)
    for before, after in re.findall(r'"([^"]+)" -> "([^"]+)"', dot):
        if before in graph:  # a stage, and not a .dvc file of data that was added to DVC
            graph[after].add(before)
    return {name: graph[name] for name in TopologicalSorter(graph).static_order()}


def repro(
    folder: Path,
    stage: str,
    report: Callable[[str], None],
    env: Environment = None,
    *,
    force: bool = False,
    on_terminal: bool = False,
) -> str:
    """Run one stage if it is out of date, and return the outcome, a value of OUTCOMES.

    The caller has run the stages before it. `report` gets every line of output, but for errors.
    With `force` the stage runs in any case. With `on_terminal`, standard error (progress bars) goes
    to the terminal of this process. Raises StageError with the stage's own error, or DVC's.
    """
    call = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    if force:
        call.append("--force")
    outcome = ""
    faults: list[str] = []
    ended_with = ""

    def is_shown(line: str) -> bool:
        """Keep an error for the end, where it is told once."""
        nonlocal ended_with
        failed = FAILED.match(line)
        if failed and (exited := EXITED.match(failed[1])):
            ended_with = exited[1]
        elif failed:
            faults.append(f"{failed[1].rstrip('.')}.")
        elif line.startswith(ERROR):
            faults.append(line.removeprefix(ERROR))
        else:
            return True
        return False

    def watch(line: str) -> None:
        nonlocal outcome
        outcome = outcome or next((OUTCOMES[sign] for sign in OUTCOMES if sign in line), "")
        if not ADVICE.match(line) and is_shown(line):
            report(line)

    try:
        with relay.standard_error(is_shown, ERROR) if on_terminal else nullcontext() as err:
            exit_code = processes.stream(
                call,
                folder,
                watch,
                environment(folder, env),
                locks.handles(),
                ignore_sigterm=True,
                err=err or subprocess.STDOUT,
            )
    except BaseException:  # Ctrl-C or SIGTERM: no StageError has the last words of the stage
        for fault in faults:
            print(fault, file=sys.stderr)
        raise
    if exit_code != 0:
        raise StageError(f"Stage {stage} failed: {_reason(faults, ended_with or str(exit_code))}")
    return outcome or "ran"  # without a sign that the stage was skipped


def _reason(faults: list[str], ended_with: str) -> str:
    """Return the errors of a stage, or what its exit code tells."""
    if faults:
        return " ".join(faults)
    if ended_with in KILLED:
        return "it was killed, most often because memory ran out. Then run the same command again."
    return f"exit code {ended_with}. The lines above say why."


def status(folder: Path, env: Environment = None) -> dict[str, list[Change]]:
    """Return the changes of each stage that is out of date, as `dvc status --json` prints them."""
    return dict(json.loads(run(folder, "status", "--json", env=env) or "{}"))


def settings(folder: Path, env: Environment = None) -> dict[str, str]:
    """Return DVC's settings in a checkout, such as `cache.dir`, with absolute paths."""
    lines = run(folder, "config", "--list", env=env).splitlines()
    written = dict(line.split("=", 1) for line in lines if "=" in line)
    return {"cache.dir": str(folder / ".dvc/cache"), **written}


def config_file(settings: Mapping[str, str]) -> bytes:
    """Return a config file of DVC with these settings."""
    config = ConfigObj()
    for setting, value in settings.items():
        section, _, option = setting.rpartition(".")
        kind, _, name = section.partition(".")
        config.setdefault(f'{kind} "{name}"' if name else kind, {})[option] = value
    return b"".join(line.encode() + b"\n" for line in config.write())


def stale(folder: Path) -> list[str]:
    """Return a line for each stage that is out of date, with its changes since dvc.lock."""
    return [f"stage {stage}: {_changes(changes)}" for stage, changes in status(folder).items()]


def changed_inputs(folder: Path, stage: str, env: Environment = None) -> str:
    """Return the changes of a stage's deps, params and command since dvc.lock; "" if none."""
    changes = status(folder, env).get(stage, [])
    inputs = [each for each in changes if each == "changed command" or "changed deps" in each]
    return _changes(inputs)


def _changes(changes: list[Change]) -> str:
    """Join the changes of a stage: `models/autoencoder modified; changed command`."""
    texts: list[str] = []
    for change in changes:
        kinds: Iterable[Mapping[str, str | dict[str, str]]]
        kinds = change.values() if isinstance(change, dict) else [{change: ""}]
        for kind in kinds:
            for name, how in kind.items():
                keys = how if isinstance(how, dict) else {"": how}  # of a params file
                texts += [" ".join(filter(None, (name, key, state))) for key, state in keys.items()]
    return "; ".join(texts)


class StageError(LatentworksError):
    """DVC could not reproduce a stage; the message has the stage's error, or DVC's."""


def run(folder: Path, *arguments: str, env: Environment = None) -> str:
    """Return the output of a DVC command.

    Raises Busy if another DVC process writes in the checkout, and LatentworksError with DVC's first
    line of error if the command fails.
    """
    call = ["dvc", *arguments]
    exit_code, out, err = processes.run(call, folder, environment(folder, env), locks.handles())
    if exit_code != 0:
        fault = first_line(err)
        if "is busy, it is being blocked by" in fault:
            raise Busy(
                f"Cannot run `dvc {' '.join(arguments)}`: another DVC process is writing in this "
                "checkout. Wait for it, or end it."
            )
        raise LatentworksError(f"dvc {' '.join(arguments)} failed: {fault}")
    return out


def environment(folder: Path, changes: Environment = None) -> dict[str, str]:
    """Return the environment in which DVC runs.

    A stage's `python` is the interpreter of this process, and DVC keeps its state in the checkout.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    state = os.environ.get("DVC_SITE_CACHE_DIR", str(folder / ".dvc/site_cache"))
    required = {"PATH": path, "DVC_SITE_CACHE_DIR": state, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **required, **(changes or {})}
