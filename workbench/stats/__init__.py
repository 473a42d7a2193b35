"""Estimates with intervals that are honest about templated prompts: what is estimated, and how clusters are drawn."""

from workbench.stats.clusters import cluster_frame
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
from workbench.stats.pairs import PairedTest, design_effect, holm, paired_test
from workbench.stats.power import WORTH_TELLING, bound_of_none, prompts_to_bound, prompts_to_tell, too_few
from workbench.stats.seeds import mean_over_seeds

__all__ = [
    "WORTH_TELLING",
    "Estimate",
    "PairedTest",
    "auroc",
    "balanced_accuracy",
    "bound_of_none",
    "cluster_bootstrap",
    "cluster_frame",
    "design_effect",
    "gap_between",
    "holm",
    "mean_over_seeds",
    "paired_difference",
    "paired_test",
    "prompts_to_bound",
    "prompts_to_tell",
    "roc_area",
    "too_few",
    "wilson",
]
