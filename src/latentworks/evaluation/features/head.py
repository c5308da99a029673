"""A new head for a trained network, whose features then predict other classes."""

import numpy as np

ABSENT = -1e9  # logit of a class without images


def fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a multinomial logistic regression: kernel float32 [F, K] and bias float32 [K].

    `features` are [N, F]; `labels`, int64 [N], have at least two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # it comes with scikit-learn

    scaler = StandardScaler().fit(features)
    with threadpool_limits(1):  # else the last digits would depend on the number of cores
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(features), labels)
    slopes, offsets = model.coef_, model.intercept_
    if len(slopes) == 1:  # for two classes: the second against the first
        slopes, offsets = (np.stack([0 * each[0], each[0]]) for each in (slopes, offsets))
    kernel = np.zeros((features.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, ABSENT, np.float32)
    kernel[:, model.classes_] = (slopes / scaler.scale_).T
    bias[model.classes_] = offsets - slopes @ (scaler.mean_ / scaler.scale_)
    return kernel, bias
