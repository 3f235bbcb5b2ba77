# SPDX-License-Identifier: BSD-3-Clause
"""What is measured. A case is a function that adds samples to a bench; see CASES at the end."""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import path
from processes import (FILE_SIZE, BenchError, Guest, NotAvailable, NvmeDevice, Qsd, Vhostd, cpu_ns,
                       idle_guests, rss_mib)
from results import is_near
from turns import in_turns

RAMP = 0.3  # seconds
TURN_SECONDS, TURN_RAMP = 0.4, 0.1
BLOCK = 4096
NEIGHBOURS = 63
IDLE_COUNTS = (0, 1, 16, 64)
PACED_SECONDS = 1
PATH_IOS = 2500000  # of each reactor
MODES = ('poll', 'adaptive', 'interrupt')
CONTROLLERS = 64
DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128)

Workload = namedtuple('Workload', 'ring rw depth options', defaults=((),))


def name_of(workload):
    extra = ''.join(f' {option[2:]}' for option in workload.options)
    return f'{workload.ring} {workload.rw} qd{workload.depth}{extra}'


def load_sample(bench, server, case, workload, seconds, ramp):
    """One workload on the controller `bench`, or `scsi`, and what the server spent on it."""
    controller = 'scsi' if '--scsi' in workload.options else 'bench'
    options = ['--socket', server.socket(controller), '--rw', workload.rw, '--bs', BLOCK, '--qd',
               workload.depth, '--seconds', seconds, '--ramp', ramp, '--poll', *workload.options]
    if workload.ring == 'packed':
        options.append('--packed')
    busy = server.busy_ticks() if isinstance(server, Vhostd) else None
    used, quiet = cpu_ns(server.pid), {}
    with bench.watching_others(server, quiet):
        result = bench.load(*options)
    # The window of these is the whole run, ramp and drain included: so are the I/Os.
    ios = result['ios_total']
    if ios:
        result['cpu_cycles_per_io'] = (cpu_ns(server.pid) - used) * result['tsc_hz'] / 1e9 / ios
    if busy is not None and ios:
        result['cycles_per_io'] = (server.busy_ticks() - busy) / ios
    return {'case': case, 'server': server.name, **quiet, **result}


def measure_near(bench, run, seconds):
    """run() again, where the CPUs were far at the end, as long as the bench's patience lasts."""
    while True:
        bench.wait_until_near()
        sample = run()
        if is_near(bench.measure_round_trip()) or bench.patience <= 0:
            break
        bench.patience -= seconds
    bench.add(**sample)


def measure(bench, server, case, workload, seconds=None):
    seconds = seconds or bench.seconds
    measure_near(bench, lambda: load_sample(bench, server, case, workload, seconds, RAMP), seconds)


def turn_of(bench, server, prefix, workload):
    """A run for in_turns()."""
    case = f'{prefix} {name_of(workload)}'
    return lambda: [load_sample(bench, server, case, workload, TURN_SECONDS, TURN_RAMP)]


def measure_all(bench, server, prefix, workloads, seconds=None):
    for workload in workloads:
        case = f'{prefix} {name_of(workload)}'
        try:
            measure(bench, server, case, workload, seconds)
        except NotAvailable as error:
            bench.leave_out(f'{server.name}: {case}', error)


def serve(bench, kind, mode='poll', file=None):
    """A daemon with one disk and its controller."""
    server = Vhostd(bench, mode)
    try:
        server.create_disk(kind, file)
        server.create_controller(kind)
    except BenchError:
        server.stop()
        raise
    return server


def measure_qsd(bench, kind, workloads, file=None, seconds=None):
    """It has split rings only."""
    prefix = 'null' if kind == 'null' else 'tmpfs'
    try:
        with Qsd(bench, kind, file) as server:
            measure_all(bench, server, prefix, [w for w in workloads if w.ring == 'split'], seconds)
    except NotAvailable as error:
        bench.leave_out(f'qsd: {prefix}', error)


# ---- I/O ----

def null(bench):
    workloads = [Workload(ring, rw, depth) for ring in ('split', 'packed')
                 for rw in ('randread', 'randwrite') for depth in (1, 32, 128)]
    if bench.quick:
        workloads = [Workload('split', 'randread', 1), Workload('split', 'randread', 32),
                     Workload('split', 'randwrite', 32), Workload('packed', 'randread', 1),
                     Workload('packed', 'randread', 32)]
    with serve(bench, 'null') as server:
        measure_all(bench, server, 'null', workloads)
    measure_qsd(bench, 'null', workloads)


