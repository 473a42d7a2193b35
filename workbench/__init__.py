"""InferAligner workbench: find a model's safety direction, decide per prompt, steer, and measure honestly.

Every public name is imported from here, `import workbench as wb`. Names are looked up on first use: importing
torch, transformers and TransformerLens takes seconds, which `workbench --help` need not pay.
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "provenance": ("Provenance", "Space", "SpaceMismatch"),
    "prompts": ("ContrastSet", "Prompt", "PromptSet", "load_contrast", "load_prompts"),
    "loading": ("load_model", "load_tokenizer"),
    "models": ("residual_hooks", "space_of"),
    "activations": ("Activations", "last_token_activations"),
    "vectors": (
        "SteeringVectors",
        "load_vectors",
        "mean_difference",
        "random_band",
        "random_directions",
        "shuffled_labels",
    ),
    "gates": ("AlwaysOpen", "Gate", "GateReading", "ThresholdGate", "best_layer", "load_gate"),
    "steering": ("Shift", "SteeringPlan", "compile_shift"),
    "generation": ("Completion", "SteeredRun", "generate", "steered", "teacher_forced_logits"),
}
_ROOM = {name: room for room, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *sorted(_ROOM)]


def __getattr__(name: str) -> object:
    if name in _ROOM:
        return getattr(import_module(f"workbench.{_ROOM[name]}"), name)
    raise AttributeError(f"workbench has no {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
