"""Estimates with intervals that are honest about templated prompts: what is estimated, and how clusters are drawn."""

from workbench.stats.clusters import cluster_frame, resampled
from workbench.stats.estimates import (
    Estimate,
    auroc,
    balanced_accuracy,
    cluster_bootstrap,
    gap_between,
    paired_difference,
    roc_area,
    wilson,
)

__all__ = [
    "Estimate",
    "auroc",
    "balanced_accuracy",
    "cluster_bootstrap",
    "cluster_frame",
    "gap_between",
    "paired_difference",
    "resampled",
    "roc_area",
    "wilson",
]