def features(bench):
    option_sets = ((), ('--event-idx',), ('--inflight',), ('--event-idx', '--inflight'))
    with serve(bench, 'null') as server:
        for ring, depth in (('split', 32), ('packed', 32), ('split', 1),
                            ('packed', 1))[:2 if bench.quick else 4]:
            in_turns(bench, [turn_of(bench, server, 'features',
                                     Workload(ring, 'randread', depth, options))
                             for options in option_sets])


def scsi(bench):
    """A SCSI controller next to a block one, each on a disk of its own."""
    loads = (('randread', 1), ('randread', 32), ('randread', 128), ('randwrite', 32))
    with serve(bench, 'null') as server:
        server.create_disk('null', name='null1')
        server.create_scsi_controller('null1')
        for rw, depth in loads[1::2] if bench.quick else loads:
            in_turns(bench, [turn_of(bench, server, 'controllers',
                                     Workload('split', rw, depth, options))
                             for options in ((), ('--scsi',))])


def depths(bench):
    workloads = [Workload(ring, 'randread', depth) for ring in ('split', 'packed')
                 for depth in DEPTHS]
    with serve(bench, 'null') as server:
        measure_all(bench, server, 'depths null', workloads, 1)
    with contextlib.suppress(NotAvailable), Qsd(bench, 'null') as server:
        measure_all(bench, server, 'depths null', workloads[:len(DEPTHS)], 1)


def verify(bench, server):
    bench.load('--socket', server.socket(), '--verify')


def copies(bench):
    """What a memory disk cannot go below."""
    with bench.servers_stopped():
        cycles = bench.run_program('vhost_load', '--json', '--copy', '--cpu', bench.server_cpu)[0]
    return [{'case': f'copy {rw}', 'server': 'memcpy', 'cycles_per_io': cycles[f'{rw}_cycles']}
            for rw in ('read', 'write')]


def memory(bench):
    with serve(bench, 'malloc') as server:
        verify(bench, server)
        in_turns(bench, [lambda: copies(bench),
                         *(turn_of(bench, server, 'malloc', Workload('split', rw, 32))
                           for rw in ('randread', 'randwrite'))])


@contextlib.contextmanager
def tmpfs_file():
    if not os.path.ismount('/dev/shm'):
        raise NotAvailable('/dev/shm is not mounted')
    if shutil.disk_usage('/dev/shm').free < FILE_SIZE + FILE_SIZE // 4:
        raise NotAvailable('/dev/shm is too full')
    chunk = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(prefix='vhostd-bench-', dir='/dev/shm') as file:
        for _ in range(FILE_SIZE // len(chunk)):
            file.write(chunk)
        file.flush()
        yield file.name


def run_fio(bench, file, workload):
    command = ['fio', '--name=bench', f'--filename={file}', '--ioengine=io_uring',
               f'--rw={workload.rw}', f'--bs={BLOCK}', f'--iodepth={workload.depth}',
               f'--runtime={int(bench.seconds * 1000)}ms', '--time_based', '--ramp_time=300ms',
               f'--size={FILE_SIZE}', f'--cpus_allowed={bench.server_cpu}', '--thread',
               '--output-format=json']
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bench.dir,
                            timeout=120)
    if result.returncode:
        raise BenchError(f'fio: {result.stderr.strip()}')
    job = json.loads(result.stdout[result.stdout.index('{'):])['jobs'][0]
    side = job['write' if 'write' in workload.rw else 'read']
    percentiles = side['clat_ns'].get('percentile', {})
    bench.add(f'tmpfs {name_of(workload)}', 'fio', iops=side['iops'],
              avg_us=side['clat_ns']['mean'] / 1e3,
              percentiles_us={f'{float(p):g}': ns / 1e3 for p, ns in percentiles.items()})


