"""Metrics of latents: active units, class separability, preservation of neighbours."""

import numpy as np

from latentworks.metrics.pixels import thumbnails

NUM_NEIGHBOURS = 10
ACTIVE_VARIANCE = 0.01
MAX_TRUSTED = 2_000  # images compared in all pairs


def latent_metrics(
    train: np.ndarray,
    train_labels: np.ndarray | None,
    test: np.ndarray,
    test_labels: np.ndarray | None,
) -> dict[str, float]:
    """Compute active_units and, with labels, knn_accuracy and linear_accuracy.

    Latents are float32 [N, D]; labels are int64 [N], -1 for an image without one. The classifiers
    are fitted to the labelled training latents and scored on the labelled test latents. The
    accuracies are left out if there are less than two classes, or no labelled test images.
    """
    metrics: dict[str, float] = {"active_units": active_units(train)}
    if train_labels is None or test_labels is None:
        return metrics
    train_known, test_known = train_labels >= 0, test_labels >= 0
    if len(np.unique(train_labels[train_known])) < 2 or not test_known.any():
        return metrics
    # Imported here: the gate imports this module on every command, and fits no classifier.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    knn = KNeighborsClassifier(min(NUM_NEIGHBOURS, int(train_known.sum())))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for name, classifier in {"knn_accuracy": knn, "linear_accuracy": linear}.items():
        classifier.fit(train[train_known], train_labels[train_known])
        metrics[name] = float(classifier.score(test[test_known], test_labels[test_known]))
    return metrics


def active_units(latents: np.ndarray) -> int:
    """Count the latents whose variance over the data is above 0.01 (Burda et al. 2016)."""
    return int((latents.var(axis=0, dtype=np.float64) > ACTIVE_VARIANCE).sum())


def trustworthiness(images: np.ndarray, rows: np.ndarray, latents: np.ndarray) -> dict[str, float]:
    """Measure how well latent neighbours match pixel neighbours (Venna and Kaski 2001).

    1 if every image has the same NUM_NEIGHBOURS nearest ones in both spaces; other neighbours
    lower it by their rank in pixel space. `rows` are at most MAX_TRUSTED, and `latents`, float32
    [N, D], belong to them. Returns an empty dict for fewer than three images.
    """
    nearest = min(NUM_NEIGHBOURS, (len(rows) - 1) // 2)
    if nearest < 1:
        return {}
    from sklearn import manifold

    pixels = np.concatenate([*thumbnails(images, rows)])
    return {
        "trustworthiness": float(manifold.trustworthiness(pixels, latents, n_neighbors=nearest))
    }
