#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Prints a manual page with its list of methods as "vhostctl --help" has it.
#
#   vhostctl --help | packaging/man-methods.sh docs/man/vhostctl.1
#
# The list is between lines of comments that begin and end it.

set -eu

[ $# -eq 1 ] || { sed -n '/^$/q; s/^# \{0,1\}//; 4,$p' "$0" >&2; exit 2; }

awk '
	function roff(text) {
		gsub(/\\/, "\\e", text)
		gsub(/-/, "\\-", text)
		return text
	}
	FNR == NR && /^[^ ].*:$/ { room = $0; next }
	FNR == NR && /^  [a-z]/ && room != "" && room != "Commands:" {
		if (room != last)
			list = list ".SS " roff(substr(room, 1, length(room) - 1)) "\n"
		last = room
		name = $1
		sub(/^ *[^ ]+ +/, "")
		list = list ".TP\n.B " roff(name) "\n" roff($0) "\n"
		next
	}
	FNR == NR { next }
	/^\.\\" end of methods/ { skip = 0 }
	!skip
	/^\.\\" methods:/ { printf "%s", list; skip = 1 }
' - "$1"
