"""Trials on this machine, one after the other, in a worktree that all sweeps of a checkout share.

The worktree shares DVC's cache with the checkout, so a stage that has run with these params before
is restored. It keeps its checkpoints, so a training that was killed goes on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.repository import dag
from latentworks.runner.reproduce import UNCHANGED, reproduce, reproduce_stage
from latentworks.runner.worktree import Worktree
from latentworks.runner.worktree_images import link_images
from latentworks.sweep import scores

NAME = "sweep"  # of the worktree
PREPARED = "prepared"  # name of the out with the images


class Local:
    """Runs trials in the worktree of the checkout `root`; `report` gets the lines of the stages."""

    def __init__(self, root: Path, report: Callable[[str], None]) -> None:
        self.worktree = Worktree(root, NAME)
        self.report = report

    @contextmanager
    def ready(self, commit: str) -> Iterator[None]:
        """Hold the worktree, with a commit checked out. Raises Busy while another sweep has it."""
        with self.worktree.held("sweep"):
            self.worktree.check_out(commit)
            yield

    def __call__(self, text: str) -> Path:
        """Run the stages with this text of params.yaml; return the checkout that has the result.

        Raises StageError if a stage fails.
        """
        worktree = self.worktree
        worktree.write(str(params.PARAMS), text)
        link_images(worktree)
        reproduce(worktree.path, self._run, worktree.environment)
        try:
            worktree.command(lambda line: None, "sync")
        except LatentworksError as error:  # MLflow does not answer: the trial counts even so
            self.report(str(error))
        return worktree.path

    def _run(self, stage: str, needs: set[str], due: bool) -> str:
        path, outcome = self.worktree.path, UNCHANGED
        if due:
            env = self.worktree.environment
            outcome = reproduce_stage(path, stage, needs, self.report, env, on_terminal=True)
        outs = dag.by_name(path / out for out in dag.outs_of(dag.stages(path)[stage]))
        if PREPARED in outs:
            scores.require_validation(outs[PREPARED])
        return outcome
