#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs test suites and closes with one line of counts over all of them.

    tests/run.py [--jobs N] [--again] SUITE:BUILD[:NAMES]...

SUITE is unit (BUILD/unit/test_*), integration (BUILD/integration/test_*,
tests/integration/test_*.py and tests/model/test_*.py), fuzz (BUILD/fuzz/test_fuzz_*, see
tests/fuzz/driver.c) or qemu (qemu-tests/test_*.py); BUILD is the folder that holds the
programs; NAMES is a regular expression: only the programs in whose names it is found.
cmocka programs report in TAP, pytest in JUnit XML. Each program has a temporary folder of its own
(TMPDIR) and a deadline. Exit status: 0 when nothing failed and something passed.

With --again a program whose tests failed runs once more at the end, alone, and that run counts:
on a machine that stands still for a minute a wait is given up that nothing is wrong with. What
crashed, hung, or was complained of by a sanitizer is not tried again. The programs that passed only
then are named before the counts.
"""
import argparse
import concurrent.futures
import contextlib
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
DEADLINE = {"unit": 600, "integration": 600, "fuzz": 300, "qemu": 1200}  # seconds for one program
PYTEST_NO_TESTS = 5     # the exit status when a file skips itself
TAP_PLAN = re.compile(r"^1\.\.(\d+)$")
# Not what a failed test leaves behind: memory and threads.
SANITIZER_FOUND = re.compile(r"ERROR: AddressSanitizer|: runtime error: |WARNING: ThreadSanitizer: (?!thread leak)")
TAP_LINE = re.compile(r"^\s*(ok|not ok)\s+\d+\s*(?:-\s*)?(.*)$")

running = set()         # process groups of the programs that run now


class Result:
    """What one program said."""

    def __init__(self, name):
        self.name = name
        self.arguments = None   # of the run_program() that made it
        self.may_run_again = False
        self.passed = 0
        self.failures = []
        self.cut_short = False
        self.skips = []
        self.output = ""
        self.seconds = 0.0


def kill_group(group):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def run_with_deadline(command, env, seconds, folder, cwd):
    """Returns the exit status, or None when the deadline passed. What it started and left is killed."""
    # Not one file: what is buffered would be written into the middle of the other's lines.
    # A group, not a session: some kernels' autogroup scheduling gives one session of two that wake
    # each other all the time of a CPU for a minute, and the others none.
    with (open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr,
          subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout,
                           stderr=stderr, process_group=0) as process):
        running.add(process.pid)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            kill_group(process.pid)
            process.wait()
            running.discard(process.pid)


def read_tap(result, output):
    planned = None
    for line in output.splitlines():
        plan = TAP_PLAN.match(line)
        if plan:
            planned = (planned or 0) + int(plan.group(1))
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
    told = result.passed + len(result.failures) + len(result.skips)
    if told != planned:
        result.cut_short = True
        result.failures.append(f"{told} results of {planned} tests")


def read_junit(result, path):
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        result.failures.append(f"no report: {error}")
        return
    if not cases:
        result.failures.append("no tests")
    for case in cases:
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failures.append(name)
        elif skipped is not None:
            result.skips.append(f"{name}: {skipped.get('message')}")
        else:
            result.passed += 1


def skip_reasons(output):
    """cmocka has no room for a reason: a test prints `# skip: reason` before it skips."""
    return [line.split("skip:", 1)[1].strip() for line in output.splitlines() if "# skip:" in line]


def end_of(status):
    """What a program's exit status says."""
    try:
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    except ValueError:
        return f"killed by signal {-status}"


def stacks(program, core):
    """Where every thread of a program was that died, if the kernel wrote so and there is a debugger."""
    if not core.exists() or shutil.which("gdb") is None:
        return ""
    command = ["gdb", "-batch", "-nx", "-ex", "thread apply all bt", str(program), str(core)]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60).stdout
    except subprocess.TimeoutExpired:
        return ""


