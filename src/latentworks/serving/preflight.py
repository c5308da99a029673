"""Try a model folder as a client would: in a process of its own, which knows nothing of it yet.

`python -m latentworks.serving.preflight` is told on standard input, in a line of JSON, which folder
to load through MLflow, to compare its golden answers; with prepared data and a file for scores
behind, it is also scored on that data.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from latentworks.errors import LatentworksError, RegistryError
from latentworks.serving import loading
from latentworks.system import disk, processes


class Trial:
    """A process that will try one folder; what it needs for that it imports while it waits."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",  # a folder that is hashed gets no other files
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
        """What was not tried until here never will be."""
        self.process.kill()
        self.process.communicate()

    def run(self, folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
        """Try `folder`; write `scores`, a file, on the data in `prepared`.

        Its progress goes to standard error. Raises RegistryError where it does not answer as it
        should.
        """
        arguments = [str(path) for path in (folder, prepared, scores) if path is not None]
        said, _ = self.process.communicate(json.dumps(arguments) + "\n")
        ended = self.process.returncode
        if ended < 0:
            raise LatentworksError(f"the pre-flight was ended by signal {-ended}. Try again.")
        if ended != 0:
            raise RegistryError((said.strip().splitlines() or [f"it ended with {ended}"])[-1])


def run(folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
    """What `Trial.run` does, in a process that is started now."""
    with Trial() as trial:
        trial.run(folder, prepared, scores)


def main() -> None:
    import mlflow.pyfunc

    from latentworks.artifacts.images import read_prepared
    from latentworks.serving import golden

    told = sys.stdin.readline()
    if not told:  # nothing is to be tried, or whoever asks has gone
        return
    folder, *scoring_paths = map(Path, json.loads(told))
    model = mlflow.pyfunc.load_model(str(folder))
    golden.check(
        folder / loading.SERVABLE,
        lambda verb, inputs, params: _arrays(model.predict(inputs, {"verb": verb, **params})),
    )
    if "tensorflow" in sys.modules:
        raise RegistryError("pre-flight: it brings TensorFlow into the process that serves it")
    if scoring_paths:
        from latentworks.promotion import scoring

        prepared, scores = scoring_paths
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        scored = scoring.score(loading.load(folder), read_prepared(prepared), size_mb=size)
        disk.write_json(scores, scored.to_json())


def _arrays(answer: Any) -> Any:
    """A table as arrays by name."""
    if hasattr(answer, "columns"):
        return {name: answer[name].to_numpy() for name in answer.columns}
    return answer


if __name__ == "__main__":
    try:
        main()
    except LatentworksError as error:
        print(error)
        sys.exit(error.exit_code)
    except Exception as error:  # whatever a broken model does, its caller gets one line
        text = (str(error).splitlines() or [""])[0]
        print(f"pre-flight: it cannot be used: {type(error).__name__}: {json.dumps(text)[1:-1]}")
        sys.exit(RegistryError.exit_code)
