#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# A second machine in namespaces, with systemd as its init: this one's programs and configuration, with what is
# written there kept apart. It ends with the process that runs this.
#
#   unshare --fork --kill-child --pid --mount --cgroup --uts --ipc --net tests/integration/package_machine.sh FOLDER
#
#   FOLDER  empty; FOLDER/root is the machine's root, FOLDER/written what it has written to /etc, /usr and /var

set -eu

[ $# -eq 1 ] || { sed -n '/^$/q; s/^# \{0,1\}//; 4,$p' "$0" >&2; exit 2; }
root=$1/root
mount --make-rprivate /
mkdir "$root" "$1/written" "$1/work"
mount --bind "$root" "$root"
cd "$root"
mkdir dev home mnt proc root run srv sys tmp
chmod 1777 tmp
for link in bin lib lib64 sbin; do
	ln -s "usr/$link" "$link"
done
for folder in etc usr var; do
	mkdir "$folder" "$1/written/$folder" "$1/work/$folder"
	mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$1/written/$folder,workdir=$1/work/$folder" "$folder"
done

# What belongs to the machine's kernel cannot be changed from here.
mount -t proc proc proc
mount --bind -o ro proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for device in full null random tty urandom zero; do
	: > "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm
mount -t tmpfs tmpfs dev/shm

# Nothing is started but what a test asks for, and nobody forbids that.
rm -rf etc/systemd/system/* usr/lib/systemd/system/*.wants usr/sbin/policy-rc.d
# A daemon of this machine is none of that one's business.
rm -rf var/lib/vhostd
: > etc/machine-id
# The index of manuals takes long.
rm -f var/lib/man-db/auto-update
mkdir -p run/systemd/system/vhostd.service.d
printf '[Service]\nStandardError=append:/tmp/vhostd.log\n' > run/systemd/system/vhostd.service.d/log.conf
printf '[Unit]\nDefaultDependencies=no\n' > run/systemd/system/nothing.target

busybox ip link set lo up
mkdir old
pivot_root . old
umount -l old
rmdir old
exec env -i container=vhostd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --system --unit=nothing.target --log-target=null </dev/null >/dev/null 2>&1
