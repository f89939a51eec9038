"""Results reported in the paper, for comparison."""

from __future__ import annotations

PAPER_COLUMNS = ("AP", "APf", "APc", "APr", "AP_box")

# Table 2 of the slides that introduced Balanced Activation (Ren et al., LVIS 2020 challenge): Mask R-CNN with FPN on
# LVIS-1.0, {backbone and split: {method as the paper names it: mask AP, APf, APc, APr, box AP, in percent}}. None:
# not reported.
PAPER_TABLE_2: dict[str, dict[str, tuple]] = {
    "ResNet-50, val": {
        "Repeat Factor Sampling": (22.1, 27.8, 21.1, 11.6, 23.6),
        "cRT": (23.2, 27.8, 22.5, 14.7, 24.8),
        "LWS": (23.3, 27.8, 22.5, 14.9, 24.8),
        "Equalization Loss": (24.2, 27.5, 24.2, 16.5, 25.8),
        "Balanced Sigmoid": (25.1, 29.3, 24.0, 18.3, 26.7),
    },
    "ResNet-101, val": {
        "Repeat Factor Sampling": (23.2, 28.8, 22.0, 13.5, 24.7),
        "cRT": (23.9, 28.7, 22.7, 15.8, 25.6),
        "LWS": (24.2, 28.8, 23.1, 16.5, 24.7),
        "Equalization Loss": (25.4, 28.8, 25.3, 18.5, 27.3),
        "Balanced Sigmoid": (26.4, 30.2, 25.4, 20.1, 28.4),
    },
    "ResNet-101, test-dev": {
        "Balanced Sigmoid": (26.1, 30.4, 25.0, 19.5, None),
    },
}

# Table 1 of the same slides: top-1 accuracy of ResNet-32 in percent, {dataset: {method: {imbalance factor: accuracy}}}.
_IMBALANCES = (200, 100, 10)
PAPER_TABLE_1: dict[str, dict[str, dict[int, float]]] = {
    dataset: {method: dict(zip(_IMBALANCES, values)) for method, values in rows.items()}
    for dataset, rows in {
        "CIFAR-10-LT": {
            "Softmax": (71.2, 77.4, 90.0),
            "Class-balanced weighting": (72.5, 78.6, 90.1),
            "Class-balanced sampling": (68.3, 77.8, 90.2),
            "Focal loss": (71.8, 77.1, 90.3),
            "Class-Balanced loss": (72.6, 78.2, 89.9),
            "LDAM": (71.2, 77.2, 90.2),
            "Equalization Loss": (72.8, 76.7, 89.9),
            "Balanced Softmax": (79.0, 83.1, 90.9),
        },
        "CIFAR-100-LT": {
            "Softmax": (41.0, 45.3, 61.9),
            "Class-balanced weighting": (36.7, 42.3, 61.4),
            "Class-balanced sampling": (37.8, 42.6, 61.2),
            "Focal loss": (40.2, 43.8, 60.0),
            "Class-Balanced loss": (39.9, 44.6, 59.8),
            "LDAM": (41.0, 45.4, 62.0),
            "Equalization Loss": (43.3, 47.3, 59.7),
            "Balanced Softmax": (45.9, 50.3, 63.1),
        },
    }.items()
}
