# SPDX-License-Identifier: BSD-3-Clause
"""The runners themselves: a program that dies is told of, and how it died; none outlives its runner."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import DEADLINE

RUNNER = Path(__file__).resolve().parent.parent / "run.py"
FUZZ_RUNNER = RUNNER.parent / "fuzz/run.py"


def run_unit(tmp_path, script, *options):
    program = tmp_path / "unit" / "test_x"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    result = subprocess.run([sys.executable, RUNNER, *options, f"unit:{tmp_path}"], capture_output=True, text=True,
                            timeout=60)
    return result.returncode, result.stdout


def test_all_is_well(tmp_path):
    status, output = run_unit(tmp_path, "echo 1..1; echo ok 1 - a")
    assert status == 0
    assert "1 passed, 0 failed, 0 skipped" in output


def test_names(tmp_path):
    for name in ("test_a", "test_b", "test_c"):
        program = tmp_path / "unit" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 1..1; echo ok 1 - x\n")
        program.chmod(0o755)
    for names, count in (("", 3), (":test_(a|c)", 2), (":", 3)):
        result = subprocess.run([sys.executable, RUNNER, f"unit:{tmp_path}{names}"], capture_output=True, text=True,
                                timeout=60)
        assert f"\n{count} passed, 0 failed" in result.stdout
    result = subprocess.run([sys.executable, RUNNER, f"unit:{tmp_path}:nothing"], capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 1
    assert "there are no programs" in result.stdout


def test_exit_in_the_middle(tmp_path):
    # As cmocka ends for a signal on a thread that it does not know.
    status, output = run_unit(tmp_path, "echo 1..2; echo ok 1 - a; exit 255")
    assert status == 1
    assert "failed: 1 results of 2 tests" in output
    assert "failed: exit status 255" in output


def test_killed(tmp_path):
    status, output = run_unit(tmp_path, "echo 1..2; echo ok 1 - a; echo why >&2; kill -ABRT $$")
    assert status == 1
    assert "failed: killed by SIGABRT" in output
    assert "why" in output


def test_killed_after_the_last_test(tmp_path):
    status, output = run_unit(tmp_path, "echo 1..1; echo ok 1 - a; kill -SEGV $$")
    assert status == 1
    assert "1 passed, 1 failed" in output
    assert "failed: killed by SIGSEGV" in output


def test_failed_tests_are_the_exit_status(tmp_path):
    status, output = run_unit(tmp_path, "echo 1..1; echo not ok 1 - a; exit 1")
    assert status == 1
    assert "0 passed, 1 failed" in output
    assert "exit status" not in output


# Fails the first time only.
FAILS_ONCE = 'echo 1..2; echo ok 1 - a; [ -e "{0}" ] && echo ok 2 - b || {{ touch "{0}"; echo not ok 2 - b; {1}; }}'


def test_failed_tests_run_again(tmp_path):
    status, output = run_unit(tmp_path, FAILS_ONCE.format(tmp_path / "mark", "exit 1"), "--again")
    assert status == 0
    assert f"passed only when run again: unit:{tmp_path.name} test_x (b)" in output
    assert "\n2 passed, 0 failed, 0 skipped" in output


def test_what_fails_again_has_failed(tmp_path):
    status, output = run_unit(tmp_path, "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1", "--again")
    assert status == 1
    assert "passed only" not in output
    assert "\n1 passed, 1 failed, 0 skipped" in output


def test_what_must_not_happen_once_is_not_run_again(tmp_path):
    for i, end in enumerate(("kill -SEGV $$", "echo 'WARNING: ThreadSanitizer: data race'; exit 1",
                             "echo '==1==ERROR: AddressSanitizer: heap-use-after-free' >&2; exit 99",
                             "echo 'a.c:1:2: runtime error: shift' >&2; exit 99")):
        folder = tmp_path / str(i)
        folder.mkdir()
        status, output = run_unit(folder, FAILS_ONCE.format(folder / "mark", end), "--again")
        assert status == 1, output
        assert "runs again" not in output
    status, output = run_unit(tmp_path, "echo 1..1; echo ok 1 - a; exit 99", "--again")  # a leak
    assert status == 1
    assert "runs again" not in output


def test_not_again_unless_asked_to(tmp_path):
    status, output = run_unit(tmp_path, FAILS_ONCE.format(tmp_path / "mark", "exit 1"))
    assert status == 1
    assert "1 passed, 1 failed" in output


def wait_until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("command", "program"), [
    ([RUNNER, "unit:{}"], "unit/test_x"),
    ([FUZZ_RUNNER, "--build", "{}"], "fuzz/fuzz_x"),
])
def test_interrupted(tmp_path, command, program):
    path = tmp_path / program
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60\n")
    path.chmod(0o755)
    with subprocess.Popen([sys.executable, *(str(word).format(tmp_path) for word in command)],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as runner:
        wait_until((tmp_path / "pid").exists)
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(DEADLINE) == 130
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))
