"""Vectors carried between models that share no base: maps fitted without labels, their controls, and the matrix."""

from workbench.transfer.carrying import CARRIED, CONTROLS, WITHOUT_SOURCE, beyond_own
from workbench.transfer.maps import (
    ResidualMap,
    fit_map,
    fit_shuffled_map,
    load_map,
    map_vectors,
    paired_layers,
)
from workbench.transfer.matrix import transfer_matrix
from workbench.transfer.results import PREDICTORS, TransferResult, rank_predictors

__all__ = [
    "CARRIED",
    "CONTROLS",
    "PREDICTORS",
    "WITHOUT_SOURCE",
    "ResidualMap",
    "TransferResult",
    "beyond_own",
    "fit_map",
    "fit_shuffled_map",
    "load_map",
    "map_vectors",
    "paired_layers",
    "rank_predictors",
    "transfer_matrix",
]
