"""The code by which MLflow calls a servable. Every registered version has a copy of this file."""

import os
from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Verbs:
    """The verbs of `latentworks.serving.servable.Servable`, chosen by the param `verb`.

    `predict` has no type hints, since MLflow would read them as a schema. It is not in the class
    below, since MLflow would then warn every client that the hints are missing.
    """

    def load_context(self, context: PythonModelContext) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it at its import
        from latentworks.errors import InputError
        from latentworks.serving.servable import load

        self.refusal = InputError
        self.servable = load(Path(context.artifacts["servable"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return arrays, or for `anomaly_score` a table with a row for each image.

        Raises MlflowException for inputs or params that the verb does not take. Params that the
        signature does not name never arrive here: MLflow drops them, with a warning.
        """
        asked = {name: value for name, value in (params or {}).items() if value is not None}
        verb = asked.pop("verb", "reconstruct")
        try:
            answer = self.servable.call(verb, model_input, asked)
        except self.refusal as refusal:
            raise MlflowException.invalid_parameter_value(str(refusal)) from None
        return pd.DataFrame(answer) if isinstance(answer, dict) else answer


class LatentworksModel(Verbs, PythonModel):
    """The model that MLflow loads."""


set_model(LatentworksModel())
