"""InferAligner workbench: find a model's safety direction, decide per prompt, steer, and measure honestly.

Every public name is imported from here, `import workbench as wb`. Names are looked up on first use: importing
torch, transformers and TransformerLens takes seconds, which `workbench --help` need not pay.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; at run time `_EXPORTS` says the same (tested)
    from workbench import plots
    from workbench.activations import Activations, last_token_activations
    from workbench.export import save_figure
    from workbench.gates import AlwaysOpen, Gate, GateReading, ThresholdGate, best_layer, load_gate
    from workbench.generation import Completion, SteeredRun, generate, steered, teacher_forced_logits
    from workbench.loading import load_model, load_tokenizer
    from workbench.models import residual_hooks, space_of
    from workbench.profiles import LayerProfile, gate_map, layer_profile, projections, select_layers
    from workbench.prompts import ContrastSet, Prompt, PromptSet, load_contrast, load_prompts
    from workbench.provenance import Provenance, Space, SpaceMismatch
    from workbench.stats import Estimate
    from workbench.steering import Shift, SteeringPlan, compile_shift
    from workbench.vectors import (
        SteeringVectors,
        load_vectors,
        mean_difference,
        random_band,
        random_directions,
        shuffled_labels,
    )

__version__ = "0.1.0"

_EXPORTS = {
    "activations": ("Activations", "last_token_activations"),
    "export": ("save_figure",),
    "gates": ("AlwaysOpen", "Gate", "GateReading", "ThresholdGate", "best_layer", "load_gate"),
    "generation": ("Completion", "SteeredRun", "generate", "steered", "teacher_forced_logits"),
    "loading": ("load_model", "load_tokenizer"),
    "models": ("residual_hooks", "space_of"),
    "profiles": ("LayerProfile", "gate_map", "layer_profile", "projections", "select_layers"),
    "prompts": ("ContrastSet", "Prompt", "PromptSet", "load_contrast", "load_prompts"),
    "provenance": ("Provenance", "Space", "SpaceMismatch"),
    "stats": ("Estimate",),
    "steering": ("Shift", "SteeringPlan", "compile_shift"),
    "vectors": (
        "SteeringVectors",
        "load_vectors",
        "mean_difference",
        "random_band",
        "random_directions",
        "shuffled_labels",
    ),
}
_ROOM = {name: room for room, names in _EXPORTS.items() for name in names}
_MODULES = ("plots",)

__all__ = ["__version__", *sorted((*_ROOM, *_MODULES))]

if not TYPE_CHECKING:  # a checker that saw this would believe every misspelt name

    def __getattr__(name: str) -> object:
        if name in _ROOM:
            return getattr(import_module(f"workbench.{_ROOM[name]}"), name)
        if name in _MODULES:
            return import_module(f"workbench.{name}")
        raise AttributeError(f"workbench has no {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
