"""The main job, end to end: domain models made harmless by an aligned one, on the embedded models."""

from workbench.demo.running import TARGETS, run_demo

__all__ = ["TARGETS", "run_demo"]
