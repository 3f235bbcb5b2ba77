# SPDX-License-Identifier: BSD-3-Clause
# Completion of vhostd's command lines in bash. What there is to complete is asked of the program itself: its help has a
# line for each option, with what it takes: "      --mode MODE           poll: spin; adaptive: ...".

# The line of an option: "-l --cpus LIST CPUs that ...", "--syslog log to ...".
_vhostd_row() {
	"$1" --help 2>/dev/null | awk -v "option=$2" '
		/^  .*--/ {
			gsub(/,/, "", $1)
			for (i = 1; i <= NF && $i ~ /^-/; i++)
				if ($i == option) {
					$1 = $1
					print
					exit
				}
		}'
}

_vhostd_options() {
	"$1" --help 2>/dev/null | grep -oE '^  (-[a-zA-Z],| )? +--[a-z-]+' | grep -oE -- '--[a-z-]+'
}

# Offers the lines that begin with what there is.
_vhostd_offer() {
	local line
	while IFS= read -r line; do
		[[ -z $line || $line != "$cur"* ]] || COMPREPLY+=("$line")
	done < <(sort -u <<<"$1")
}

# Files, or with -d folders.
_vhostd_offer_files() {
	compopt -o filenames
	mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}

# What an option may be: its line as above. Names of values are in its text: "poll: ...; adaptive: ...", "ERROR, ...".
_vhostd_offer_values() {
	local row=$1 argument
	argument=$(grep -oE '^(-[^ ]* )+[A-Z]+ ' <<<"$row" | awk '{ print $NF }')
	case $argument in
	DIR) _vhostd_offer_files -d ;;
	PATH | FILE) _vhostd_offer_files -f ;;
	ADDRESS)
		compopt -o nospace
		_vhostd_offer $'unix:\n127.0.0.1:'
		;;
	MODE) _vhostd_offer "$(grep -oE '[a-z]+:' <<<"$row" | tr -d :)" ;;
	LEVEL) _vhostd_offer "$(grep -oE '[A-Z]+' <<<"${row#*LEVEL}")" ;;
	# --user, --group: compgen -u, compgen -g
	NAME) mapfile -t COMPREPLY < <(compgen -"${row:2:1}" -- "$cur") ;;
	'') return 1 ;;
	esac
}

_vhostd() {
	local program=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} row
	COMPREPLY=()
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	# Behind "--metrics unix:", which are words of their own.
	if [[ $cur == : || $prev == : ]]; then
		cur=${cur#:}
		_vhostd_offer_files -f
		return
	fi
	row=$(_vhostd_row "$program" "$prev")
	if [[ -z $row ]] || ! _vhostd_offer_values "$row"; then
		_vhostd_offer "$(_vhostd_options "$program")"
	fi
}

complete -F _vhostd vhostd
