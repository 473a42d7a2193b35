"""Many settings of one plan, answered together, kept as they are answered, and the declared rule that takes one."""

from workbench.sweep.choosing import Choices, choose, choose_gate
from workbench.sweep.cluster import ClusterError, RayCluster
from workbench.sweep.executors import Executor, InProcess, Terms
from workbench.sweep.jobs import Job, JobResult, read_job, run_job
from workbench.sweep.layers import layer_sets
from workbench.sweep.ledger import LedgerError
from workbench.sweep.results import Rule, Sharing, SweepResult, safest
from workbench.sweep.running import run_sweep
from workbench.sweep.spec import Setting, SweepSpec
from workbench.sweep.tuned import Tuned
from workbench.sweep.tuning import tune

__all__ = [
    "Choices",
    "ClusterError",
    "Executor",
    "InProcess",
    "Job",
    "JobResult",
    "LedgerError",
    "RayCluster",
    "Rule",
    "Setting",
    "Sharing",
    "SweepResult",
    "SweepSpec",
    "Terms",
    "Tuned",
    "choose",
    "choose_gate",
    "layer_sets",
    "read_job",
    "run_job",
    "run_sweep",
    "safest",
    "tune",
]
