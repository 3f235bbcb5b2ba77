#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds the Debian package of this tree. Nothing is written outside of OUT.
#
#   packaging/build-deb.sh OUT
#
#   OUT  gets vhostd_VERSION_amd64.deb, and keeps what the next run can use again

set -eu

[ $# -eq 1 ] || { sed -n '/^$/q; s/^# \{0,1\}//; 4,$p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

version=$(sed -n 's/^VERSION := //p' "$root/Makefile")
packaged=$(dpkg-parsechangelog -l "$root/packaging/debian/changelog" -S Version)
if [ "$version" != "$packaged" ]; then
	echo "build-deb: Makefile has version $version, packaging/debian/changelog $packaged" >&2
	exit 1
fi

rm -rf "$out/source" "$out"/vhostd*.deb
mkdir "$out/source"
tar -C "$root" --exclude=./.git --exclude='./build*' --exclude=./run -cf - . | tar -C "$out/source" -xf -
cd "$out/source"
cp -r packaging/debian debian
depends=$(sed 's/#.*//' packaging/deps-build.txt packaging/deps-deb.txt | xargs | sed 's/ /, /g')
sed -i "s/@BUILD_DEPENDS@/$depends/" debian/control

# Debian's flags, not those of whoever calls this: "make SANITIZE=..." is no package.
env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u CFLAGS -u CPPFLAGS -u LDFLAGS -u SANITIZE -u BUILD \
	dpkg-buildpackage --build=binary --no-sign --jobs="$(nproc)"
cd "$out"
rm -rf source
ls vhostd_*.deb >/dev/null
echo "$out/$(ls vhostd_*.deb)"
