# SPDX-License-Identifier: BSD-3-Clause
"""The processes of the benchmarks: servers, and guests in the background."""
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

SECTOR = 512
MIB = 1 << 20
NULL_SIZE = 1024 * MIB
FILE_SIZE = 256 * MIB
QSD = 'qemu-storage-daemon'


class BenchError(Exception):
    """A measurement that could not be made; the message says which and why."""


class NotAvailable(BenchError):
    """What is to be measured is not there; the message says why."""


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def cpu_ns(pid):
    """CPU time of a process, its threads that have ended included."""
    cpuclock_sched = 2
    return time.clock_gettime_ns(~pid << 3 | cpuclock_sched)


def rss_mib(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as status:
        for line in status:
            if line.startswith('VmRSS:'):
                return int(line.split()[1]) / 1024
    raise BenchError(f'process {pid} has no VmRSS')


class Rpc:
    """JSON-RPC over a Unix socket, one call at a time."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.last_id = 0

    def close(self):
        self.sock.close()

    def _request(self, method, params):
        self.last_id += 1
        request = {'jsonrpc': '2.0', 'method': method, 'id': self.last_id}
        return {**request, 'params': params} if params else request

    def _ask(self, document):
        self.sock.sendall(json.dumps(document).encode())
        return self._receive()

    @staticmethod
    def _result(method, reply):
        if 'error' in reply:
            raise BenchError(f"{method}: {reply['error'].get('message')}")
        return reply['result']

    def call(self, method, **params):
        return self._result(method, self._ask(self._request(method, params)))

    def batch(self, method, params_of_each):
        """One method many times, in one request."""
        for reply in self._ask([self._request(method, params) for params in params_of_each]):
            self._result(method, reply)

    def _receive(self):
        data = b''
        while True:
            part = self.sock.recv(65536)
            if not part:
                raise BenchError('the RPC socket was closed')
            data += part
            with contextlib.suppress(ValueError):
                return json.loads(data)


class Server:
    """A process that serves vhost-user sockets in a folder; its output goes to a log file."""

    def __init__(self, bench, command, folder):
        self.bench = bench
        self.dir = folder
        self.log_path = os.path.join(bench.dir, f'{self.name}.log')
        self.started = time.monotonic()
        with open(self.log_path, 'ab') as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)
        bench.servers.add(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    def socket(self, name='bench'):
        return os.path.join(self.dir, name)

    def wait_until(self, ready, seconds=20):
        """Calls ready() until it does not raise OSError, and returns what it returns."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ready()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f'{self.name} did not start ({error}): '
                                     f'{self.log_tail()}') from error
            time.sleep(0.0005)

    def log_tail(self):
        with open(self.log_path, encoding='utf-8', errors='replace') as log:
            return ' | '.join(line.strip() for line in log.readlines()[-3:])

    def stop(self):
        self.bench.servers.discard(self)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Vhostd(Server):
    """vhostd with an RPC connection. A folder that was one's before: it finds its state there."""

    name = 'vhostd'

    def __init__(self, bench, mode='poll', folder=None):
        folder = folder or tempfile.mkdtemp(dir=bench.dir)
        rpc_path = os.path.join(folder, 'rpc.sock')
        super().__init__(bench, [bench.program('vhostd'), '-l', str(bench.server_cpu), '-S', folder,
                                 '-r', rpc_path, '--mode', mode,
                                 '--state', os.path.join(folder, 'state.json')], folder)
        try:
            self.rpc = self.wait_until(lambda: Rpc(rpc_path))
            self.rpc.call('spdk_get_version')
        except (BenchError, OSError):
            super().stop()
            raise
        self.startup_ms = (time.monotonic() - self.started) * 1e3

    def create_disk(self, kind, path=None, name=None):
        if kind == 'nvmen1':
            self.rpc.call('bdev_nvme_attach_controller', name='nvme', trtype='VFIOUSER',
                          traddr=path)
            return
        if kind == 'file':
            self.rpc.call('bdev_uring_create', name=kind, filename=path, block_size=SECTOR)
            return
        size = NULL_SIZE if kind == 'null' else FILE_SIZE
        self.rpc.call(f'bdev_{kind}_create', name=name or kind, num_blocks=size // SECTOR,
                      block_size=SECTOR)

    def create_controller(self, kind, name='bench'):
        self.rpc.call('vhost_create_blk_controller', ctrlr=name, dev_name=kind, packed_ring=True)

    def create_scsi_controller(self, bdev, name='scsi'):
        self.rpc.call('vhost_create_scsi_controller', ctrlr=name)
        self.rpc.call('vhost_scsi_controller_add_target', ctrlr=name, scsi_target_num=0,
                      bdev_name=bdev)

    def set_mode(self, mode):
        self.rpc.call('framework_set_mode', mode=mode)

    def busy_ticks(self):
        return sum(r['busy'] for r in self.rpc.call('framework_get_reactors')['reactors'])

    def stop(self):
        self.rpc.close()
        super().stop()


class Qsd(Server):
    """qemu-storage-daemon with one export in an I/O thread."""

    name = 'qsd'

    def __init__(self, bench, kind, path=None):
        if not shutil.which(QSD):
            raise NotAvailable(f'{QSD} is not installed')
        folder = tempfile.mkdtemp(dir=bench.dir)
        blockdev = 'node-name=n0,driver='
        if kind == 'null':
            blockdev += f'null-co,size={NULL_SIZE}'
        else:
            blockdev += f'file,filename={path},cache.direct=on,aio=io_uring'
        super().__init__(bench, ['taskset', '-c', str(bench.server_cpu), QSD, '--blockdev',
                                 blockdev, '--object', 'iothread,id=io0', '--export',
                                 'type=vhost-user-blk,id=e0,node-name=n0,writable=on,'
                                 'iothread=io0,addr.type=unix,'
                                 f'addr.path={os.path.join(folder, "bench")}'], folder)
        try:
            self.wait_until(lambda: os.stat(self.socket()))
        except BenchError:
            self.stop()
            raise


class NvmeDevice(Server):
    """The software NVMe device, with a namespace that has no data, on the load's CPU."""

    name = 'nvme_device'

    def __init__(self, bench, *options):
        folder = tempfile.mkdtemp(dir=bench.dir)
        super().__init__(bench, ['taskset', '-c', str(bench.load_cpu), bench.program(self.name),
                                 '--socket', os.path.join(folder, 'bench'),
                                 '--control', os.path.join(folder, 'control'), *options,
                                 '-c', f'ns add 1 null {NULL_SIZE // 4096} 4096'], folder)
        try:
            self.wait_until(lambda: os.stat(self.socket()))
        except BenchError:
            self.stop()
            raise


class Guest:
    """vhost_load in the background; it prints lines of JSON."""

    def __init__(self, bench, *options):
        self.process = subprocess.Popen([bench.program('vhost_load'), '--json',
                                         *map(str, options)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, preexec_fn=die_with_parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def line(self, seconds=30):
        """The next line, as an object."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        text = self.process.stdout.readline() if ready else b''
        if not text:
            self.process.terminate()
            error = self.process.communicate()[1].decode().strip()
            raise BenchError(f'vhost_load: {error or "says nothing"}')
        return json.loads(text)


def idle_guests(bench, server, count):
    """That many of them, on the controllers idle0, idle1, ..., connected and started."""
    guest = Guest(bench, '--socket', server.socket('idle'), '--idle', count, '--seconds', 600)
    try:
        guest.line()
    except BenchError:
        guest.__exit__()
        raise
    return guest
