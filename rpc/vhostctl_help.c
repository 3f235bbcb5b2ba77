/* SPDX-License-Identifier: BSD-3-Clause */
/* Help and docs/rpc.md, from the schemas. */
#include <inttypes.h>
#include <string.h>

#include "rpc.h"
#include "vhostctl.h"

static const char *const type_names[] = {
	[RPC_STRING] = "string",    [RPC_BOOL] = "boolean",    [RPC_INT] = "integer",
	[RPC_CPUMASK] = "CPU mask", [RPC_STRINGS] = "strings", [RPC_NAMES] = "string or strings",
	[RPC_JSON] = "any JSON",
};

void
ctl_print_usage(FILE *file)
{
	fputs("usage: vhostctl [-s SOCKET] [--json] [--timeout SECONDS] METHOD [--PARAM VALUE "
	      "...]\n"
	      "       vhostctl [-s SOCKET] save-config [-o FILE]\n"
	      "       vhostctl [-s SOCKET] load-config FILE\n"
	      "       vhostctl [-s SOCKET] call METHOD [JSON]\n"
	      "       vhostctl nvme list | bind ADDRESS | unbind ADDRESS\n"
	      "       vhostctl libvirt xml CTRLR [--target vdb] [--queues N]\n"
	      "       vhostctl libvirt attach DOMAIN CTRLR [--persistent] [--target vdb] [--queues "
	      "N]\n"
	      "       vhostctl libvirt detach DOMAIN CTRLR|SOCKET | check DOMAIN [CTRLR] | list\n"
	      "       vhostctl provision --size 10G --domain DOMAIN --name NAME [--dir FOLDER]\n"
	      "       vhostctl [-s SOCKET] top [--once] [--interval SECONDS] [--sort COLUMN] "
	      "[--reverse]\n"
	      "                [--filter TEXT]\n"
	      "       vhostctl [-s SOCKET] trace CONTROLLER [--slower-than US] [--follow] [--count "
	      "N]\n"
	      "       vhostctl [-s SOCKET] bench CONTROLLER|SOCKET [--rw KIND] [--write] [--bs "
	      "BYTES]\n"
	      "                [--qd N] [--queues N] [--threads N] [--cpu LIST] [--seconds S] "
	      "[--ramp S]\n"
	      "                [--packed] [--event-idx] [--poll] [--svg FILE]\n"
	      "       vhostctl [-s SOCKET] doctor\n"
	      "       vhostctl METHOD --help | --help | --version\n",
	      file);
}

static int
first_sentence(const char *text)
{
	const char *end = strstr(text, ". ");

	return end != NULL ? (int)(end + 1 - text) : (int)strcspn(text, "\n");
}

void
ctl_print_help(void)
{
	ctl_print_usage(stdout);
	puts("\n"
	     "  -s, --socket SOCKET     of the daemon; default: $" SOCKET_ENV ", or\n"
	     "                          $XDG_RUNTIME_DIR/vhostd/rpc.sock if it is there, or\n"
	     "                          " DEFAULT_SOCKET "\n"
	     "      --json              print answers as JSON instead of tables\n"
	     "  -t, --timeout SECONDS   how long one call may take; default: 60\n"
	     "      --markdown          print the reference of all methods (docs/rpc.md)\n"
	     "\n"
	     "Commands:\n"
	     "  save-config             Print the configuration, or write it to a file.\n"
	     "  load-config             Make the configuration of a file (\"-\": standard input).\n"
	     "  call                    Call any method with parameters in JSON.\n"
	     "  nvme list               Show this machine's NVMe devices, their drivers and "
	     "users.\n"
	     "  nvme bind, nvme unbind  Give a device to programs (vfio-pci), or back to the "
	     "kernel.\n"
	     "  libvirt xml             Print what a libvirt domain needs for a controller.\n"
	     "  libvirt attach, detach  Give a domain a controller as a disk, or take it away.\n"
	     "  libvirt check           Say what a domain or a controller's socket lacks.\n"
	     "  libvirt list            Show which domain uses which controller.\n"
	     "  provision               Make an image, a block device and a controller, and attach "
	     "it.\n"
	     "                          libvirt commands take --connect URI; default: libvirt's "
	     "own.\n"
	     "  top                     Show what controllers and reactors do, every second.\n"
	     "  trace                   Show a controller's last slow requests, stage by stage.\n"
	     "  bench                   Measure a controller that no guest uses.\n"
	     "  doctor                  Say what on this machine hurts, and how to mend it.");
	for (size_t i = 0; rpc_all_schemas[i] != NULL; i++) {
		const struct rpc_schema *schema = rpc_all_schemas[i];

		printf("\n%s:\n", schema->room);
		for (; schema->name != NULL; schema++)
			printf("  %-30s %.*s\n", schema->name, first_sentence(schema->help),
			       schema->help);
	}
}

/* "512 to 65536", "at least 1", or nothing. */
static void
format_range(const struct rpc_param *param, char *text, size_t size)
{
	text[0] = '\0';
	if (param->type != RPC_INT)
		return;
	if (param->max == INT64_MAX)
		snprintf(text, size, "at least %" PRId64, param->min);
	else
		snprintf(text, size, "%" PRId64 " to %" PRId64, param->min, param->max);
}

/* What an absent parameter means, where that is a value. */
static void
format_default(const struct rpc_param *param, char *text, size_t size)
{
	text[0] = '\0';
	if (param->required)
		return;
	if (param->type == RPC_INT)
		snprintf(text, size, "%" PRId64, param->preset);
	else if (param->type == RPC_BOOL)
		snprintf(text, size, "%s", param->preset ? "true" : "false");
}

