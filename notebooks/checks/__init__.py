"""The checks of the course's exercises; a check says what went wrong."""

from checks.by_hand import bias, shift, two_sides, vector
from checks.choosing import both_models, careful_layers, false_positive_rate, strict_bias
from checks.feedback import Feedback
from checks.inside import lens, turn
from checks.models import leak, own_judge, shared, turned_back
from checks.reading import auroc, intent_alone
from checks.seeing import by_heart, expanded, patches
from checks.steering import cases, diagnosis, placebo, verdict
from checks.sweeping import flattery, front, rows_to_compute
from checks.transfer import beyond, paired, ridge

__all__ = [
    "Feedback",
    "auroc",
    "beyond",
    "bias",
    "both_models",
    "by_heart",
    "careful_layers",
    "cases",
    "diagnosis",
    "expanded",
    "false_positive_rate",
    "flattery",
    "front",
    "intent_alone",
    "leak",
    "lens",
    "own_judge",
    "paired",
    "patches",
    "placebo",
    "ridge",
    "rows_to_compute",
    "shared",
    "shift",
    "strict_bias",
    "turn",
    "turned_back",
    "two_sides",
    "vector",
    "verdict",
]