def file_on_tmpfs(bench):
    workloads = [Workload('split', rw, depth) for rw in ('randread', 'randwrite')
                 for depth in (1, 32)]
    if bench.quick:
        workloads = [Workload('split', 'randread', 32)]
    with tmpfs_file() as file:
        with serve(bench, 'file', file=file) as server:
            if not bench.quick:
                verify(bench, server)
            measure_all(bench, server, 'tmpfs', workloads)
        measure_qsd(bench, 'file', workloads, file)
        if not shutil.which('fio'):
            bench.leave_out('fio', 'it is not installed')
            return
        for workload in workloads:
            run_fio(bench, file, workload)


# ---- neighbours, modes, cores ----

def neighbours(bench):
    with serve(bench, 'null') as server:
        for i in range(NEIGHBOURS):
            server.create_controller('null', f'idle{i}')

        def among(run):
            with idle_guests(bench, server, NEIGHBOURS):
                return run()

        for depth in (1, 32):
            workload = Workload('split', 'randread', depth)
            run = turn_of(bench, server, f'among {NEIGHBOURS} idle', workload)
            in_turns(bench, [turn_of(bench, server, 'alone', workload),
                             lambda run=run: among(run)])


def paced(bench, server, case, rate, options):
    begin, used = time.monotonic(), cpu_ns(server.pid)
    result = bench.load('--socket', server.socket(), '--rate', rate, '--seconds', PACED_SECONDS,
                        '--ramp', RAMP, *options)
    percent = (cpu_ns(server.pid) - used) / (time.monotonic() - begin) / 1e7
    return [{'case': case, 'server': server.name, 'value': percent,
             'p50_us': result['percentiles_us']['50'], **result}]


def bare_wake(bench):
    """What the first request after a sleep cannot go below."""
    result = bench.run_program('vhost_load', '--json', '--wake',
                               f'{bench.server_cpu},{bench.load_cpu}', '--seconds', PACED_SECONDS)
    return [{'case': 'bare wake-up', 'server': 'epoll', 'p50_us': result[0]['wake_us']}]


def modes(bench):
    with serve(bench, 'null') as server:

        def in_mode(mode, run):
            server.set_mode(mode)
            return run()

        for depth in (1, 32):
            in_turns(bench, [lambda mode=mode, run=turn_of(
                bench, server, mode, Workload('split', 'randread', depth)): in_mode(mode, run)
                             for mode in MODES])
        server.set_mode('adaptive')
        # A front-end that waits for calls, and one that looks for itself.
        in_turns(bench, [lambda: paced(bench, server, '1000 IOPS adaptive', 1000, ())], 3)
        in_turns(bench, [lambda: paced(bench, server, 'first after sleep adaptive', 200,
                                       ('--poll',)), lambda: bare_wake(bench)])


def idle(bench):
    counts = (0, 64) if bench.quick else IDLE_COUNTS
    for mode in MODES[1:] if bench.quick else MODES:
        bench.measure_round_trip()
        with Vhostd(bench, mode) as server:
            server.create_disk('null')
            for i in range(max(counts)):
                server.create_controller('null', f'idle{i}')
            for count in counts:
                guests = idle_guests(bench, server, count) if count else contextlib.nullcontext()
                with guests:
                    time.sleep(1)
                    begin, used = time.monotonic(), cpu_ns(server.pid)
                    time.sleep(1.5 if bench.quick else 2)
                    percent = (cpu_ns(server.pid) - used) / (time.monotonic() - begin) / 1e7
                    bench.add(f'idle {mode} {count} controllers', server.name, value=percent,
                              rss_mib=rss_mib(server.pid))


def path_samples(bench, case, queues, cpus, *options):
    result = bench.run_program('path_bench', '--json', '--ring', 'split', '--qd', 32, '--rw',
                               'read', '--event-idx', 'off', '--inflight', 'off', '--queues',
                               queues, '--ios', PATH_IOS, '--cpus', ','.join(map(str, cpus)),
                               *options)[0]
    return [{'case': case, 'server': 'vhostd', **result}]


def independent_samples(bench, cpus):
    """What the machine allows: a process for each CPU, with half of the queues."""
    case = 'two processes of 2 queues'
    with ThreadPoolExecutor() as pool:
        both = [samples[0] for samples in pool.map(
            lambda cpu: path_samples(bench, case, 2, (cpu,)), cpus)]
    return [{**both[0], 'iops': sum(sample['iops'] for sample in both),
             'cycles_per_io': sum(sample['cycles_per_io'] for sample in both) / len(both)}]


