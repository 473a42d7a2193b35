"""Vectors carried between models that share no base: maps fitted without labels, their controls, and the matrix."""

from workbench.transfer.maps import ResidualMap, fit_map, fit_shuffled_map, load_map, map_vectors, paired_layers

__all__ = ["ResidualMap", "fit_map", "fit_shuffled_map", "load_map", "map_vectors", "paired_layers"]
