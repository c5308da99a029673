"""Runs the stages of a recipe in a scratch folder, so that the checkout's result stays as it is."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from latentworks import params
from latentworks.params import recipes
from latentworks.repository import dag, git
from latentworks.system import disk
from latentworks.system.state import STATE

SECONDS = "seconds.json"  # duration of each stage in its last run


class Scratch:
    """A folder in `.latentworks/` in which the stages of a recipe run one after the other."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        """Create the folder; with `keep`, the outs of an earlier run stay in it."""
        self.root = dag.root()
        self.folder = self.root / STATE / name
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / dag.DAG, self.folder)

    def run(
        self,
        recipe: str | None = None,
        *,
        seed: int | None = None,
        first: str | None = None,
        last: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> float:
        """Run the stages of a recipe, or of the committed params, from `first` to `last`.

        `environment` has variables for the stages. Returns the minutes of the stages from `train`
        to `last`. The stages before `train` do not count, since all recipes share them.
        """
        text = git.committed(self.root, str(params.PARAMS))  # the checkout's file may hold a recipe
        if text is None:
            raise SystemExit(
                f"Cannot run the stages: {params.PARAMS} is not committed to git. Commit it."
            )
        wanted = recipes.sections(self.root, recipe) if recipe else {}
        wanted |= {} if seed is None else {"seed": seed}
        (self.folder / params.PARAMS).write_text(recipes.merge(text, wanted), encoding="utf-8")
        names = list(dag.stages(self.root))
        start = names.index(first) if first else 0
        end = names.index(last) + 1 if last else len(names)
        took = self.folder / SECONDS
        seconds: dict[str, float] = disk.read_json(took) if took.exists() else {}
        for stage in names[start:end]:
            started = time.monotonic()
            self._stage(stage, environment or {})
            seconds[stage] = time.monotonic() - started
            disk.write_json(took, seconds)
        return sum(seconds[each] for each in names[names.index("train") : end]) / 60

    def _stage(self, stage: str, environment: Mapping[str, str]) -> None:
        words = dag.stages(self.root)[stage]["cmd"].split()
        arguments = words[words.index("-m") :]  # after `PYTHONPATH=src exec python`
        with (self.folder / "log.txt").open("a") as log:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**os.environ, **environment, "PYTHONPATH": str(self.root / "src")},
                stdout=log,
                stderr=log,
            )
        if done.returncode:
            raise SystemExit(f"Stage {stage} failed. See {self.folder / 'log.txt'}.")

    def metrics(self) -> dict[str, Any]:
        """The scores that `evaluate` wrote, by dotted names."""
        groups = disk.read_json(self.folder / "reports/metrics.json")
        return {f"{group}.{name}": v for group in groups for name, v in groups[group].items()}
