"""Rows that the actors of a Ray cluster encode are those of one process, whoever dies meanwhile."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from stages.encode_images import stage as encode_images
from tests.encode import fragile
from tests.encode.workspaces import LATENTS, PICTURES, PROMPTS, all_rows, encode_pictures

cluster_utils = pytest.importorskip("ray.cluster_utils")

QUIET = {"include_dashboard": False, "num_cpus": 1}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # of the nodes
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=QUIET)
    nodes.second = nodes.add_node(**QUIET)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def local(workspace):
    """Rows and manifest of forty pictures, three masked, as one process makes them; no store."""
    for seed in range(10, 40):
        workspace.add_picture(seed)
    workspace.add_masks(3)
    workspace.write()
    encode_pictures()
    expected = all_rows(LATENTS, "latents"), LATENTS.read_bytes()
    shutil.rmtree("store")
    LATENTS.unlink()
    return expected


def encode_on(cluster):
    params = dataclasses.replace(PICTURES, workers="ray", ray_address=cluster.address)
    count = encode_pictures(params=params)
    return count, (all_rows(LATENTS, "latents"), LATENTS.read_bytes())


def test_actors_of_two_nodes_encode_the_same_bits_though_one_is_killed(cluster, local, monkeypatch):
    monkeypatch.setattr(encode_images, "load_encoder", fragile.dies_once)
    count, found = encode_on(cluster)
    assert len(list(Path("deaths").iterdir())) == 1
    assert (count.encoded, count.reused) == (46, 0)
    assert found == local


def test_a_task_whose_actors_die_again_and_again_is_one_sentence(cluster, local, monkeypatch):
    monkeypatch.setattr(encode_images, "load_encoder", fragile.dies_always)
    with pytest.raises(ValueError, match=r"tasks are left undone, because actors died .*memory"):
        encode_on(cluster)
    assert not LATENTS.exists()


def test_what_an_actor_refuses_is_the_same_sentence(cluster, local):
    shutil.copy("pictures/1.png", "pictures/4.png")
    with pytest.raises(ValueError, match=r"^pictures/4.png is no longer the picture .*dvc repro"):
        encode_on(cluster)


def test_a_lost_node_loses_no_row(cluster, local, monkeypatch):
    monkeypatch.setattr(encode_images, "load_encoder", fragile.slow)
    killer = threading.Timer(0, lambda: lose(cluster))
    killer.start()
    count, found = encode_on(cluster)
    killer.join()
    assert count.encoded == 46
    assert found == local


def lose(cluster):
    """Kill the second node once rows are being encoded."""
    while not Path("store/rows").is_dir():
        pass
    cluster.remove_node(cluster.second, allow_graceful=False)


def test_a_stage_starts_a_cluster_of_its_own_and_leaves_nothing_behind(workspace):
    workspace.write_params(encode_workers="ray")
    before = set(Path("/tmp").glob("ray-*"))
    command = [sys.executable, "-m", "stages.encode_captions"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout.splitlines() == ["encoded 11 rows, reused 0"], answer.stderr
    said = [line for line in answer.stderr.splitlines() if line.strip()]
    assert all(line.lstrip("\r").startswith("encode_captions:") for line in said), answer.stderr
    assert set(Path("/tmp").glob("ray-*")) == before
    assert not processes_in(workspace.root)
    assert len(all_rows(PROMPTS, "prompts")) == 11


def processes_in(folder):
    """List the other processes that work in a folder, once those that are ending have ended."""
    for _ in range(50):
        found = psutil.process_iter(["pid", "cwd", "cmdline"])
        left = [each.info for each in found if each.info["cwd"] == str(folder)]
        left = [info["cmdline"] for info in left if info["pid"] != os.getpid()]
        if not left:
            return []
        time.sleep(0.2)
    return left


def test_without_the_package_it_is_said_how_to_install_it(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    params = dataclasses.replace(PICTURES, workers="ray")
    with pytest.raises(ValueError, match=r"needs the package ray: pip install 'diffbase\[ray\]'"):
        encode_pictures(params=params)


def test_an_address_where_nothing_answers_is_one_sentence(workspace):
    params = dataclasses.replace(PICTURES, workers="ray", ray_address="127.0.0.1:1")
    with pytest.raises(ValueError, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        encode_pictures(params=params)
