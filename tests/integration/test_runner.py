# SPDX-License-Identifier: BSD-3-Clause
"""The runner itself: a program that dies is told of, and how it died."""
import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).resolve().parent.parent / "run.py"


def run_unit(tmp_path, script):
    program = tmp_path / "unit" / "test_x"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    result = subprocess.run([sys.executable, RUNNER, f"unit:{tmp_path}"], capture_output=True, text=True, timeout=60)
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
