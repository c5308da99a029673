"""The stages of a recipe in a folder of its own: the result in a checkout stays as it is."""

import os
import shutil
import subprocess
import sys
import time
from typing import Any

from latentworks import params
from latentworks.params import recipes
from latentworks.repository import dag, git
from latentworks.system import disk
from latentworks.system.state import STATE

SECONDS = "seconds.json"  # that each stage took when it last ran


class Scratch:
    """A folder in `.latentworks/`, in which the stages of a recipe are run one after the other."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        """Empty, unless it is to be kept as a former run has left it."""
        self.root = dag.root()
        self.folder = self.root / STATE / name
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / dag.DAG, self.folder)

    def run(
        self,
        recipe: str,
        *,
        seed: int | None = None,
        first: str | None = None,
        last: str | None = None,
    ) -> float:
        """Run the stages of a recipe, from `first` to `last`; the minutes of those up to `last`.

        What is done once for all recipes, before `train`, does not count.
        """
        text = git.committed(self.root, str(params.PARAMS))  # some recipe may be at work
        if text is None:
            raise SystemExit(f"{params.PARAMS} is not in git, so nobody can say what a recipe is.")
        wanted = recipes.sections(self.root, recipe)
        wanted |= {} if seed is None else {"seed": seed}
        (self.folder / params.PARAMS).write_text(recipes.merge(text, wanted), encoding="utf-8")
        names = list(dag.stages(self.root))
        start = names.index(first) if first else 0
        end = names.index(last) + 1 if last else len(names)
        took = self.folder / SECONDS
        seconds: dict[str, float] = disk.read_json(took) if took.exists() else {}
        for stage in names[start:end]:
            started = time.monotonic()
            self._stage(stage)
            seconds[stage] = time.monotonic() - started
            disk.write_json(took, seconds)
        return sum(seconds[each] for each in names[names.index("train") : end]) / 60

    def _stage(self, stage: str) -> None:
        words = dag.stages(self.root)[stage]["cmd"].split()
        arguments = words[words.index("-m") :]  # behind PYTHONPATH=src exec python
        with (self.folder / "log.txt").open("a") as log:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(self.root / "src")},
                stdout=log,
                stderr=log,
            )
        if done.returncode:
            raise SystemExit(f"{stage} failed; see {self.folder / 'log.txt'}")

    def metrics(self) -> dict[str, Any]:
        """What `evaluate` wrote: numbers by dotted names."""
        found = disk.read_json(self.folder / "reports/metrics.json")
        return {f"{group}.{name}": value for group in found for name, value in found[group].items()}
