"""Golden calls: inputs, and the outputs that Keras gave for them when the model was exported."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from latentworks.errors import RegistryError
from latentworks.serving.servable import Outputs, Servable
from latentworks.system import disk

TOLERANCE = 1e-4  # of floats: relative above 1, absolute below; other processors round differently
RANK_TOLERANCE = 2  # of 100: an error close to that of a test image may rank above or below it
PIXEL_TOLERANCE = 1  # of 255: a value half-way between two may be rounded up or down
NUM_DRAWN = 8
MAY_DIFFER = (
    0.1  # of the answers of a model of codes: a number between two levels may go either way
)


def write(
    folder: Path, reference: Servable, images: np.ndarray, *, quantised: bool = False
) -> None:
    """Call every verb on test images, uint8 [N, H, W, C] with N >= 2, and write the outputs.

    `golden.json` has the verbs and params, `golden.npz` the inputs and outputs. If latents are
    `quantised`, golden.json also has the number of answers of each call that may differ.
    """
    latents = reference.encode_images(images)
    # Images as the model returns them: a range of uint8 would be applied to them once more.
    how: dict[str, object] = (
        {"prepared": True} if "uint8" in reference.interface.value_range else {}
    )
    calls: list[tuple[str, np.ndarray | None, dict[str, object]]] = [
        ("reconstruct", images, how),
        ("reconstruct", images[:2, :-1, 1:], {}),  # of another size, to be resized
        ("encode", images, how),
        ("decode", latents, {}),
        ("sample", None, {"num": NUM_DRAWN, "seed": 0}),
        ("interpolate", images[:2], {"num": NUM_DRAWN, **how}),
        ("anomaly_score", 255 - images, how),  # unlike any test image, so that no rank is close
    ]
    for dtype, (low, high) in reference.interface.value_range.items():  # as in the training data
        values = low + (high - low) * (images[:2] / 255)
        calls.append(("encode", values.astype(dtype), {}))
    if hasattr(reference.sampler, "log_density"):
        calls.append(("log_density", latents, {}))
    if reference.class_shares is not None:
        label = reference.interface.labels[int(reference.class_shares.argmax())]
        calls.append(("sample", None, {"num": NUM_DRAWN, "seed": 1, "label": label}))
        if reference.conditional:
            calls += [
                ("encode", images, {"label": label, **how}),
                ("decode", latents, {"label": label}),
            ]
    arrays: dict[str, np.ndarray] = {}
    for number, (verb, inputs, params) in enumerate(calls):
        if inputs is not None:
            arrays[f"{number}.input"] = inputs
        arrays |= _named(number, reference.call(verb, inputs, params))
    disk.write_arrays(folder / "golden.npz", arrays)
    notes: list[dict[str, object]] = [{"verb": verb, "params": params} for verb, _, params in calls]
    if quantised:
        for number, note in enumerate(notes):
            rows = max(len(arrays[name]) for name in arrays if name.startswith(f"{number}.output"))
            note["may_differ"] = math.ceil(MAY_DIFFER * rows)
    disk.write_json(folder / "golden.json", notes)


def check(
    folder: Path, call: Callable[[str, np.ndarray | None, Mapping[str, object]], Outputs]
) -> None:
    """Repeat the golden calls by `call(verb, inputs, params)`.

    Raises RegistryError if an answer differs from the recorded one beyond the tolerance.
    """
    arrays = disk.read_arrays(folder / "golden.npz")
    for number, recorded in enumerate(disk.read_json(folder / "golden.json")):
        verb = recorded["verb"]
        answers = _named(number, call(verb, arrays.get(f"{number}.input"), recorded["params"]))
        expected = {name for name in arrays if name.startswith(f"{number}.output")}
        if set(answers) != expected:
            raise RegistryError(f"pre-flight: {verb} returns other outputs than at the export")
        for name, answer in answers.items():
            rank = RANK_TOLERANCE if name.endswith(".percentile") else None
            _compare(verb, answer, arrays[name], rank, recorded.get("may_differ", 0))


def _named(number: int, answer: Outputs) -> dict[str, np.ndarray]:
    if isinstance(answer, dict):
        return {f"{number}.output.{name}": value for name, value in answer.items()}
    return {f"{number}.output": answer}


def _compare(
    verb: str, answer: np.ndarray, golden: np.ndarray, tolerance: float | None, may_differ: int
) -> None:
    """Raise RegistryError if more than `may_differ` of the answers differ from the golden ones."""
    answer = np.asarray(answer)
    fault = f"pre-flight: {verb} does not return what it returned at the export"
    if answer.shape != golden.shape or answer.dtype != golden.dtype:
        raise RegistryError(
            f"{fault}. Expected {golden.dtype} {list(golden.shape)}. "
            f"Received: {answer.dtype} {list(answer.shape)}."
        )
    if golden.size == 0:
        return
    difference = np.abs(answer.astype(np.float64) - golden)
    if golden.dtype == np.uint8:
        allowed: float | np.ndarray = PIXEL_TOLERANCE
    elif tolerance is not None:
        allowed = tolerance
    else:
        allowed = TOLERANCE * np.maximum(1, np.abs(golden))
        difference = np.where(answer == golden, 0, difference)  # inf - inf is NaN
    differs = ~(difference <= allowed)  # this way round, NaN counts as a difference
    if differs.reshape(len(golden), -1).any(axis=1).sum() > may_differ:
        raise RegistryError(f"{fault}. It differs by up to {np.nanmax(difference):.3g}.")
