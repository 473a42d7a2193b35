"""What each layer can tell, where prompts fall, how long and how alike the vectors are, on what a gate opens.

Every function gives a tidy frame, or a value that holds one, and `workbench.plots` has a picture of its name.
"""

from workbench.profiles.falls import projections
from workbench.profiles.geometry import layer_cosines, principal_components, vector_cosines
from workbench.profiles.layers import LayerProfile, NoLayers, layer_profile, select_layers
from workbench.profiles.openings import NO_WRAPPER, gate_by_wrapper, gate_map, gate_roc, gate_scores
from workbench.profiles.separability import separability
from workbench.profiles.strength import extraction_growth, vector_strength

__all__ = [
    "NO_WRAPPER",
    "LayerProfile",
    "NoLayers",
    "extraction_growth",
    "gate_by_wrapper",
    "gate_map",
    "gate_roc",
    "gate_scores",
    "layer_cosines",
    "layer_profile",
    "principal_components",
    "projections",
    "select_layers",
    "separability",
    "vector_cosines",
    "vector_strength",
]
