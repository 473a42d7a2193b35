"""The paper's results on models and prompts of yours, in one command: chosen, measured, recorded, shown."""

from workbench.reproduction.config import Experiment, read_experiment
from workbench.reproduction.running import prepare_run, reproduce

__all__ = ["Experiment", "prepare_run", "read_experiment", "reproduce"]
