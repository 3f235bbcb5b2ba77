# SPDX-License-Identifier: BSD-3-Clause
# Completion of vhostctl's command lines in bash. What there is to complete is asked of the program itself: names of
# methods, commands and options are in its help, those of disks with the daemon.

# The commands and methods, one a line: "nvme list", "bdev_get_bdevs". The help has them at the start of lines; methods
# with one space or more behind, commands with two, and commas between several.
_vhostctl_commands() {
	"$1" --help 2>/dev/null | awk -F '  +' '
		/^[^ ].*:$/ { listed = 1 }
		!listed || !/^  [a-z]/ { next }
		{ first = $2; sub(/ .*/, "", first) }
		first ~ /_/ { print first; next }
		{
			count = split($2, names, ", ")
			for (i = 1; i <= count; i++)
				print i == 1 || names[i] ~ " " ? names[i] : first " " names[i]
		}'
}

# The options of a method or command, with what they take: "--readonly boolean", "-o FILE". Help of a method has a line
# for each; a command's are in the usage of all: "vhostctl [-s SOCKET] save-config [-o FILE]".
_vhostctl_options() {
	"$1" "$2" --help 2>/dev/null | command=$2 awk '
		BEGIN { command = ENVIRON["command"]; gsub(/-/, "_", command) }
		NR == 1 { name = $3; gsub(/-/, "_", name); is_method = name == command }
		is_method && /^  --/ { print $1, $2 }
		is_method { next }
		NF == 0 { exit }
		{
			gsub(/[][|]/, " ")
			i = 1
		}
		$1 == "usage:" || $1 == "vhostctl" {
			while (i <= NF && $i != ENVIRON["command"])
				i++
			is_named = i <= NF
		}
		is_named {
			for (; i <= NF; i++)
				if ($i ~ /^-/)
					print $i, $(i + 1) ~ /^-/ ? "" : $(i + 1)
		}'
}

# The first column of what a method answers.
_vhostctl_ask() {
	"${daemon[@]}" --timeout 1 "$1" 2>/dev/null | awk 'NR > 1 { print $1 }'
}

# The domains of libvirt, if it answers soon.
_vhostctl_domains() {
	timeout 2 virsh --quiet list --all --name 2>/dev/null
}

# What a parameter may be: method, parameter, type.
_vhostctl_values() {
	case $1:$2 in
	*:--ctrlr) _vhostctl_ask vhost_get_controllers ;;
	provision:--domain) _vhostctl_domains ;;
	*:--dev_name | *:--base_name | *:--base_bdev_name | *:--bdev_name) _vhostctl_ask bdev_get_bdevs ;;
	*_create:--name | *_attach_controller:--name) ;;
	bdev_nvme_*:--name) _vhostctl_ask bdev_nvme_get_controllers ;;
	bdev_*:--name) _vhostctl_ask bdev_get_bdevs ;;
	*) [[ $3 != boolean* ]] || printf '%s\n' true false ;;
	esac
}

# Offers the lines that begin with what there is. (Not compgen -W: it expands them, and a disk may have any name.)
_vhostctl_offer() {
	local line
	while IFS= read -r line; do
		[[ -z $line || $line != "$cur"* ]] || COMPREPLY+=("$(printf %q "$line")")
	done < <(sort -u <<<"$1")
}

_vhostctl_offer_files() {
	compopt -o filenames
	mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}

# Goes on to the command, at $at, and keeps the daemon's options.
_vhostctl_find_command() {
	local word
	while ((at < COMP_CWORD)); do
		word=${COMP_WORDS[at]}
		case $word in
		-s | --socket | -t | --timeout)
			[[ ${COMP_WORDS[at + 1]} != = ]] || ((at++))
			[[ $word != -s && $word != --socket ]] || daemon+=(-s "${COMP_WORDS[at + 1]}")
			((at += 2))
			;;
		-*) ((at++)) ;;
		*) break ;;
		esac
	done
}

_vhostctl() {
	local program=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local daemon=("$program") at=1 command options name type='' words=''
	COMPREPLY=()
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	_vhostctl_find_command
	if ((at > COMP_CWORD)); then
		[[ $prev != -s && $prev != --socket ]] || _vhostctl_offer_files
		return
	fi
	if ((at == COMP_CWORD)); then
		if [[ $cur == -* ]]; then
			words=$("$program" --help 2>/dev/null | grep -oE '^ +(-[a-z], +)?--[a-z]+' | grep -oE -- '--[a-z]+')
			words+=$'\n--help\n--version'
		else
			words=$(_vhostctl_commands "$program" | cut -d ' ' -f 1)
		fi
		_vhostctl_offer "$words"
		return
	fi
	command=${COMP_WORDS[at]}
	options=$(_vhostctl_options "$program" "$command")
	while read -r name words; do
		[[ $name != "$prev" ]] || type=$words
	done <<<"$options"
	words=
	if [[ -n $type && ($cur != -* || $type != boolean*) ]]; then
		case $prev in
		--filename | -o | --dir | --svg) _vhostctl_offer_files ;;
		*) _vhostctl_offer "$(_vhostctl_values "$command" "$prev" "$type")" ;;
		esac
		return
	fi
	if [[ $command == load[-_]config && $cur != -* ]]; then
		_vhostctl_offer_files
		return
	fi
	if [[ $cur != -* ]]; then
		case $command:$((COMP_CWORD - at)):${COMP_WORDS[at + 1]} in
		trace:* | bench:* | libvirt:2:xml | libvirt:3:attach | libvirt:3:detach | libvirt:3:check)
			_vhostctl_offer "$(_vhostctl_ask vhost_get_controllers)"
			return
			;;
		libvirt:2:attach | libvirt:2:detach | libvirt:2:check)
			_vhostctl_offer "$(_vhostctl_domains)"
			return
			;;
		esac
	fi
	if ((at == COMP_CWORD - 1)); then
		words=$(_vhostctl_commands "$program" | awk -v "command=$command" '
			command == "call" && / *_/ { print }
			$1 == command && NF > 1 { print $2 }')
	fi
	if [[ -z $words || $cur == -* ]]; then
		words=$(cut -d ' ' -f 1 <<<"$options")$'\n--help\n--json'
	fi
	_vhostctl_offer "$words"
}

complete -F _vhostctl vhostctl
