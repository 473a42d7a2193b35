"""Sweeps on Ray: the same replies, the model loaded once per worker, and clear words where a cluster cannot do it."""

import builtins
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from measuring import by_length, labelled_prompts, plan_for, relative_of
from parity import save_babbler

import workbench as wb
from workbench.sweep.cluster import ClusterError, _plain

ASKED = dict(alpha=[0.1, 0.3], judge=by_length, max_new_tokens=5, placebo=2, batch_size=8)


def test_ray_is_an_extra(monkeypatch):
    find = builtins.__import__

    def without_ray(name: str, *given: object) -> object:
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return find(name, *given)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with (
        pytest.raises(ImportError, match=r"needs Ray: pip install 'inferaligner-workbench\[cluster\]'"),
        wb.RayCluster("organism:finance"),
    ):
        pass


@pytest.mark.parametrize("given", [{"cores": 0}, {"workers": 0}])
def test_no_workers_are_refused(given):
    with pytest.raises(ValueError, match="got cores=., workers=.*: expected 1 or more of each"):
        wb.RayCluster("organism:finance", **given)


def test_it_works_inside_its_context_only():
    with pytest.raises(ClusterError, match="the cluster is not there: with wb.RayCluster"):
        next(wb.RayCluster("organism:finance").write([], wb.Terms(1, (0,))))


def test_nobody_at_an_address_is_told_at_once():
    pytest.importorskip("ray")
    with (
        pytest.raises(
            ClusterError, match=r"could not join Ray at '127.0.0.1:9' \(.*refused.*\): start a cluster"
        ),
        wb.RayCluster("organism:finance", address="127.0.0.1:9"),
    ):
        pass


def test_an_error_of_a_worker_is_its_own():
    ray = pytest.importorskip("ray")
    cause = ValueError("the model's logits are NaN")
    wrapped = ray.exceptions.RayTaskError("write", "a traceback", cause)
    assert _plain(ray, wrapped) is cause
    assert "a worker died of it again and again" in str(_plain(ray, ray.exceptions.RayActorError()))


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """A Ray of two cores for the tests of this file."""
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_babbler(tmp_path_factory.mktemp("ray") / "babbler")


@pytest.mark.slow
def test_the_replies_are_those_of_one_process(here, folder, tmp_path):
    model = wb.load_model(folder, backend="plain")
    asked = labelled_prompts(), plan_for(model)
    alone = wb.run_sweep(model, *asked, **ASKED)
    with wb.RayCluster(folder, workers=2) as executor:
        assert isinstance(executor, wb.Executor) and executor.find_budget(30, 1000) >= 30
        spread = wb.run_sweep(model, *asked, executor=executor, ledger=tmp_path / "l.db", **ASKED)
        again = wb.run_sweep(model, *asked, executor=executor, ledger=tmp_path / "l.db", **ASKED)
        other = relative_of(model)
        with pytest.raises(ValueError, match="the executor's model has other weights .* load both from one"):
            wb.run_sweep(other, *asked, executor=executor, **ASKED)
    assert spread.frame.equals(alone.frame) and again.frame.equals(alone.frame)
    assert again.sharing.known == again.sharing.rows


@pytest.mark.slow
def test_a_model_that_no_worker_can_load(here):
    with (
        pytest.raises(
            ClusterError,
            match=r"the worker on node '.+' could not load 'organism:none' \(ValueError: .*\): put the checkpoint",
        ),
        wb.RayCluster("organism:none", workers=1),
    ):
        pass


@pytest.mark.slow
def test_a_cluster_without_the_cores(here):
    with (
        pytest.raises(ClusterError, match=r"no node of the cluster has 64 cores \(1 nodes, 2 cores in all\)"),
        wb.RayCluster("organism:finance", cores=64),
    ):
        pass


@pytest.mark.slow
def test_patience_has_an_end(here):
    with (
        pytest.raises(ClusterError, match="the workers did not answer within 0.01 seconds .*: wait until"),
        wb.RayCluster("organism:finance", workers=1, patience=0.01),
    ):
        pass
