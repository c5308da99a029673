"""Numbers about latents: what varies in them, what they tell, whether they keep neighbours."""

import numpy as np

from latentworks.metrics.pixels import thumbnails

NUM_NEIGHBOURS = 10
ACTIVE_VARIANCE = 0.01
MAX_TRUSTED = 2_000  # images that are compared with one another


def latent_metrics(
    train: np.ndarray,
    train_labels: np.ndarray | None,
    test: np.ndarray,
    test_labels: np.ndarray | None,
) -> dict[str, float]:
    """active_units, and where there are labels knn_accuracy and linear_accuracy.

    Latents are float32 [N, D], labels int64 [N], -1 where an image has none. The classifiers learn
    from the training latents and are scored on the test latents, over the labelled ones alone.
    The accuracies are absent where there is nothing to learn (one class) or to score.
    """
    metrics: dict[str, float] = {"active_units": active_units(train)}
    if train_labels is None or test_labels is None:
        return metrics
    known, asked = train_labels >= 0, test_labels >= 0
    if len(np.unique(train_labels[known])) < 2 or not asked.any():
        return metrics
    # Here, since the gate imports metrics on every command and fits nothing.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    knn = KNeighborsClassifier(min(NUM_NEIGHBOURS, int(known.sum())))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for name, classifier in {"knn_accuracy": knn, "linear_accuracy": linear}.items():
        classifier.fit(train[known], train_labels[known])
        metrics[name] = float(classifier.score(test[asked], test_labels[asked]))
    return metrics


def active_units(latents: np.ndarray) -> int:
    """How many latents vary: variance over the data above 0.01 (Burda et al. 2016)."""
    return int((latents.var(axis=0, dtype=np.float64) > ACTIVE_VARIANCE).sum())


def trustworthiness(images: np.ndarray, rows: np.ndarray, latents: np.ndarray) -> dict[str, float]:
    """How far neighbours in latent space are neighbours among the images (Venna and Kaski 2001).

    1 where the NUM_NEIGHBOURS nearest of every image are the same in both; the error grows with
    the rank of those that are not. Of `images[rows]`, at most MAX_TRUSTED, and their latents
    float32 [N, D]. Absent for fewer than three images.
    """
    nearest = min(NUM_NEIGHBOURS, (len(rows) - 1) // 2)
    if nearest < 1:
        return {}
    from sklearn import manifold

    pixels = np.concatenate([*thumbnails(images, rows)])
    return {
        "trustworthiness": float(manifold.trustworthiness(pixels, latents, n_neighbors=nearest))
    }
