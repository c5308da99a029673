"""The pre-flight: loads a model folder as a client would, in a new process.

`python -m latentworks.serving.preflight` reads a list in a line of JSON from standard input. Its
first item is the model folder, which is loaded through MLflow and repeats its golden calls. Two
more items are optional: the folder of prepared data, on which the model is then scored, and the
file for the scores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.serving import loading
from latentworks.serving.trial import exit_with_line
from latentworks.system import disk, processes


class Trial:
    """A process for the pre-flight of one folder. It can start before the folder is complete."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",  # SHA256SUMS covers the folder: no .pyc files in it
        }
        # -P: nothing is imported from the working directory.
        self.process = subprocess.Popen(
            processes.tied([sys.executable, "-P", "-m", __name__]),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, if it still runs."""
        self.process.kill()
        self.process.communicate()

    def run(self, folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
        """Check `folder`. With `prepared`, score it on that data and write the file `scores`.

        Progress goes to standard error. Raises RegistryError if the folder fails the pre-flight,
        Unavailable if memory is too little, and LatentworksError if a signal ended the process.
        """
        arguments = [str(path) for path in (folder, prepared, scores) if path is not None]
        output, _ = self.process.communicate(json.dumps(arguments) + "\n")
        code = self.process.returncode
        if code < 0:
            raise LatentworksError(f"The pre-flight was ended by signal {-code}. Try again.")
        if code != 0:
            silent = f"pre-flight: the process ended with exit code {code}"
            kind = Unavailable if code == Unavailable.exit_code else RegistryError
            raise kind((output.strip().splitlines() or [silent])[-1])


def run(folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
    """Call `Trial.run` in a new process."""
    with Trial() as trial:
        trial.run(folder, prepared, scores)


def main() -> None:
    import mlflow.pyfunc

    from latentworks.artifacts.images import read_prepared
    from latentworks.serving import golden

    line = sys.stdin.readline()
    if not line:  # the parent has closed the pipe, or has ended
        return
    folder, *scoring_paths = map(Path, json.loads(line))
    # Its warnings need the metadata of all installed packages, which takes MLflow a second to
    # read. The golden calls check more.
    model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    golden.check(
        folder / loading.SERVABLE,
        lambda verb, inputs, params: _arrays(model.predict(inputs, {"verb": verb, **params})),
    )
    if "tensorflow" in sys.modules:
        raise RegistryError("pre-flight: the model imports TensorFlow, which servers do not have")
    if scoring_paths:
        from latentworks.promotion import scoring

        prepared, scores = scoring_paths
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        scored = scoring.score(loading.load(folder), read_prepared(prepared), size_mb=size)
        disk.write_json(scores, scored.to_json())


def _arrays(answer: Any) -> Any:
    """Return the columns of a table as arrays by name, and arrays as they are."""
    if hasattr(answer, "columns"):
        return {name: answer[name].to_numpy() for name in answer.columns}
    return answer


if __name__ == "__main__":
    exit_with_line(main)
