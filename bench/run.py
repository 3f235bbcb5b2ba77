#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures vhostd next to qemu-storage-daemon and fio (`make bench`).

Servers run on one CPU, the load generator (vhost_load, or fio) on another. Every repetition
starts vhostd, runs all workloads, stops it, and does the same with qemu-storage-daemon and fio,
so that what disturbs the machine disturbs all of them; the medians of the repetitions are shown.
What is not installed is skipped, with the reason.
"""
import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

FILE_SIZE = 256 << 20
NULL_SIZE = 1 << 30
SECTOR = 512
QSD = 'qemu-storage-daemon'

# name of a workload: what vhost_load and fio call it, block size, queue depth, part of --quick
WORKLOADS = {
    'randread 4k qd1': ('randread', 4096, 1, True),
    'randread 4k qd32': ('randread', 4096, 32, True),
    'randread 4k qd128': ('randread', 4096, 128, False),
    'randwrite 4k qd1': ('randwrite', 4096, 1, False),
    'randwrite 4k qd32': ('randwrite', 4096, 32, True),
    'randwrite 4k qd128': ('randwrite', 4096, 128, False),
    'read 128k qd32': ('read', 131072, 32, True),
    'write 128k qd32': ('write', 131072, 32, False),
}
DEVICES = ('null', 'malloc', 'tmpfs', 'disk')
QUICK_DEVICES = ('null', 'malloc', 'tmpfs')

# (device, workload): wanted IOPS, as a multiple of qemu-storage-daemon's
RATIO_TARGETS = {
    ('null', 'randread 4k qd1'): 5.0,
    ('null', 'randread 4k qd32'): 3.0,
    ('tmpfs', 'randread 4k qd32'): 1.3,
}
# What is measured about the daemon itself: what it is called, unit, upper bound wanted
DAEMON_TARGETS = {
    'startup_ms': ('exec to first RPC answer', 'ms', 250),
    'rpc_ms': ('RPC answer', 'ms', 1),
    'create_ms': ('creating a controller', 'ms', 5),
    'rss_mib': ('RSS with one controller', 'MiB', 60),
    'idle_cpu_percent': ('CPU of an idle controller, adaptive', '%', 1),
}


class BenchError(Exception):
    """A measurement that could not be made; the message says which and why."""


class Rpc:
    """JSON-RPC over a Unix socket, one call at a time."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.last_id = 0

    def close(self):
        self.sock.close()

    def call(self, method, **params):
        self.last_id += 1
        request = {'jsonrpc': '2.0', 'method': method, 'id': self.last_id}
        if params:
            request['params'] = params
        self.sock.sendall(json.dumps(request).encode())
        reply = self._receive()
        if 'error' in reply:
            raise BenchError(f"{method}: {reply['error'].get('message')}")
        return reply['result']

    def _receive(self):
        data = b''
        while True:
            part = self.sock.recv(65536)
            if not part:
                raise BenchError('the RPC socket was closed')
            data += part
            with contextlib.suppress(ValueError):
                return json.loads(data)


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Server:
    """A process that serves vhost-user sockets; its output goes to a log file."""

    def __init__(self, command, log_path):
        self.log_path = log_path
        self.started = time.monotonic()
        with open(log_path, 'ab') as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)

    @property
    def pid(self):
        return self.process.pid

    def wait_until(self, ready, seconds=20):
        """Calls ready() until it does not raise OSError, and returns what it returns."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ready()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f'{self.process.args[0]} did not start ({error}): '
                                     f'{self.log_tail()}') from error
            time.sleep(0.0005)

    def log_tail(self):
        with open(self.log_path, encoding='utf-8', errors='replace') as log:
            return ' | '.join(line.strip() for line in log.readlines()[-3:])

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def connect_to(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)


class Vhostd(Server):
    """vhostd with an RPC connection."""

    name = 'vhostd'

    def __init__(self, bench, mode='poll'):
        self.dir = tempfile.mkdtemp(dir=bench.dir)
        rpc_path = os.path.join(self.dir, 'rpc.sock')
        super().__init__([bench.program('vhostd'), '-l', str(bench.server_cpu),
                          '-S', self.dir, '-r', rpc_path, '--mode', mode,
                          '--state', os.path.join(self.dir, 'state.json')],
                         os.path.join(bench.dir, 'vhostd.log'))
        try:
            self.rpc = self.wait_until(lambda: Rpc(rpc_path))
            self.rpc.call('spdk_get_version')
        except (BenchError, OSError):
            super().stop()
            raise
        self.startup_ms = (time.monotonic() - self.started) * 1e3

    def serve(self, device, path):
        """Creates the device and its controller; returns the controller's socket."""
        if device == 'null':
            self.rpc.call('bdev_null_create', name='bench', num_blocks=NULL_SIZE // SECTOR,
                          block_size=SECTOR)
        elif device == 'malloc':
            self.rpc.call('bdev_malloc_create', name='bench', num_blocks=FILE_SIZE // SECTOR,
                          block_size=SECTOR)
        else:
            self.rpc.call('bdev_uring_create', name='bench', filename=path, block_size=SECTOR)
        self.rpc.call('vhost_create_blk_controller', ctrlr='bench.sock', dev_name='bench')
        return os.path.join(self.dir, 'bench.sock')

    def busy_ticks(self):
        return sum(r['busy'] for r in self.rpc.call('framework_get_reactors')['reactors'])

    def stop(self):
        self.rpc.close()
        super().stop()


