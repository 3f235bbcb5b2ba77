#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs test suites and closes with one line of counts over all of them.

    tests/run.py [--jobs N] SUITE:BUILD...

SUITE is unit (BUILD/unit/test_*), integration (BUILD/integration/test_* and
tests/integration/test_*.py) or qemu (qemu-tests/test_*.py); BUILD is the folder that
holds the programs. cmocka programs report in TAP, pytest in JUnit XML. Each program has a
temporary folder of its own (TMPDIR) and a deadline. Exit status: 0 when nothing failed and something passed.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = {"unit": 300, "integration": 600, "qemu": 1200}  # seconds for one program
TAP_LINE = re.compile(r"^\s*(ok|not ok)\s+\d+\s*(?:-\s*)?(.*)$")


class Result:
    """What one program said."""

    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failures = []
        self.skips = []
        self.output = ""
        self.seconds = 0.0


def run_with_deadline(command, env, seconds, log):
    """Returns the exit status, or None when the deadline passed; the whole process group is gone then."""
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log,
                          stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def read_tap(result, output):
    for line in output.splitlines():
        match = TAP_LINE.match(line)
        if not match:
            continue
        name = match.group(2)
        if "# SKIP" in name:
            result.skips.append(name.replace("# SKIP", "").strip())
        elif match.group(1) == "ok":
            result.passed += 1
        else:
            result.failures.append(name)


def read_junit(result, path):
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            result.skips.append(f"{name}: {skipped.get('message')}")
        elif case.find("failure") is not None or case.find("error") is not None:
            result.failures.append(name)
        else:
            result.passed += 1


def skip_reasons(output):
    """cmocka has no room for a reason: a test prints `# skip: reason` before it skips."""
    return [line.split("skip:", 1)[1].strip() for line in output.splitlines() if "# skip:" in line]


def run_program(suite, build, program):
    result = Result(f"{suite}:{build.name} {program.name}")
    folder = Path(tempfile.mkdtemp(prefix="vt-"))
    folder.chmod(0o711)  # some tests become another user
    junit = folder / "junit.xml"
    log_path = folder / "output"
    tmp = folder / "t"
    tmp.mkdir()
    env = dict(os.environ, TMPDIR=str(tmp), CMOCKA_MESSAGE_OUTPUT="TAP",
               VHOSTD_BIN=str(build / "bin" / "vhostd"), VHOSTCTL_BIN=str(build / "bin" / "vhostctl"),
               VHOSTD_BUILD=str(build), PYTHONDONTWRITEBYTECODE="1",
               ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:exitcode=99",
               UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:exitcode=99",
               TSAN_OPTIONS=f"exitcode=99:suppressions={ROOT}/tests/tsan.supp",
               LSAN_OPTIONS=f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0")
    command = [str(program)]
    if program.suffix == ".py":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs",
                   f"--junitxml={junit}", f"--basetemp={tmp}/pytest", str(program)]
    start = time.monotonic()
    with open(log_path, "wb") as log:
        status = run_with_deadline(command, env, DEADLINE[suite], log)
    result.seconds = time.monotonic() - start
    result.output = log_path.read_text(errors="replace")
    if program.suffix == ".py":
        if junit.exists():
            read_junit(result, junit)
    else:
        read_tap(result, result.output)
        reasons = skip_reasons(result.output)
        result.skips = [f"{name}: {reason}" for name, reason in
                        zip(result.skips, reasons + ["no reason given"] * len(result.skips))]
    if status is None:
        result.failures.append(f"no end within {DEADLINE[suite]} s")
    elif status not in (0, 5) and not result.failures:
        result.failures.append(f"exit status {status}")
    shutil.rmtree(folder, ignore_errors=True)
    return result


def programs_of(suite, build):
    if suite == "qemu":
        return sorted((ROOT / "qemu-tests").glob("test_*.py"))
    found = sorted(path for path in (build / suite).glob("test_*") if os.access(path, os.X_OK))
    if suite == "integration":
        found += sorted((ROOT / "tests/integration").glob("test_*.py"))
    return found


def report(result):
    verdict = "FAILED" if result.failures else "ok"
    print(f"{verdict:6} {result.name}: {result.passed} passed, {len(result.failures)} failed, "
          f"{len(result.skips)} skipped ({result.seconds:.1f} s)", flush=True)
    for skip in result.skips:
        print(f"       skipped: {skip}")
    if result.failures:
        print(result.output)
        for failure in result.failures:
            print(f"       failed: {failure}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="run only programs whose name contains this")
    parser.add_argument("suites", nargs="+", metavar="SUITE:BUILD")
    options = parser.parse_args()

    totals = [0, 0, 0]
    for word in options.suites:
        suite, _, folder = word.partition(":")
        build = (ROOT / folder).resolve()
        programs = [path for path in programs_of(suite, build) if options.only in path.name]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            pending = [pool.submit(run_program, suite, build, path) for path in programs]
            for future in concurrent.futures.as_completed(pending):
                result = future.result()
                report(result)
                totals[0] += result.passed
                totals[1] += len(result.failures)
                totals[2] += len(result.skips)
    print(f"\n{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped", flush=True)
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main())
