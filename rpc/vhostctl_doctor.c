/* SPDX-License-Identifier: BSD-3-Clause */
/* doctor: looks at this machine and says what will hurt. */
#include "vhostctl_doctor.h"

#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhostctl_options.h"

static const char *const health_names[] = {
	[HEALTH_OK] = "ok",
	[HEALTH_NOTE] = "note",
	[HEALTH_BAD] = "bad",
};

/* ---- what checks read ---- */

static FILE *
open_file(const struct patient *patient, const char *file)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", patient->root, file) >= (int)sizeof(path))
		return NULL;
	return fopen(path, "re");
}

bool
doctor_field(const struct patient *patient, const char *file, const char *key, char *text,
	     size_t size)
{
	FILE *stream = open_file(patient, file);
	char line[1024];
	bool found = false;

	while (stream != NULL && !found && fgets(line, sizeof(line), stream) != NULL) {
		const char *rest = line + strlen(key);

		if (strncmp(line, key, strlen(key)) != 0)
			continue;
		rest += strspn(rest, " \t");
		snprintf(text, size, "%.*s", (int)strcspn(rest, "\n"), rest);
		found = true;
	}
	if (stream != NULL)
		fclose(stream);
	return found;
}

bool
doctor_read(const struct patient *patient, const char *file, char *text, size_t size)
{
	return doctor_field(patient, file, "", text, size);
}

long long
doctor_number(const struct patient *patient, const char *file)
{
	long long number;
	char text[64];

	if (!doctor_read(patient, file, text, sizeof(text)) || sscanf(text, "%lld", &number) != 1)
		return -1;
	return number;
}

void
doctor_proc_file(const struct patient *patient, const char *name, char *path, size_t size)
{
	if (patient->pid > 0)
		snprintf(path, size, "proc/%ld/%s", patient->pid, name);
	else
		snprintf(path, size, "proc/self/%s", name);
}

/* ---- what the daemon says ---- */

/*
 * The daemon's process as this PID namespace has it, or 0 when it has not: the number that the
 * daemon of a container gives itself may be another process here.
 */
static long
find_pid(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return 0;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	close(fd);
	return peer.pid;
}

static void
take_reactors(struct patient *patient, json_t *answer)
{
	json_t *reactor;
	size_t i;

	json_array_foreach (json_object_get(answer, "reactors"), i, reactor) {
		const char *mode = json_string_value(json_object_get(reactor, "mode"));
		json_int_t core = json_integer_value(json_object_get(reactor, "lcore"));

		if (core >= 0 && core < CPUMASK_CPUS)
			cpumask_set(&patient->reactors, (uint32_t)core);
		patient->polls |= mode != NULL && strcmp(mode, "poll") == 0;
	}
}

static void
take_sockets(struct patient *patient, json_t *controllers)
{
	json_t *controller;
	size_t i;

	json_array_foreach (controllers, i, controller) {
		json_t *socket = json_object_get(controller, "socket");

		if (json_is_string(socket))
			json_array_append(patient->sockets, socket);
	}
}

static void
ask_daemon(const struct vhostctl_opts *opts, struct patient *patient)
{
	const struct ctl_question questions[] = {
		{"framework_get_reactors", NULL},
		{"vhost_get_controllers", NULL},
	};
	json_t *answers[2] = {0};
	struct errmsg err;

	patient->sockets = json_array();
	if (ctl_call_all(opts, questions, 2, answers, &err) != STATUS_OK) {
		snprintf(patient->why, sizeof(patient->why), "%s", err.text);
		return;
	}
	patient->answers = true;
	patient->pid = find_pid(opts->socket);
	take_reactors(patient, answers[0]);
	take_sockets(patient, answers[1]);
	json_decref(answers[0]);
	json_decref(answers[1]);
}

/* ---- the report ---- */

static void
print_finding(const struct check *check, enum health health, const char *finding)
{
	printf("%-4s  %-15s %s\n", health_names[health], check->name, finding);
	if (health == HEALTH_OK)
		return;
	printf("%23s%s\n", "", check->meaning);
	printf("%23s→ %s\n", "", check->mend);
}

static json_t *
describe_finding(const struct check *check, enum health health, const char *finding)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s}", "check", check->name, "state",
			 health_names[health], "finding", finding, "meaning", check->meaning,
			 "mend", check->mend);
}

/* What files hold may be anything; a terminal and JSON take text. */
static void
make_printable(char *text)
{
	for (; *text != '\0'; text++) {
		if (*text < ' ' || *text > '~')
			*text = '?';
	}
}

static unsigned int
examine(const struct patient *patient, bool json)
{
	json_t *findings = json_array();
	unsigned int bad = 0;

	for (size_t i = 0; i < doctor_check_count; i++) {
		const struct check *check = &doctor_checks[i];
		char finding[FINDING_MAX] = "";
		enum health health = check->look(patient, finding);

		make_printable(finding);
		bad += health == HEALTH_BAD;
		json_array_append_new(findings, describe_finding(check, health, finding));
		if (!json)
			print_finding(check, health, finding);
	}
	if (json)
		ctl_print_json(findings);
	json_decref(findings);
	return bad;
}

enum vhostctl_status
ctl_doctor(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	struct patient patient = {.root = "", .socket = opts->socket};
	const struct ctl_option options[] = {
		{"--root", CTL_TEXT, &patient.root, 0, 0},
		{NULL, CTL_FLAG, NULL, 0, 0},
	};
	enum vhostctl_status status = ctl_parse_options("doctor", options, args, NULL, err);
	unsigned int bad;

	if (status != STATUS_OK)
		return status;
	ask_daemon(opts, &patient);
	bad = examine(&patient, opts->json);
	json_decref(patient.sockets);
	if (bad > 0)
		return err_set(err, STATUS_FAILED, "doctor: %u thing%s here hurt%s", bad,
			       bad == 1 ? "" : "s", bad == 1 ? "s" : "");
	return STATUS_OK;
}