class Qsd(Server):
    """qemu-storage-daemon with one export in an I/O thread."""

    name = 'qsd'

    def __init__(self, bench, device, path):
        self.dir = tempfile.mkdtemp(dir=bench.dir)
        self.socket = os.path.join(self.dir, 'bench.sock')
        blockdev = 'node-name=n0,driver='
        if device == 'null':
            blockdev += f'null-co,size={NULL_SIZE}'
        else:
            blockdev += f'file,filename={path},cache.direct=on,aio=io_uring'
        super().__init__(['taskset', '-c', str(bench.server_cpu), QSD, '--blockdev', blockdev,
                          '--object', 'iothread,id=io0', '--export',
                          'type=vhost-user-blk,id=e0,node-name=n0,writable=on,iothread=io0,'
                          f'addr.type=unix,addr.path={self.socket}'],
                         os.path.join(bench.dir, 'qsd.log'))
        try:
            self.wait_until(lambda: os.stat(self.socket))
        except BenchError:
            self.stop()
            raise


class PerfStat:
    """Counts a process' instructions while vhost_load runs."""

    def __init__(self, pid):
        self.process = subprocess.Popen(
            ['perf', 'stat', '-x,', '-e', 'instructions', '-p', str(pid)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=die_with_parent)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return parse_instructions(self.process.communicate(timeout=10)[1])


def parse_instructions(text):
    for line in text.splitlines():
        count = line.split(',')[0]
        if 'instructions' in line and count.isdigit():
            return int(count)
    return None


def cpu_ns(pid):
    """CPU time of all threads of a process, from the scheduler's own clock."""
    total = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{tid}/schedstat', encoding='ascii') as stat:
            total += int(stat.read().split()[0])
    return total


def rss_mib(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as status:
        for line in status:
            if line.startswith('VmRSS:'):
                return int(line.split()[1]) / 1024
    raise BenchError(f'process {pid} has no VmRSS')


class Bench:
    """The whole run: settings, results, and what had to be left out."""

    def __init__(self, args):
        cpus = sorted(os.sched_getaffinity(0))
        self.args = args
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]
        self.dir = None
        self.seconds = args.seconds or (1 if args.quick else 2)
        self.repetitions = 2 if args.quick else 3
        self.devices = QUICK_DEVICES if args.quick else DEVICES
        self.workloads = {name: w for name, w in WORKLOADS.items() if w[3] or not args.quick}
        self.runs = []
        self.daemon = {}
        self.notes = []
        self.errors = []
        self.files = {}
        if len(cpus) < 2:
            self.note('only one CPU: server and load generator share it')
        self.has_vhostd = self.look_for(self.program('vhostd'), 'vhostd')
        self.has_qsd = self.look_for(QSD) and self.look_for('taskset')
        self.has_fio = self.look_for('fio')
        self.counts_instructions = self.look_for('perf') and self.perf_works()

    def program(self, name):
        return os.path.join(self.args.bin, name)

    def note(self, text):
        print(f'note: {text}', flush=True)
        self.notes.append(text)

    def error(self, text):
        print(f'error: {text}', file=sys.stderr, flush=True)
        self.errors.append(text)

    def look_for(self, program, name=None):
        if shutil.which(program):
            return True
        self.note(f'{name or program} is not there: what needs it is left out')
        return False

    def perf_works(self):
        result = subprocess.run(['perf', 'stat', '-x,', '-e', 'instructions', 'true'],
                                capture_output=True, text=True, check=False)
        if parse_instructions(result.stderr):
            return True
        self.note('this machine does not count instructions: left out')
        return False

    def load(self, *options):
        """Runs vhost_load on its CPU; returns its JSON."""
        command = [self.program('vhost_load'), '--json', *map(str, options)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if result.returncode:
            raise BenchError(f"{' '.join(command[2:])}: {result.stderr.strip()}")
        return json.loads(result.stdout)

    # ---- files to serve ----

    def make_file(self, device, folder):
        free = shutil.disk_usage(folder).free
        if free < 2 * FILE_SIZE:
            self.note(f'{folder} has only {free >> 20} MiB free: {device} is left out')
            return
        handle, path = tempfile.mkstemp(prefix='vhostd-bench-', dir=folder)
        self.files[device] = path
        chunk = os.urandom(1 << 20)
        with os.fdopen(handle, 'wb') as file:
            for _ in range(FILE_SIZE >> 20):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def make_files(self):
        if 'tmpfs' in self.devices:
            if os.path.ismount('/dev/shm'):
                self.make_file('tmpfs', '/dev/shm')
            else:
                self.note('/dev/shm is not mounted: tmpfs is left out')
        if 'disk' in self.devices:
            self.make_file('disk', self.args.out)

    def remove_files(self):
        for path in self.files.values():
            os.unlink(path)

    # ---- one device on one server ----

    def record(self, server, device, workload, result):
        result.update(server=server, device=device, workload=workload)
        self.runs.append(result)
        print(f"{device:7} {workload:19} {server:7} {result['iops']:>12,.0f} IOPS", flush=True)

    def measure(self, server, vhost_socket, workload):
        rw, block_size, depth, _ = self.workloads[workload]
        busy = server.busy_ticks() if isinstance(server, Vhostd) else None
        perf = PerfStat(server.pid) if self.counts_instructions else None
        try:
            result = self.load('--socket', vhost_socket, '--rw', rw, '--bs', block_size, '--qd',
                               depth, '--seconds', self.seconds, '--poll', '--cpu', self.load_cpu)
        finally:
            instructions = perf.stop() if perf else None
        # The window of both is the whole run, ramp and drain included: so are the I/Os.
        if busy is not None:
            result['cycles_per_io'] = (server.busy_ticks() - busy) / result['ios_total']
        if instructions:
            result['instructions_per_io'] = instructions / result['ios_total']
        return result

    def run_workloads(self, server, vhost_socket, device):
        for workload in self.workloads:
            try:
                self.record(server.name, device, workload,
                            self.measure(server, vhost_socket, workload))
            except (BenchError, subprocess.TimeoutExpired) as error:
                self.error(f'{server.name} {device} {workload}: {error}')

    def run_vhostd(self, device, path, verify):
        server = Vhostd(self)
        try:
            vhost_socket = server.serve(device, path)
            if verify:
                self.load('--socket', vhost_socket, '--verify', '--cpu', self.load_cpu)
            self.run_workloads(server, vhost_socket, device)
        finally:
            server.stop()

    def run_qsd(self, device, path):
        server = Qsd(self, device, path)
        try:
            self.run_workloads(server, server.socket, device)
        finally:
            server.stop()

    def run_fio(self, device, path):
        for workload, (rw, block_size, depth, _) in self.workloads.items():
            command = ['fio', '--name=bench', f'--filename={path}', '--ioengine=io_uring',
                       f'--rw={rw}', f'--bs={block_size}', f'--iodepth={depth}', '--direct=1',
                       f'--runtime={int(self.seconds * 1000)}ms', '--time_based', '--ramp_time=500ms',
                       f'--size={FILE_SIZE}', f'--cpus_allowed={self.load_cpu}', '--thread',
                       '--output-format=json']
            result = subprocess.run(command, capture_output=True, text=True, check=False,
                                    cwd=self.dir, timeout=600)
            if result.returncode:
                self.error(f'fio {device} {workload}: {result.stderr.strip()}')
                continue
            self.record('fio', device, workload, fio_result(result.stdout, rw))

    def run_device(self, device, repetition):
        path = self.files.get(device)
        is_file = device in ('tmpfs', 'disk')
        if is_file and not path:
            return
        steps = []
        if self.has_vhostd:
            verify = repetition == 0 and device != 'null'
            steps.append(('vhostd', lambda: self.run_vhostd(device, path, verify)))
        if self.has_qsd and device != 'malloc':
            steps.append(('qsd', lambda: self.run_qsd(device, path)))
        if self.has_fio and is_file:
            steps.append(('fio', lambda: self.run_fio(device, path)))
        for name, step in steps:
            try:
                step()
            except (BenchError, OSError, subprocess.TimeoutExpired) as error:
                self.error(f'{name} {device}: {error}')

    # ---- the daemon itself ----

    def measure_startup(self):
        times = []
        for _ in range(5):
            server = Vhostd(self)
            times.append(server.startup_ms)
            server.stop()
        self.daemon['startup_ms'] = statistics.median(times)

    def measure_rpc(self, server):
        def timed(*args, **kwargs):
            start = time.monotonic()
            server.rpc.call(*args, **kwargs)
            return (time.monotonic() - start) * 1e3

        self.daemon['rpc_ms'] = statistics.median(
            timed('spdk_get_version') for _ in range(200))
        server.rpc.call('bdev_null_create', name='spare', num_blocks=2048, block_size=SECTOR)
        times = []
        for _ in range(20):
            times.append(timed('vhost_create_blk_controller', ctrlr='spare.sock',
                               dev_name='spare'))
            server.rpc.call('vhost_delete_controller', ctrlr='spare.sock')
        self.daemon['create_ms'] = statistics.median(times)
        server.rpc.call('bdev_null_delete', name='spare')

    def measure_idle(self, server, vhost_socket):
        seconds = 3 if self.args.quick else 6
        guest = subprocess.Popen([self.program('vhost_load'), '--socket', vhost_socket, '--qd',
                                  '0', '--seconds', str(seconds + 5)],
                                 preexec_fn=die_with_parent)
        try:
            time.sleep(1.5)
            start, begin = cpu_ns(server.pid), time.monotonic()
            time.sleep(seconds)
            used, elapsed = cpu_ns(server.pid) - start, time.monotonic() - begin
            if guest.poll() is not None:
                raise BenchError('the idle guest went away')
            self.daemon['idle_cpu_percent'] = used / elapsed / 1e7
            self.daemon['rss_mib'] = rss_mib(server.pid)
        finally:
            guest.terminate()
            guest.wait()

    def run_daemon(self):
        if not self.has_vhostd:
            return
        try:
            self.measure_startup()
            server = Vhostd(self, 'adaptive')
            try:
                self.measure_idle(server, server.serve('null', None))
                self.measure_rpc(server)
            finally:
                server.stop()
        except (BenchError, OSError) as error:
            self.error(f'vhostd: {error}')

    def run_pingpong(self):
        with contextlib.suppress(BenchError):
            result = self.load('--pingpong', f'{self.server_cpu},{self.load_cpu}')
            self.daemon['core_round_trip_ns'] = result['round_trip_ns']

    def run(self):
        os.makedirs(self.args.out, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='vhostd-bench-') as folder:
            self.dir = folder
            try:
                self.make_files()
                self.run_pingpong()
                self.run_daemon()
                for repetition in range(self.repetitions):
                    for device in self.devices:
                        self.run_device(device, repetition)
            finally:
                self.remove_files()


def fio_result(text, rw):
    job = json.loads(text[text.index('{'):])['jobs'][0]
    side = job['write' if 'write' in rw else 'read']
    percentiles = side['clat_ns'].get('percentile', {})
    return {
        'iops': side['iops'],
        'mb_per_s': side['bw_bytes'] / 1e6,
        'avg_us': side['clat_ns']['mean'] / 1e3,
        'p50_us': percentiles.get('50.000000', 0) / 1e3,
        'p99_us': percentiles.get('99.000000', 0) / 1e3,
        'p999_us': percentiles.get('99.900000', 0) / 1e3,
    }


METRICS = ('iops', 'mb_per_s', 'avg_us', 'p50_us', 'p99_us', 'p999_us', 'cycles_per_io',
           'instructions_per_io')


def summarise(runs):
    """Medians by (device, workload, server), in the order of the first runs."""
    groups = {}
    for run in runs:
        key = (run['device'], run['workload'], run['server'])
        groups.setdefault(key, []).append(run)
    return {key: {metric: statistics.median(run[metric] for run in group)
                  for metric in METRICS if metric in group[0]}
            for key, group in groups.items()}


def table_rows(summary):
    for (device, workload, server), values in summary.items():
        other = summary.get((device, workload, 'qsd'))
        target = RATIO_TARGETS.get((device, workload)) if server == 'vhostd' else None
        cells = [device, workload, server, f"{values['iops']:,.0f}", f"{values['mb_per_s']:,.0f}"]
        cells += [f"{values[m]:.2f}" for m in ('avg_us', 'p50_us', 'p99_us', 'p999_us')]
        cells += [f"{values[m]:,.0f}" if m in values else '-'
                  for m in ('cycles_per_io', 'instructions_per_io')]
        ratio = values['iops'] / other['iops'] if other and server != 'qsd' else None
        cells.append(f'{ratio:.2f}' if ratio else '-')
        cells.append(f'{target:g} {verdict(ratio >= target)}' if ratio and target else '')
        yield cells


def verdict(good):
    return 'met' if good else 'MISSED'


def print_table(summary):
    header = ['device', 'workload', 'server', 'IOPS', 'MB/s', 'avg us', 'p50', 'p99', 'p99.9',
              'cycles/IO', 'instr/IO', 'x qsd', 'wanted']
    order = sorted(summary, key=lambda k: (DEVICES.index(k[0]), list(WORKLOADS).index(k[1]),
                                           ('vhostd', 'qsd', 'fio').index(k[2])))
    rows = [header, *table_rows({key: summary[key] for key in order})]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    print()
    for row in rows:
        print('  '.join(cell.ljust(width) if i < 3 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())


def print_daemon(daemon):
    print()
    if 'core_round_trip_ns' in daemon:
        print(f"{'cache line round trip between the CPUs':40} "
              f"{daemon['core_round_trip_ns']:>9.1f} ns")
    for key, (title, unit, bound) in DAEMON_TARGETS.items():
        if key in daemon:
            print(f'{title:40} {daemon[key]:>9.2f} {unit:4} wanted < {bound} '
                  f'{verdict(daemon[key] < bound)}')


def write_json(bench, summary):
    path = os.path.join(bench.args.out, 'bench.json')
    document = {
        'machine': {'kernel': os.uname().release, 'cpus': os.cpu_count(),
                    'server_cpu': bench.server_cpu, 'load_cpu': bench.load_cpu},
        'seconds': bench.seconds,
        'repetitions': bench.repetitions,
        'daemon': bench.daemon,
        'cases': [dict(zip(('device', 'workload', 'server'), key), **values)
                  for key, values in summary.items()],
        'runs': bench.runs,
        'notes': bench.notes,
        'errors': bench.errors,
    }
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(document, file, indent=1)
        file.write('\n')
    print(f'\nwritten: {path}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bin', default='build/bin', help='folder of the programs (build/bin)')
    parser.add_argument('--out', default='build/bench', help='folder of the result (build/bench)')
    parser.add_argument('--seconds', type=float, help='length of one measurement (2, quick: 1)')
    parser.add_argument('--quick', action='store_true', help='fewer workloads and repetitions')
    args = parser.parse_args()
    bench = Bench(args)
    if not bench.look_for(bench.program('vhost_load'), 'vhost_load'):
        return 1
    bench.run()
    summary = summarise(bench.runs)
    print_table(summary)
    print_daemon(bench.daemon)
    write_json(bench, summary)
    return 1 if bench.errors else 0


if __name__ == '__main__':
    sys.exit(main())
