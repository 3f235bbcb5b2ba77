#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures vhostd next to qemu-storage-daemon and fio (`make bench`).

Servers run on one CPU, the load generator (vhost_load, or fio) on another. A repetition runs every
case once, so that what disturbs the machine disturbs all of them; the medians of the repetitions
are shown, next to what is wanted (targets.py). What is not there is left out, with the reason.
"""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import plot
import report
from cases import CASES
from processes import BenchError, NotAvailable
from results import Bench, Summary

PROGRAMS = ('vhostd', 'vhost_load', 'path_bench', 'event_perf', 'reactor_perf', 'nvme_device',
            'nvme_device_perf', 'nvme_perf')


def run_case(bench, case):
    try:
        case.run(bench)
    except NotAvailable as error:
        bench.leave_out(case.name, error)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        bench.error(f'{case.name}: {error}')


def run_cases(bench, only):
    repetitions = 1 if bench.quick else max(case.repetitions for case in CASES)
    for repetition in range(repetitions):
        for case in CASES:
            if repetition < case.repetitions and re.search(only, case.name) and \
                    not (bench.quick and case.full_only):
                run_case(bench, case)


def write_results(bench, args):
    command = 'make bench'
    options = [*(['--quick'] if args.quick else []),
               *(['--only', args.only] if args.only else [])]
    if options:
        command += f" BENCH_ARGS={shlex.quote(' '.join(options))}"
    summary = Summary(bench.samples)
    report.print_report(bench, summary, bool(args.only))
    report.write_json(bench, summary, command, os.path.join(args.out, 'bench.json'))
    plot.write_all(summary, args.out)
    print(f'\nwritten: {args.out}/bench.json and *.svg')
    if args.docs:
        document = os.path.join(args.docs, 'performance.md')
        old = report.read_document(document) if args.only else None
        report.fill_document(document, report.fragments(bench, summary, command, old))
        print(f'written: {document}')
    if args.docs and not args.only:
        plot.write_all(summary, os.path.join(args.docs, 'img'))
        print(f'written: {args.docs}/img/*.svg')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bin', default='build/bin', help='folder of the programs (build/bin)')
    parser.add_argument('--out', default='build/bench', help='folder of the result (build/bench)')
    parser.add_argument('--docs', help='folder whose performance.md and img get the result, too; '
                        'with --only the figures of these cases in performance.md')
    parser.add_argument('--only', default='', metavar='REGEX',
                        help='cases: ' + ' '.join(case.name for case in CASES))
    parser.add_argument('--seconds', type=float, help='length of one measurement (1, quick: 0.7)')
    parser.add_argument('--quick', action='store_true', help='fewer cases, one repetition')
    args = parser.parse_args()
    bench = Bench(args)
    missing = [name for name in PROGRAMS if not shutil.which(bench.program(name))]
    if missing:
        print(f"run: {', '.join(map(bench.program, missing))}: not built", file=sys.stderr)
        return 1
    os.makedirs(args.out, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='vhostd-bench-') as folder:
        bench.dir = folder
        run_cases(bench, args.only)
    if not bench.samples:
        print('run: nothing was measured', file=sys.stderr)
        return 1
    write_results(bench, args)
    return 1 if bench.errors else 0


if __name__ == '__main__':
    sys.exit(main())
