"""Try a model folder as a client would: in a process of its own, which knows nothing of it yet.

`python -m latentworks.serving.preflight FOLDER` loads it through MLflow and compares its golden
answers. With `PREPARED SCORES` behind, it is also scored on that data.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from latentworks import artifacts
from latentworks.errors import LatentworksError, RegistryError
from latentworks.serving import golden, shipped


def run(folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
    """Pre-flight `folder` in a fresh process; write `scores`, a file, on the data in `prepared`.

    Its progress goes to standard error. Raises RegistryError where it does not answer as it should.
    """
    arguments = [str(path) for path in (folder, prepared, scores) if path is not None]
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",  # a folder that is hashed gets no other files
    }
    # -P: nothing is imported from the working directory.
    call = [sys.executable, "-P", "-m", __name__, *arguments]
    done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 0:
        raise LatentworksError(f"the pre-flight was ended by signal {-done.returncode}. Try again.")
    if done.returncode != 0:
        said = done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise RegistryError(said[-1])


def main(folder: Path, prepared: Path | None = None, scores: Path | None = None) -> None:
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(folder))
    golden.check(
        folder / shipped.SERVABLE,
        lambda verb, inputs, params: _arrays(model.predict(inputs, {"verb": verb, **params})),
    )
    if "tensorflow" in sys.modules:
        raise RegistryError("pre-flight: it brings TensorFlow into the process that serves it")
    if prepared is not None and scores is not None:
        from latentworks import scoring

        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        scored = scoring.score(
            shipped.load(folder), artifacts.read_prepared(prepared), size_mb=size
        )
        artifacts.write_json(scores, scored.to_json())


def _arrays(answer: Any) -> Any:
    """A table as arrays by name."""
    if hasattr(answer, "columns"):
        return {name: answer[name].to_numpy() for name in answer.columns}
    return answer


if __name__ == "__main__":
    try:
        main(*(Path(argument) for argument in sys.argv[1:]))
    except LatentworksError as error:
        print(error)
        sys.exit(error.exit_code)
    except Exception as error:  # whatever a broken model does, its caller gets one line
        text = (str(error).splitlines() or [""])[0]
        print(f"pre-flight: it cannot be used: {type(error).__name__}: {json.dumps(text)[1:-1]}")
        sys.exit(RegistryError.exit_code)
