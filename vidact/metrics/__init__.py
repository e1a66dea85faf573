"""How good scores are: pure functions on arrays."""

from vidact.metrics.topk import (
    average_precision,
    confusion_matrix,
    mean_average_precision,
    mean_class_accuracy,
    per_class_accuracy,
    topk_accuracy,
    true_class_rank,
)

__all__ = [
    "average_precision",
    "confusion_matrix",
    "mean_average_precision",
    "mean_class_accuracy",
    "per_class_accuracy",
    "topk_accuracy",
    "true_class_rank",
]