void
ctl_print_method_usage(FILE *file, const struct rpc_schema *schema)
{
	fprintf(file, "usage: vhostctl %s", schema->name);
	for (size_t i = 0; i < schema->param_count; i++) {
		const struct rpc_param *param = &schema->params[i];
		const char *value = param->type == RPC_BOOL ? "" : " VALUE";

		fprintf(file, param->required ? " --%s%s" : " [--%s%s]", param->name, value);
	}
	fputs("\n", file);
}

void
ctl_print_method_help(const struct rpc_schema *schema)
{
	ctl_print_method_usage(stdout, schema);
	printf("\n%s\n", schema->help);
	for (size_t i = 0; i < schema->param_count; i++) {
		const struct rpc_param *param = &schema->params[i];
		char range[64], preset[32];

		format_range(param, range, sizeof(range));
		format_default(param, preset, sizeof(preset));
		printf("%s  --%-18s %s%s%s%s%s%s; %s\n", i == 0 ? "\n" : "", param->name,
		       type_names[param->type], *range ? " " : "", range,
		       *preset ? ", default " : "", preset, param->required ? ", required" : "",
		       param->help);
	}
}

/* ---- docs/rpc.md ---- */

static const char markdown_head[] =
	"# JSON-RPC methods\n"
	"\n"
	"<!-- Made by `make docs` from the tables in rpc/schema_*.c. -->\n"
	"\n"
	"`vhostd` answers [JSON-RPC 2.0](https://www.jsonrpc.org/specification) on a Unix stream "
	"socket\n"
	"(`" DEFAULT_SOCKET
	"`, or what `-r` says). Requests follow one another with nothing between them; each\n"
	"answer ends with a newline. `params` is an object and may be absent. Batches (at most "
	"1024 requests) and\n"
	"notifications work as in the specification. A connection's requests run one after the "
	"other; connections do\n"
	"not wait for each other. A request may have 4 MiB and be nested 32 deep, and 128 clients "
	"may be connected.\n"
	"What is not JSON is answered with -32700, and the connection is closed.\n"
	"\n"
	"A method that changes the configuration answers when the change is in the state journal. "
	"If it cannot be written\n"
	"there, the answer is that error, and the change holds until the daemon ends; the next "
	"change, or the same call\n"
	"once more, writes it.\n"
	"\n"
	"An error has a code and a message that names the object:\n"
	"\n"
	"| code | meaning |\n"
	"|---|---|\n"
	"| -32700 | the request is not JSON, has a name twice or a number beyond 64 bits, is too "
	"large or nested too deep |\n"
	"| -32600 | the JSON is not a request |\n"
	"| -32601 | no method has that name |\n"
	"| -32602 | a parameter is missing, unknown, of the wrong type or out of range |\n"
	"| -32603 | the daemon failed |\n"
	"| -1 | the method cannot be called in this state (before or after `framework_start_init`) "
	"|\n"
	"| other | a negative errno: -2 no such file, -12 no memory, -16 in use, -17 exists, -19 "
	"no such device, "
	"-22 invalid, ... |\n"
	"\n"
	"Each method is also a command: `vhostctl METHOD --param value`.\n";

static const char *
state_text(unsigned int flags)
{
	if ((flags & RPC_STARTUP) && (flags & RPC_RUNTIME))
		return "at any time";
	return flags & RPC_STARTUP ? "before the subsystems are started"
				   : "when the subsystems run";
}

/* In a table cell '|' would end it. */
static void
print_cell(const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '|')
			putchar('\\');
		putchar(*text);
	}
}

static void
print_param_rows(const struct rpc_schema *schema)
{
	puts("\n| parameter | type | default | meaning |\n|---|---|---|---|");
	for (size_t i = 0; i < schema->param_count; i++) {
		const struct rpc_param *param = &schema->params[i];
		char range[64], preset[32];

		format_range(param, range, sizeof(range));
		format_default(param, preset, sizeof(preset));
		printf("| `%s` | %s%s%s | %s | ", param->name, type_names[param->type],
		       *range ? ", " : "", range, param->required ? "required" : preset);
		print_cell(param->help);
		puts(" |");
	}
}

static void
print_method_markdown(const struct rpc_schema *schema)
{
	const char *errors = strstr(schema->help, "\nErrors:");
	int len = errors != NULL ? (int)(errors - schema->help) : (int)strlen(schema->help);

	printf("\n### %s\n\n%.*s\n", schema->name, len, schema->help);
	if (errors != NULL)
		printf("\n%s\n", errors + 1);
	printf("\nMay be called %s.%s", state_text(schema->flags),
	       schema->flags & RPC_CHANGES
		       ? " Changes the configuration: it is saved before the answer."
		       : "");
	if (schema->alias != NULL)
		printf(" Old name: `%s`.", schema->alias);
	puts("");
	if (schema->param_count > 0)
		print_param_rows(schema);
	else
		puts("\nNo parameters.");
}

void
ctl_print_markdown(void)
{
	fputs(markdown_head, stdout);
	for (size_t i = 0; rpc_all_schemas[i] != NULL; i++) {
		const struct rpc_schema *schema = rpc_all_schemas[i];

		printf("\n## %s\n", schema->room);
		for (; schema->name != NULL; schema++)
			print_method_markdown(schema);
	}
}
