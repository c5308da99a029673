"""Candidates: complete results of a checkout that can be registered as versions."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from latentworks import params
from latentworks.artifacts.curves import read_curves
from latentworks.errors import DataError, Refused
from latentworks.repository import dag, dvc, git, package
from latentworks.repository.result import Result, flat, recorded_result
from latentworks.serving import checksums, packaging, preflight
from latentworks.system import disk


def interface_of(servable: Path) -> str:
    """The shapes, labels and ranges of a servable folder that clients rely on, as one line.

    Images of types without a range are read in full, as are all images of older versions.
    """
    interface = disk.read_json(servable / "interface.json")
    height, width, channels = interface["image_shape"]
    text = f"{height}x{width}x{channels} images, {interface['latent_dim']} latents"
    if interface["labels"]:
        text += f", labels {json.dumps(interface['labels'], ensure_ascii=False)}"
    for dtype, (low, high) in sorted(interface.get("value_range", {}).items()):
        text += f", {dtype} from {low:.9g} to {high:.9g}"
    return text


@dataclass(frozen=True)
class Candidate:
    """A complete result that passed `check`."""

    root: Path
    result: Result
    commit: str
    fingerprint: str

    @property
    def servable(self) -> Path:
        return self.result.outs["servable"]

    def interface(self) -> str:
        """The shapes, labels and ranges that clients rely on, as one line."""
        return interface_of(self.servable)

    def content(self) -> dict[str, str]:
        """Digests of the version's parts: equal digests mean the same version."""
        return {**content(self.result), "wrapping.sha256": packaging.wrapping_digest()}

    def assemble(self, folder: Path, run_id: str, model_id: str) -> None:
        """Write the model folder, then test and score it in a fresh process.

        Raises RegistryError if the model's answers differ from its golden answers.
        """
        model = self.result.outs["autoencoder"]
        provenance = [
            *(model / name for name in ("model.keras", "config.json", "curves.csv")),
            self.result.outs["metrics"],
            self.root / params.PARAMS,
            self.root / dag.LOCK,
        ]
        packaging.assemble(folder, self.servable, provenance, run_id, model_id)
        preflight.run(folder, self.result.outs["prepared"], folder / packaging.SCORES)

    def flat_params(self) -> dict[str, str]:
        """The params of the result as text, by dotted names."""
        return {
            f"{section}.{name}": str(value)
            for section in ("model", "train", "prior", "sample")
            for name, value in self.result.params.get(section, {}).items()
        }

    def scores(self) -> list[str]:
        """The dotted names of the scores that are numbers."""
        scores = flat(disk.read_json(self.result.outs["metrics"]))
        return [name for name, value in scores.items() if not isinstance(value, str)]

    def about(self) -> str:
        """Markdown for the version's page in MLflow."""
        kind, data = self.result.params["model"]["kind"], self.result.params["dataset"]["kind"]
        scores = disk.read_json(self.result.outs["metrics"])
        rows = [
            f"| {group} | {name} | {value if isinstance(value, str) else format(value, '.4g')} |"
            for group, values in scores.items()
            for name, value in values.items()
        ]
        return "\n".join(
            [
                f"`{kind}` trained on `{data}`: {self.interface()}. Code: `{self.commit[:10]}`.",
                "",
                "| | metric | value |",
                "|---|---|---:|",
                *rows,
            ]
        )

    def about_model(self, name: str) -> str:
        """Markdown for the registered model's page in MLflow."""
        return f"""Every version has {self.interface()}. The param `verb` selects the operation:

| verb | inputs | params | outputs |
|---|---|---|---|
| `reconstruct` | images | | images |
| `encode` | images | | latents |
| `decode` | latents | | images |
| `sample` | | `num`, `seed`; `guidance` and `temperature` of a learned sampler | new images |
| `interpolate` | two images or latents | `num` | images from one to the other |
| `anomaly_score` | images | | reconstruction error, and its percentile among test images |
| `log_density` | images or latents | | log density of the latent, not of the image, in nats |

Images are whole numbers from 0 to 255, `[N, height, width, channels]`, of any size, or of a type
whose range is given above. The param `prepared`, true, marks images that the model returned: they
are read as 0 to 255 in any case.

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/{name}@champion")
images = model.predict(None, params={{"verb": "sample", "num": 16, "seed": 0}})
```
"""


def check(root: Path) -> Candidate:
    """Return the result of a checkout as a candidate.

    Raises Refused if the origin of the result is unknown, or if the training diverged.
    """
    try:
        commit = git.object_id(root, "HEAD")
    except git.GitError as error:
        raise Refused(f"Cannot register: the model's origin is unknown. {error}") from None
    if not commit:
        raise Refused(
            "Cannot register: the code is not committed to git, so the model's origin is unknown. "
            "Commit it, run `make repro`, and register again."
        )
    if fault := package.fault(root):
        raise Refused(f"Cannot register: {fault}")
    differences = git.differences(root)
    if differences:
        raise Refused(
            f"Cannot register: the code differs from its commit: {', '.join(differences[:5])}. "
            "Commit it, run `make repro`, and register again."
        )
    stale = dvc.stale(root)
    if stale:
        raise Refused(
            f"Cannot register: the result is not what dvc.lock records: {stale[0]}. "
            "Run `make repro`."
        )
    result = recorded_result(root)
    if result is None or not {"servable", "metrics"} <= result.outs.keys():
        raise Refused("Cannot register: the result is incomplete. Run `make repro`.")
    try:
        data = fingerprint(result.outs["prepared"])
    except DataError as error:
        raise Refused(f"Cannot register: {error}") from None
    _refuse_diverged(result.outs["autoencoder"], result.outs["metrics"])
    return Candidate(root, result, commit, data)


def content(result: Result) -> dict[str, str]:
    """Digests of a complete result: its model, its servable and its data."""
    return {
        "model.sha256": result.model_digest(),
        "content.sha256": checksums.content_digest(result.outs["servable"]),
        "data.fingerprint": fingerprint(result.outs["prepared"]),
    }


def fingerprint(prepared: Path) -> str:
    """The fingerprint of the prepared images, with their splits and labels.

    Raises DataError if none is recorded.
    """
    value = disk.read_json(prepared / "profile.json").get("fingerprint")
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{prepared / 'profile.json'} has no data fingerprint, so the origin of the model is "
            "unknown. Run `dvc repro --force prepare`."
        )
    return value


def _refuse_diverged(model: Path, metrics: Path) -> None:
    for epoch in read_curves(model / "curves.csv"):
        for name, value in epoch.items():
            if not math.isfinite(value):
                raise Refused(
                    f"Cannot register: the training diverged: {name} is {value} after epoch "
                    f"{epoch['epoch']:.0f}. Lower train.learning_rate."
                )
    for name, score in flat(disk.read_json(metrics)).items():
        if not isinstance(score, str) and not math.isfinite(score):
            raise Refused(
                f"Cannot register: the training diverged: {name} is {score}. "
                "Lower train.learning_rate."
            )
