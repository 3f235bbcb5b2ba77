# SPDX-License-Identifier: BSD-3-Clause
"""What the tests share: a folder, a daemon and guests for each, and their logs on failure."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import daemon
import guest
from guest_image import DEFAULT_FOLDER, GuestImageError, guest_image

REQUIRED = (guest.QEMU, "fio", "e2fsck", "debugfs", "mkfs.fat", "mcopy", "gcc", "objdump",
            "/bin/busybox", "/usr/share/OVMF/OVMF_CODE_4M.fd")
LOG_TAIL = 20000        # bytes of each log that a failure shows


def unavailable(reason: str) -> None:
    """Skips; but in CI, which must run everything, a missing thing is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def programs() -> None:
    """The programs and files that the tests need."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in REQUIRED if not (shutil.which(name) or os.path.exists(name))]
    if missing:
        unavailable(f"not installed: {' '.join(missing)} (packaging/install-deps.sh test)")
    if not os.access(daemon.VHOSTD, os.X_OK):
        unavailable(f"no {daemon.VHOSTD} (make, or set VHOSTD_BIN)")


@pytest.fixture(scope="session")
def linux_image(programs):
    try:
        return guest_image(Path(os.environ.get("VHOSTD_GUEST_DIR", DEFAULT_FOLDER)))
    except GuestImageError as error:
        return unavailable(f"no guest image: {error}")


@pytest.fixture
def folder(programs):
    """An empty folder with a short path (socket paths are limited to 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="vhostd-test-") as path:
        yield Path(path)


@pytest.fixture
def logs(request) -> list[Path]:
    """Log files that are shown if the test fails."""
    request.node.logs = []
    return request.node.logs


@pytest.fixture
def vhostd(folder, logs):
    """A running daemon."""
    instance = daemon.Vhostd(folder)
    logs.append(instance.log)
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()


@pytest.fixture
def start_qemu(folder, logs):
    """Starts a Qemu (or a subclass's) instance made by the test; all end with the test."""
    instances = []

    def start(instance):
        instances.append(instance)
        logs.extend(path for path in (instance.log, instance.console) if path not in logs)
        instance.start()
        return instance

    yield start
    for instance in reversed(instances):
        instance.stop()


@pytest.fixture
def boot(folder, linux_image, start_qemu):
    """Boots the Linux guest with the given QEMU arguments beyond the machine's. Several guests of a
    test have names, for their logs."""
    def boot_guest(*arguments: str, cpus: int = 1, name: str = "") -> guest.Guest:
        machine = guest.machine_arguments(cpus=cpus)
        (folder / name).mkdir(exist_ok=True)
        return start_qemu(guest.Guest(folder / name, linux_image, [*machine, *arguments]))

    return boot_guest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for path in getattr(item, "logs", []):
            if path.exists():
                text = path.read_bytes()[-LOG_TAIL:].decode(errors="replace")
                report.sections.append((path.name, text))