def cores(bench):
    """Front-end and daemon in turn on each CPU: two CPUs show what a second reactor brings."""
    if bench.server_cpu == bench.load_cpu:
        raise NotAvailable('there is one CPU')
    both = (bench.server_cpu, bench.load_cpu)

    def runs_of(queues):
        return [lambda cpus=cpus: path_samples(
            bench, f'{queues} queues on {len(cpus)} reactors', queues, cpus)
                for cpus in (both[:1], both) if len(cpus) <= queues]

    in_turns(bench, [*runs_of(4), lambda: independent_samples(bench, both)])
    for queues in () if bench.quick else (1, 2, 8):
        in_turns(bench, runs_of(queues), 3)


# ---- NVMe, with the software device of the tests ----

def nvme_alone(bench, device, case, depth, seconds, *options):
    """The driver below the block device core, without a daemon; the device is on the other CPU."""
    result = bench.run_program('nvme_perf', '--json', '--cpu', bench.server_cpu, '--socket',
                               device.socket(), '--qd', depth, '--seconds', seconds, *options)[0]
    return {'case': case, 'server': 'vhostd', **result}


def nvme_device_alone(bench):
    bench.wait_until_near()
    for result in bench.run_program('nvme_device_perf', '--json', 'null',
                                    0.3 if bench.quick else bench.seconds):
        bench.add(f"nvme device qd{result['qd']}", 'nvme_device', **result)


def nvme_sleeping(bench):
    """One daemon whose reactor sleeps, on the device's interrupts, too."""
    with NvmeDevice(bench) as device, Vhostd(bench, 'adaptive') as server:
        server.create_disk('nvmen1', device.socket())
        server.create_controller('nvmen1', 'idle0')
        server.create_controller('nvmen1')
        with idle_guests(bench, server, 1):
            time.sleep(0.5)
            begin, used = time.monotonic(), cpu_ns(server.pid)
            time.sleep(1 if bench.quick else 3)
            percent = (cpu_ns(server.pid) - used) / (time.monotonic() - begin) / 1e7
            bench.add('nvme idle adaptive', 'vhostd', value=percent)
        for sample in paced(bench, server, 'nvme 1000 IOPS adaptive', 1000, ()):
            bench.add(**sample)


def nvme(bench):
    nvme_device_alone(bench)
    with NvmeDevice(bench, '--spin') as device:
        for depth in (1, 32, 128):
            measure_near(bench, lambda depth=depth: nvme_alone(
                bench, device, f'nvme alone qd{depth}', depth, bench.seconds), bench.seconds)


def nvme_turns(bench):
    with NvmeDevice(bench, '--spin') as device:
        for depth in (1, 32):
            in_turns(bench, [lambda depth=depth, case=case, options=options: [nvme_alone(
                bench, device, f'{case} qd{depth}', depth, TURN_SECONDS, *options)]
                             for case, options in (('nvme polled', ()),
                                                   ('nvme interrupts', ('--interrupts',)))])
    one, both = (bench.server_cpu,), (bench.server_cpu, bench.load_cpu)
    in_turns(bench, [lambda: path_samples(bench, 'nvme path', 1, one, '--device', 'nvme')], 3)
    if one[0] != both[1]:
        in_turns(bench, [lambda cpus=cpus: path_samples(
            bench, f'nvme 4 queues on {len(cpus)} reactors', 4, cpus, '--device', 'nvme')
                         for cpus in (one, both)])
    nvme_sleeping(bench)


# ---- the daemon itself ----

def timed_ms(function, *args, **params):
    start = time.monotonic()
    function(*args, **params)
    return (time.monotonic() - start) * 1e3


