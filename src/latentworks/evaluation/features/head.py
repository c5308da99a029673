"""Classes told apart in the features of a network that was trained for others."""

import numpy as np

ABSENT = -1e9  # logit of a class that no image is of


def fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression: kernel float32 [F, K] and bias float32 [K].

    Of features [N, F] and labels int64 [N], which are of at least two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # it comes with scikit-learn

    scaler = StandardScaler().fit(features)
    with threadpool_limits(1):  # so that the last digits do not depend on the number of cores
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(features), labels)
    slopes, offsets = model.coef_, model.intercept_
    if len(slopes) == 1:  # of two classes, the second against the first
        slopes, offsets = (np.stack([0 * each[0], each[0]]) for each in (slopes, offsets))
    kernel = np.zeros((features.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, ABSENT, np.float32)
    kernel[:, model.classes_] = (slopes / scaler.scale_).T
    bias[model.classes_] = offsets - slopes @ (scaler.mean_ / scaler.scale_)
    return kernel, bias