def run_program(suite, build, program):
    result = Result(f"{suite}:{build.name} {program.name}")
    result.arguments = (suite, build, program)
    folder = Path(tempfile.mkdtemp(prefix="vt-"))
    folder.chmod(0o711)  # some tests become another user
    junit = folder / "junit.xml"
    tmp = folder / "t"
    tmp.mkdir()
    env = dict(os.environ, TMPDIR=str(tmp), CMOCKA_MESSAGE_OUTPUT="TAP",
               VHOSTD_BIN=str(build / "bin" / "vhostd"), VHOSTCTL_BIN=str(build / "bin" / "vhostctl"),
               VHOSTD_BUILD=str(build), PYTHONDONTWRITEBYTECODE="1",
               ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:exitcode=99",
               UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:exitcode=99",
               TSAN_OPTIONS=f"exitcode=99:suppressions={ROOT}/tests/tsan.supp",
               LSAN_OPTIONS=f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0")
    # A core file is written where the program runs. (Those of fuzz look for their corpus in the tree.)
    command, cwd = ["sh", "-c", 'ulimit -c unlimited 2>/dev/null; exec "$0"', str(program)], folder
    if suite == "fuzz":
        command, cwd = [str(program)], ROOT
    if program.suffix == ".py":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs",
                   f"--junitxml={junit}", f"--basetemp={tmp}/pytest", str(program)]
        cwd = ROOT
    start = time.monotonic()
    status = run_with_deadline(command, env, DEADLINE[suite], folder, cwd)
    result.seconds = time.monotonic() - start
    stdout = (folder / "stdout").read_text(errors="replace")
    result.output = stdout + (folder / "stderr").read_text(errors="replace")
    if program.suffix == ".py":
        read_junit(result, junit)
    else:
        read_tap(result, stdout)
        reasons = skip_reasons(result.output)
        result.skips = [f"{name}: {reason}" for name, reason in
                        zip(result.skips, reasons + ["no reason given"] * len(result.skips))]
    result.may_run_again = bool(result.failures) and status is not None and status > 0 \
        and not result.cut_short and not SANITIZER_FOUND.search(result.output)
    if status is None:
        result.failures.append(f"no end within {DEADLINE[suite]} s")
    elif status != 0 and not (status == PYTEST_NO_TESTS and program.suffix == ".py"):
        if not result.failures or result.cut_short or status < 0:
            result.failures.append(end_of(status))
            result.output += stacks(program, folder / "core")
    shutil.rmtree(folder, ignore_errors=True)
    return result


def programs_of(suite, build):
    if suite == "qemu":
        return sorted((ROOT / "qemu-tests").glob("test_*.py"))
    found = sorted(path for path in (build / suite).glob("test_*") if os.access(path, os.X_OK))
    if suite == "integration":
        found += sorted((ROOT / "tests/integration").glob("test_*.py"))
        found += sorted((ROOT / "tests/model").glob("test_*.py"))
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


def run_programs(jobs, suite, build, programs):
    """Yields their results as they end. When interrupted it starts no more and kills those that run."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(run_program, suite, build, path) for path in programs]
        try:
            for future in concurrent.futures.as_completed(pending):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for group in list(running):
                kill_group(group)
            raise


def run_suites(options):
    """The results of all programs, each reported when it was there."""
    everything = []
    for word in options.suites:
        suite, folder, names, *_ = *word.split(":", 2), "", ""
        build = (ROOT / folder).resolve()
        programs = [path for path in programs_of(suite, build)
                    if options.only in path.name and re.search(names, path.name)]
        if not programs and not options.only:
            nothing = Result(word)
            nothing.failures.append("there are no programs")
            report(nothing)
            everything.append(nothing)
        with contextlib.closing(run_programs(options.jobs, suite, build, programs)) as results:
            for result in results:
                report(result)
                everything.append(result)
    return everything


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="run only programs whose name contains this")
    parser.add_argument("--again", action="store_true", help="run what failed once more, alone")
    parser.add_argument("suites", nargs="+", metavar="SUITE:BUILD[:NAMES]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)

    results = run_suites(options)
    recovered = []
    for i, result in enumerate(results):
        if options.again and result.may_run_again:
            print(f"{result.name} runs again, alone", flush=True)
            results[i] = run_program(*result.arguments)
            report(results[i])
            if not results[i].failures:
                recovered.append(result)
    for result in recovered:
        print(f"passed only when run again: {result.name} ({', '.join(result.failures)})")
    passed, failed, skipped = (sum(counts) for counts in zip(
        (0, 0, 0), *((r.passed, len(r.failures), len(r.skips)) for r in results)))
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
