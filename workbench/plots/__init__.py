"""The pictures of the main job, one function each: a tidy frame in, a plotly figure out; nothing is computed or saved.

Every function takes the finding for its title, since only the caller knows what was found; without one the title
says what is shown. Controls are drawn wherever something is steered.

The trap: a figure drawn from averages alone hides its own uncertainty. Frames carry `low` and `high`; they are drawn.
"""

from workbench.plots.cards import reply_cards
from workbench.plots.dose import DOSE_LINES, DOSE_METRICS, DOSE_SETTINGS, NOT_CHOSEN, dose_response
from workbench.plots.fronts import pareto, tuning_history
from workbench.plots.gates import gate_by_wrapper, gate_roc, gate_scores
from workbench.plots.geometry import (
    extraction_growth,
    layer_cosines,
    principal_components,
    vector_cosines,
    vector_strength,
)
from workbench.plots.panels import LABELS
from workbench.plots.patches import patch_map
from workbench.plots.places import layer_sets
from workbench.plots.rates import BROKEN, TRADE_OFF, trade_off
from workbench.plots.reading import gate_map, layer_profile, projections
from workbench.plots.separability import separability
from workbench.plots.steered import refusal_lead, steered_residuals, steered_tokens
from workbench.plots.strength import CURVES, METRIC_NAMES, strength_curves, strength_trade_off
from workbench.plots.tokens import token_map
from workbench.plots.transfer import transfer_matrix, transfer_predictors
from workbench.plots.words import first_tokens, vector_lens
from workbench.plots.writers import attribution

__all__ = [
    "BROKEN",
    "CURVES",
    "DOSE_LINES",
    "DOSE_METRICS",
    "DOSE_SETTINGS",
    "LABELS",
    "METRIC_NAMES",
    "NOT_CHOSEN",
    "TRADE_OFF",
    "attribution",
    "dose_response",
    "extraction_growth",
    "first_tokens",
    "gate_by_wrapper",
    "gate_map",
    "gate_roc",
    "gate_scores",
    "layer_cosines",
    "layer_profile",
    "layer_sets",
    "pareto",
    "patch_map",
    "principal_components",
    "projections",
    "refusal_lead",
    "reply_cards",
    "separability",
    "steered_residuals",
    "steered_tokens",
    "strength_curves",
    "strength_trade_off",
    "token_map",
    "trade_off",
    "transfer_matrix",
    "transfer_predictors",
    "tuning_history",
    "vector_cosines",
    "vector_lens",
    "vector_strength",
]
