#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The guest's only process of its own: sets the system up, then runs the scripts that the test
# sends over the second serial port. Each comes as a line with a word that is not in the script,
# the script, and that word again; back go its output and a line with the word and exit status.

export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
while read -r module; do
	insmod "/modules/$module.ko"
done < /modules/order

port=/dev/ttyS1
stty -F $port raw -echo
exec <$port >$port
echo READY
while read -r word; do
	while IFS= read -r line && [ "$line" != "$word" ]; do
		printf '%s\n' "$line"
	done > /tmp/script
	sh -eu /tmp/script </dev/null 2>&1
	printf '\n%s %s\n' "$word" $?
done
poweroff -f
