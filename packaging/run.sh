#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Serves one disk in the foreground, and prints how a guest gets it. Ctrl-C stops it; the next run
# serves the same data.
#
#   packaging/run.sh BUILD RUN_DIR
#
#   BUILD    the folder with bin/vhostd
#   RUN_DIR  made if it is missing; gets disk0.img (1 GiB, sparse), the state and the sockets

set -eu

[ $# -eq 2 ] || { sed -n '/^$/q; s/^# \{0,1\}//; 4,$p' "$0" >&2; exit 2; }
mkdir -p "$2"
bin=$(cd "$1/bin" && pwd)
run=$(cd "$2" && pwd)

# A socket's path may have 107 bytes, and the daemon needs some of them for names of its own.
sockets=$run
if [ "$(printf %s "$run" | wc -c)" -gt 80 ]; then
	sockets=/tmp/vhostd-run-$(id -u)-$(printf %s "$run" | cksum | tr -d ' ')
	mkdir -m 0700 "$sockets" 2>/dev/null || [ -d "$sockets" ]
	if [ ! -O "$sockets" ] || [ -L "$sockets" ]; then
		echo "$sockets belongs to somebody else" >&2
		exit 1
	fi
	echo "The path of $run is too long for sockets; they are in $sockets."
fi
mkdir -p "$sockets/vhost"

[ -e "$run/disk0.img" ] || truncate -s 1G "$run/disk0.img"

json() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }
xml() { printf %s "$1" | sed "s/&/\&amp;/g; s/</\&lt;/g; s/'/\&apos;/g"; }
# A value in a QEMU option, in a shell.
qemu() { printf "'%s'" "$(printf %s "$1" | sed "s/,/,,/g; s/'/'\\\\''/g")"; }

# The state knows the disk from the second run on, and what else has been made meanwhile.
set -- --socket-dir "$sockets/vhost" --rpc-socket "$sockets/rpc.sock" --state "$run/state.json"
if [ ! -e "$run/state.json" ]; then
	cat > "$run/first-run.json" <<-END
	{"subsystems": [
	  {"subsystem": "bdev", "config": [
	    {"method": "bdev_uring_create",
	     "params": {"name": "disk0", "filename": "$(json "$run/disk0.img")"}}]},
	  {"subsystem": "vhost", "config": [
	    {"method": "vhost_create_blk_controller",
	     "params": {"ctrlr": "disk0", "dev_name": "disk0"}}]}
	]}
	END
	set -- "$@" --config "$run/first-run.json"
fi

cat <<END
QEMU command line:
qemu-system-x86_64 -machine q35 -accel kvm -accel tcg -m 1G \\
    -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\
    -chardev socket,id=disk0,path=$(qemu "$sockets/vhost/disk0"),reconnect=1 \\
    -device vhost-user-blk-pci,chardev=disk0

libvirt XML:
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw'/>
  <source type='unix' path='$(xml "$sockets/vhost/disk0")'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target dev='vda' bus='virtio'/>
</disk>

Add a disk or kernel to boot from; the guest sees this one as /dev/vda.
More disks: $bin/vhostctl -s $sockets/rpc.sock --help
Ctrl-C stops the daemon.

END
exec "$bin/vhostd" "$@"
