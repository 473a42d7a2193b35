"""Pictures with handles, for Jupyter: pick layers, turn the strength, type a prompt. Each handle is an argument too."""

from workbench.widgets.dial import SteeredAnswer, SteeringDial
from workbench.widgets.lens import PromptLens
from workbench.widgets.picker import LayerPicker

__all__ = ["LayerPicker", "PromptLens", "SteeredAnswer", "SteeringDial"]
