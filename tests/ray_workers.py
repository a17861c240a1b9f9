"""`make test-ray`: two local Ray workers give the search of one process. Outside `make test`: starting a local cluster can take minutes."""

from __future__ import annotations

import os

import pytest
import torch

from tests.merge.test_evolution import NAME, Closeness
from xlm_utils.merge import evolution, merging
from xlm_utils.study import ROOT, StudyError

ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def _workers_find_the_tests_and_compute_with_one_thread(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    assert not ray.is_initialized(), "a cluster that the search started is stopped by it"


@pytest.mark.timeout(900)
def test_two_workers_give_the_search_of_one_process_byte_for_byte(pico_study, tmp_path, capsys):
    study = pico_study("llama", evolution={"evaluations": 8, "population": 4, "sigma": 0.3})
    alone = evolution.search(study, Closeness, name=NAME, folder=tmp_path / "alone")
    study.workers = 2
    together = evolution.search(study, Closeness, name=NAME, folder=tmp_path / "together")
    assert "2 workers on Ray, one CPU each" in capsys.readouterr().out
    assert together.equals(alone)
    logs = [(tmp_path / run / "evolution@ancestor.jsonl").read_bytes() for run in ("alone", "together")]
    assert logs[0] == logs[1]
    assert merging.merge(study, NAME, evolution.best(study, together, NAME)).is_dir()


@pytest.mark.timeout(900)
def test_a_cluster_by_address_is_used_and_not_stopped_and_too_small_is_an_error(pico_study, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        study = pico_study("llama", evolution={"evaluations": 2, "population": 2})
        study.workers = 3
        with pytest.raises(StudyError, match="workers = 3: each needs a CPU, and Ray's cluster has 2"):
            evolution.search(study, Closeness, folder=tmp_path / "three")
        study.workers = 2
        assert len(evolution.search(study, Closeness, folder=tmp_path / "two")) == 2
    finally:
        cluster.shutdown()
