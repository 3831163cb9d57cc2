"""Compute scores as fractions. NaN predictions and undefined scores give NaN, never 0."""

import math
import warnings

import numpy as np

from stableft.catalog.tasks import REGRESSION_METRICS, scored_metrics


def compute_scores(outputs: np.ndarray, labels: np.ndarray, metrics: tuple[str, ...]) -> dict[str, float]:
    """Return the metrics of `outputs` [rows, classes] (regression: [rows, 1]).

    Classification tasks always get accuracy, because M sec. 3.2 defines failed runs by it.
    """
    regression = metrics[0] in REGRESSION_METRICS
    names = scored_metrics(metrics)
    if not np.isfinite(outputs).all():
        return dict.fromkeys(names, math.nan)
    if regression and len(labels) < 2:
        return dict.fromkeys(names, math.nan)
    predictions = outputs[:, 0] if regression else outputs.argmax(axis=1)
    return {name: _compute_metric(name, predictions, labels) for name in names}


def majority_baseline(labels: np.ndarray, metric: str) -> float:
    """Return the score of always predicting the most frequent class of `labels`; 0 for MCC and correlations."""
    if metric in ("mcc", *REGRESSION_METRICS):
        return 0.0
    majority = np.bincount(labels.astype(np.int64)).argmax()
    return _compute_metric(metric, np.full(len(labels), majority), labels)


def label_entropy(labels: np.ndarray) -> float | None:
    """Return the entropy of class labels in nats, i.e. the loss of the best constant prediction; None for numbers."""
    if labels.dtype.kind == "f":
        return None
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def _compute_metric(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    # Imported where they are needed: scikit-learn takes more than a second, which accuracy alone is not worth.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on constant input, NaN (correlations) and 0 (MCC, F1) are intended
        match name:
            case "accuracy":
                value = np.mean(predictions == labels)
            case "f1":
                from sklearn import metrics

                value = metrics.f1_score(labels, predictions, zero_division=0.0)  # pyright: ignore[reportArgumentType]
            case "mcc":
                from sklearn import metrics

                value = metrics.matthews_corrcoef(labels, predictions)
            case "accuracy_f1":
                value = (
                    _compute_metric("accuracy", predictions, labels) + _compute_metric("f1", predictions, labels)
                ) / 2
            case "spearman":
                from scipy import stats

                value = stats.spearmanr(predictions, labels)[0]
            case "pearson":
                from scipy import stats

                value = stats.pearsonr(predictions, labels)[0]
            case _:
                raise AssertionError(name)
    return float(value)  # pyright: ignore[reportArgumentType]
