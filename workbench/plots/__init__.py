"""The pictures of the main job, one function each: a tidy frame in, a plotly figure out; nothing is computed or saved.

Every function takes the finding for its title, since only the caller knows what was found; without one the title
says what is shown. Controls are drawn wherever something is steered.

The trap: a figure drawn from averages alone hides its own uncertainty. Frames carry `low` and `high`; they are drawn.
"""

from workbench.plots.dose import DOSE_LINES, DOSE_METRICS, DOSE_SETTINGS, NOT_CHOSEN, dose_response
from workbench.plots.panels import LABELS
from workbench.plots.rates import BROKEN, CURVES, TRADE_OFF, strength_curves, trade_off
from workbench.plots.reading import gate_map, layer_profile, projections

__all__ = [
    "BROKEN",
    "CURVES",
    "DOSE_LINES",
    "DOSE_METRICS",
    "DOSE_SETTINGS",
    "LABELS",
    "NOT_CHOSEN",
    "TRADE_OFF",
    "dose_response",
    "gate_map",
    "layer_profile",
    "projections",
    "strength_curves",
    "trade_off",
]
