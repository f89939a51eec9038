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
