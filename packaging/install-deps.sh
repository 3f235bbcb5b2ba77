#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Installs the Debian packages of the given groups that are missing, with sudo if needed; with
# nothing missing it changes nothing and needs no root.
#
#   packaging/install-deps.sh GROUP...
#
#   build, test, bench, fuzz, deb
#                        the packages listed in packaging/deps-GROUP.txt
#   guest-kernel         downloads (and does not install) the kernel of the test guest into
#                        $GUEST_DIR, by default build/guest; part of test as well

set -eu

here=$(cd "$(dirname "$0")" && pwd)
guest_dir=${GUEST_DIR:-$here/../build/guest}
updated=

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "install-deps: neither root nor sudo; run as root: $*" >&2
		return 1
	fi
}

# Refreshes the package lists, once. Another apt-get may hold their lock, for which apt has no
# timeout.
update_lists() {
	[ -z "$updated" ] || return 0
	for pause in 2 5 10 20 0; do
		if as_root apt-get update -q; then
			updated=yes
			return 0
		fi
		sleep "$pause"
	done
	return 1
}

# Prints those of the given packages that are not installed.
missing_packages() {
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
	awk '
		BEGIN { for (i = 1; i < ARGC; i++) wanted[ARGV[i]]; ARGC = 1 }
		$1 == "installed" { delete wanted[$2] }
		END { for (name in wanted) print name }' "$@"
}

install_packages() {
	missing=$(missing_packages "$@" | sort)
	[ -n "$missing" ] || return 0
	# shellcheck disable=SC2086 # one word a package
	echo "install-deps: installing" $missing
	update_lists
	# shellcheck disable=SC2086 # one word a package
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
		--no-install-recommends -o DPkg::Lock::Timeout=300 $missing
}

# Downloads the package that linux-image-cloud-amd64 stands for into the given folder.
download_kernel() {
	package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		awk '$1 == "Depends:" { print $2; exit }')
	# As root apt would warn that its own user cannot write here.
	[ -n "$package" ] && (cd "$1" && apt-get download -q -o APT::Sandbox::User=root "$package")
}

guest_kernel() {
	set -- "$guest_dir"/linux-image-*.deb
	[ ! -e "$1" ] || return 0
	echo "install-deps: downloading the test guest's kernel"
	mkdir -p "$guest_dir"
	temporary=$(mktemp -d "$guest_dir/download-XXXXXX")
	trap 'rm -rf "$temporary"' EXIT
	# Lists that are missing or older than the archive do not know the current package.
	download_kernel "$temporary" || { update_lists && download_kernel "$temporary"; }
	mv "$temporary"/linux-image-*.deb "$guest_dir"
}

[ $# -gt 0 ] || { sed -n '/^$/q; s/^# \{0,1\}//; 4,$p' "$0" >&2; exit 2; }

packages=
kernel=
for group; do
	case $group in
	build | test | bench | fuzz | deb) packages="$packages $(sed 's/#.*//' "$here/deps-$group.txt")" ;;
	guest-kernel) ;;
	*) echo "install-deps: no group $group" >&2; exit 2 ;;
	esac
	case $group in
	test | guest-kernel) kernel=yes ;;
	esac
done
# shellcheck disable=SC2086 # one word a package
[ -z "$packages" ] || install_packages $packages
[ -z "$kernel" ] || guest_kernel