def control(bench):
    times = []
    for _ in range(3 if bench.quick else 7):
        with Vhostd(bench) as server:
            times.append(server.startup_ms)
    bench.add('exec to RPC', 'vhostd', value=statistics.median(times))
    folder = tempfile.mkdtemp(dir=bench.dir)
    with Vhostd(bench, 'adaptive', folder) as server:
        rpc = server.rpc
        bench.add('RPC', 'vhostd', value=statistics.median(
            timed_ms(rpc.call, 'spdk_get_version') for _ in range(300)))
        server.create_disk('null')
        bench.add(f'creating {CONTROLLERS} controllers one by one', 'vhostd', value=sum(
            timed_ms(server.create_controller, 'null', f'o{i}') for i in range(CONTROLLERS)))
        for i in range(CONTROLLERS):
            rpc.call('vhost_delete_controller', ctrlr=f'o{i}')
        bench.add(f'creating {CONTROLLERS} controllers in a batch', 'vhostd', value=timed_ms(
            rpc.batch, 'vhost_create_blk_controller',
            [{'ctrlr': f'c{i}', 'dev_name': 'null'} for i in range(CONTROLLERS)]))
    with Vhostd(bench, 'adaptive', folder) as server:
        bench.add(f'restart with {CONTROLLERS} controllers', 'vhostd', value=server.startup_ms)


def kill_and_restart(bench, options):
    """Milliseconds from SIGKILL to the first I/O that the next daemon completes."""
    with serve(bench, 'null') as server:
        with Guest(bench, '--socket', server.socket(), '--recover', '--seconds', 20, '--cpu',
                   bench.load_cpu, *options) as guest:
            guest.line()
            killed = time.monotonic()
            server.process.kill()
            server.process.wait()
            with Vhostd(bench, 'poll', server.dir):
                return (guest.line()['first_io_s'] - killed) * 1e3


def kill(bench):
    for options in ((), ('--inflight',)):
        name = 'kill to I/O' + (' in-flight' if options else '')
        times = []
        try:
            for _ in range(2 if bench.quick else 5):
                times.append(kill_and_restart(bench, options))
        except BenchError as error:
            # vhost_load's words where it runs in the background
            if 'not supported' not in str(error):
                raise
            bench.leave_out(name, 'the server does not offer it')
            continue
        bench.add(name, 'vhostd', value=statistics.median(times))


def events(bench):
    both = f'{bench.server_cpu},{bench.load_cpu}'
    seconds = 1 if bench.quick else 3
    bench.measure_round_trip()
    for case, program, cpus, unit in (
            ('event_perf on 1 core', 'event_perf', bench.server_cpu, 'events'),
            ('event_perf on 2 cores', 'event_perf', both, 'events'),
            ('reactor_perf on 1 core', 'reactor_perf', bench.server_cpu, 'polls')):
        result = bench.run_program(program, '-j', '-l', cpus, '-t', seconds)[0]
        bench.add(case, 'vhostd', value=result[f'{unit}_per_second'])


def instructions(bench):
    runs = [[], ['--idle', str(NEIGHBOURS), '--rw', 'read', '--event-idx', 'off'],
            ['--direct', '--rw', 'read', '--event-idx', 'off'],
            ['--scsi', '--event-idx', 'off', '--inflight', 'off']]
    if bench.quick:
        runs = [['--rw', 'read', '--qd', '32'], ['--rw', 'read', '--qd', '1']]
    for options in runs:
        count(bench, 'path_bench', options)


def count(bench, program, options):
    for counted in path.count(bench.program(program), options):
        bench.add(f"path {counted['name']}", 'vhostd', value=counted['instructions'],
                  stages=counted['stages'], functions=counted['functions'])


def nvme_instructions(bench):
    count(bench, 'nvme_perf', [])
    count(bench, 'path_bench', ['--device', 'nvme', '--event-idx', 'off', '--inflight', 'off',
                                *(('--ring', 'split', '--qd', '32') if bench.quick else ())])


# repetitions: of a full run; a quick one has one of each, but not of those that are full_only
Case = namedtuple('Case', 'name run repetitions full_only', defaults=(False,))
CASES = (
    Case('instructions', instructions, 1),
    Case('nvme-instructions', nvme_instructions, 1),
    Case('control', control, 1),
    Case('kill', kill, 1),
    Case('null', null, 3),
    Case('features', features, 1),
    Case('scsi', scsi, 1),
    Case('memory', memory, 1),
    Case('tmpfs', file_on_tmpfs, 3),
    Case('neighbours', neighbours, 1),
    Case('modes', modes, 1),
    Case('cores', cores, 1),
    Case('events', events, 2),
    Case('depths', depths, 1, True),
    Case('idle', idle, 1),
    Case('nvme', nvme, 3),
    Case('nvme-turns', nvme_turns, 1),
)
