"""How a checkpoint becomes a model: embedded, a folder, a hub id or an object of your own, on three backends.

A model is a TransformerLens `HookedTransformer` ("hooked"), a `TransformerBridge` ("bridge") or the transformers model
itself ("plain"); the user holds that object, not a wrapper. No other room knows how TransformerLens loads.
"""

from workbench.loading.backends import DEFAULT_BACKEND, Backend, Model, backend_of
from workbench.loading.holding import is_spread
from workbench.loading.model import load_model
from workbench.loading.tokenizer import load_tokenizer
from workbench.loading.twins import NoTwin, plain_twin, twin_or_itself
from workbench.loading.weights import without_bars

__all__ = [
    "DEFAULT_BACKEND",
    "Backend",
    "Model",
    "NoTwin",
    "backend_of",
    "is_spread",
    "load_model",
    "load_tokenizer",
    "plain_twin",
    "twin_or_itself",
    "without_bars",
]
