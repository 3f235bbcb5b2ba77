# SPDX-License-Identifier: BSD-3-Clause
import shutil
import tempfile
from pathlib import Path

import pytest
from harness import Vhostd


@pytest.fixture
def folder():
    """A short path: a socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="vhostd-test."))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def idle_vhostd(folder):
    """A daemon that is not started yet."""
    daemon = Vhostd(folder)
    yield daemon
    try:
        daemon.stop()
    finally:
        print(daemon.log_text() if daemon.log.exists() else "no log")


@pytest.fixture
def vhostd(idle_vhostd):
    idle_vhostd.start()
    return idle_vhostd


@pytest.fixture(scope="module")
def shared_folder():
    path = Path(tempfile.mkdtemp(prefix="vhostd-test."))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def shared_process(shared_folder):
    daemon = Vhostd(shared_folder)
    daemon.start()
    yield daemon
    try:
        daemon.stop()
    finally:
        print(daemon.log_text())


@pytest.fixture
def shared(shared_process):
    """One daemon for all tests of a file; what a test makes is removed behind it."""
    yield shared_process
    for controller in shared_process.rpc("vhost_get_controllers"):
        shared_process.rpc("vhost_delete_controller", ctrlr=controller["ctrlr"])
    delete = {"Malloc disk": "bdev_malloc_delete", "Null disk": "bdev_null_delete",
              "Error Injection Disk": "bdev_error_delete", "Delay disk": "bdev_delay_delete"}
    for bdev in reversed(shared_process.rpc("bdev_get_bdevs")):
        shared_process.rpc(delete.get(bdev["product_name"], "bdev_aio_delete"), name=bdev["name"])
