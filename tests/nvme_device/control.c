/* SPDX-License-Identifier: BSD-3-Clause */
/* The control socket: one line in, one line out; see main.c for what there is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

#define MAX_WORDS 16
#define WORDS     " \t\r\n"

struct words {
	char *words[MAX_WORDS];
	uint32_t count;
};

static bool
wrong(FILE *answer, const char *what)
{
	fprintf(answer, "error %s\n", what);
	return false;
}

static bool
ok(FILE *answer)
{
	fputs("ok\n", answer);
	return true;
}

/* A word that is a number from 0 to maximum, in any base of C. */
static bool
number(const char *word, uint64_t maximum, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(word, &end, 0);
	return word[0] != '\0' && word[0] != '-' && *end == '\0' && errno == 0 && *value <= maximum;
}

static bool
word_number(const struct words *words, uint32_t index, uint64_t maximum, uint64_t *value)
{
	return index < words->count && number(words->words[index], maximum, value);
}

/* ---- settings ---- */

static const struct {
	const char *name;
	size_t offset;
	uint64_t minimum;
	uint64_t maximum;
} setting_table[] = {
#define SETTING(name, field, minimum, maximum)                                                     \
	{                                                                                          \
		name, offsetof(struct settings, field), minimum, maximum                           \
	}
	SETTING("queues", queues, 1, MAX_QUEUES - 1),
	SETTING("vectors", vectors, 0, MAX_VECTORS),
	SETTING("mdts", mdts, 0, 255),
	SETTING("noiob", noiob, 0, 0xffff),
	SETTING("sgl", sgl, 0, 1),
	SETTING("cache", cache, 0, 1),
	SETTING("fused", fused, 0, 1),
	SETTING("dbbuf", dbbuf, 0, 1),
	SETTING("oncs", oncs, 0, 0xffff),
	SETTING("ready", ready, 0, 1),
	SETTING("ready-ms", ready_ms, 0, 600000),
	SETTING("shutdown", shutdown, 0, 1),
	SETTING("listen", listen, 0, 1),
	SETTING("temperature", temperature, 0, 0xffff),
	SETTING("cap-mqes", mqes, 0, 0xffff),
	SETTING("cap-to", timeout, 0, 255),
	SETTING("cap-dstrd", stride, 0, 15),
	SETTING("cap-mpsmin", mpsmin, 0, 15),
	SETTING("cap-mpsmax", mpsmax, 0, 15),
	SETTING("cap-css", css, 0, 255),
};

static void
apply_settings(struct device *dev)
{
	if (dev->settings.listen)
		server_listen(dev);
	else
		server_stop_listening(dev);
	pci_config_init(dev);
	if (dev->settings.temperature >=
		    dev->controller.features.values[NVME_FEAT_FID_TEMP_THRESH] &&
	    (dev->controller.features.values[NVME_FEAT_FID_ASYNC_EVENT] &
	     NVME_SMART_CRIT_TEMPERATURE) != 0)
		event_raise(dev, NVME_AER_SMART, NVME_AER_SMART_TEMPERATURE_THRESHOLD,
			    NVME_LOG_LID_SMART);
}

static bool
run_set(struct device *dev, const struct words *words, FILE *answer)
{
	uint64_t value;

	for (size_t i = 0; i < sizeof(setting_table) / sizeof(*setting_table); i++) {
		if (words->count != 3 || strcmp(setting_table[i].name, words->words[1]) != 0)
			continue;
		if (!word_number(words, 2, setting_table[i].maximum, &value) ||
		    value < setting_table[i].minimum)
			return wrong(answer, "the value is out of range");
		memcpy((uint8_t *)&dev->settings + setting_table[i].offset, &value, sizeof(value));
		apply_settings(dev);
		return ok(answer);
	}
	return wrong(answer, "set NAME VALUE");
}

/* ---- namespaces and identify ---- */

static bool
run_ns_add(struct device *dev, const struct words *words, FILE *answer)
{
	uint64_t nsid, blocks, block_size;
	char error[256];

	if (words->count < 6 || words->count > 7 || !word_number(words, 2, UINT32_MAX, &nsid) ||
	    !word_number(words, 4, UINT64_MAX, &blocks) ||
	    !word_number(words, 5, UINT32_MAX, &block_size))
		return wrong(answer, "ns add NSID null|memory|file BLOCKS BLOCK_SIZE [PATH]");
	if (!namespace_add(dev, (uint32_t)nsid, words->words[3], blocks, (uint32_t)block_size,
			   words->count == 7 ? words->words[6] : NULL, error, sizeof(error)))
		return wrong(answer, error);
	device_namespace_changed(dev, (uint32_t)nsid);
	return ok(answer);
}

static bool
run_ns(struct device *dev, const struct words *words, FILE *answer)
{
	const char *what = words->count > 1 ? words->words[1] : "";
	struct nvme_ns *ns = NULL;
	uint64_t value;

	if (strcmp(what, "add") == 0)
		return run_ns_add(dev, words, answer);
	if (word_number(words, 2, MAX_NAMESPACES, &value))
		ns = namespace_find(dev, (uint32_t)value);
	if (ns == NULL)
		return wrong(answer, "no such namespace");
	if (strcmp(what, "remove") == 0 && words->count == 3) {
		namespace_remove(dev, ns);
		return ok(answer);
	}
	if (strcmp(what, "resize") != 0 || !word_number(words, 3, UINT64_MAX, &value) ||
	    !namespace_resize(dev, ns, value))
		return wrong(answer,
			     "ns remove NSID | ns resize NSID BLOCKS (4 times as many at most)");
	return ok(answer);
}

static bool
run_identify(struct device *dev, const struct words *words, FILE *answer)
{
	struct patch patch = {0};
	bool controller = words->count > 1 && strcmp(words->words[1], "ctrl") == 0;
	uint64_t nsid = 0;

	if (words->count == 2 && strcmp(words->words[1], "clear") == 0) {
		dev->patch_count = 0;
		return ok(answer);
	}
	if (words->count != 4 || dev->patch_count == MAX_PATCHES ||
	    (!controller && (!word_number(words, 1, MAX_NAMESPACES, &nsid) || nsid == 0)) ||
	    !patch_field(words->words[2], controller, &patch) ||
	    !number(words->words[3], UINT64_MAX, &patch.value))
		return wrong(answer, "identify ctrl|NSID FIELD VALUE, or identify clear");
	patch.nsid = (uint32_t)nsid;
	dev->patches[dev->patch_count++] = patch;
	return ok(answer);
}

/* ---- faults ---- */

static const char *const fault_names[FAULT_KINDS] = {
	[FAULT_STATUS] = "status",    [FAULT_LOSE] = "lose",
	[FAULT_DELAY] = "delay",      [FAULT_PHASE] = "phase",
	[FAULT_CID] = "cid",          [FAULT_FATAL] = "fatal",
	[FAULT_REMOVE] = "remove",    [FAULT_DISCONNECT] = "disconnect",
	[FAULT_POWER] = "power-loss",
};

/* key=value of a fault */
static bool
fault_option(struct fault *fault, const char *option)
{
	const char *value = strchr(option, '=');
	uint64_t parsed = 0;
	bool numeric;

	if (value == NULL)
		return false;
	numeric = number(++value, UINT64_MAX, &parsed);
	if (strncmp(option, "queue=", 6) == 0) {
		fault->queue = strcmp(value, "any") == 0  ? -1
			       : strcmp(value, "io") == 0 ? -2
							  : (int)parsed;
		return (numeric && parsed < MAX_QUEUES) || fault->queue < 0;
	}
	if (strncmp(option, "opcode=", 7) == 0)
		fault->opcode = (int)(parsed & 0xff);
	else if (strncmp(option, "nsid=", 5) == 0)
		fault->nsid = (uint32_t)parsed;
	else if (strncmp(option, "nth=", 4) == 0 && parsed > 0)
		fault->skip = parsed - 1;
	else if (strncmp(option, "count=", 6) == 0)
		fault->left = parsed;
	else if (strncmp(option, "status=", 7) == 0)
		fault->status = (uint16_t)parsed & 0x7fff;
	else if (strncmp(option, "ms=", 3) == 0)
		fault->ms = parsed;
	else if (strncmp(option, "cid=", 4) == 0)
		fault->cid = (uint16_t)parsed;
	else
		return false;
	return numeric;
}

static bool
run_fault(struct device *dev, const struct words *words, FILE *answer)
{
	struct faults *faults = &dev->faults;
	struct fault fault = {
		.queue = -2, .opcode = -1, .left = 1, .status = NVME_SC_INTERNAL, .cid = 0xfffe};
	uint32_t kind = 0, slot = 0;

	while (words->count > 1 && kind < FAULT_KINDS &&
	       strcmp(fault_names[kind], words->words[1]) != 0)
		kind++;
	if (words->count < 2 || kind == FAULT_KINDS)
		return wrong(answer, "fault KIND [KEY=VALUE]...");
	fault.kind = kind;
	for (uint32_t i = 2; i < words->count; i++) {
		if (!fault_option(&fault, words->words[i]))
			return wrong(answer, words->words[i]);
	}
	while (slot < MAX_FAULTS && faults->list[slot].id != 0)
		slot++;
	if (slot == MAX_FAULTS)
		return wrong(answer, "too many faults");
	fault.id = ++faults->next_id;
	faults->list[slot] = fault;
	faults->armed++;
	fprintf(answer, "ok %u\n", fault.id);
	return true;
}

static bool
run_fault_clear(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	memset(dev->faults.list, 0, sizeof(dev->faults.list));
	dev->faults.armed = 0;
	return ok(answer);
}

static bool
run_release(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	commands_run_delayed(dev, UINT64_MAX);
	return ok(answer);
}

static bool
run_faults(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	fputs("ok", answer);
	for (uint32_t i = 0; i < MAX_FAULTS; i++) {
		const struct fault *fault = &dev->faults.list[i];

		if (fault->id != 0)
			fprintf(answer, " %u:%s:hits=%llu:left=%llu", fault->id,
				fault_names[fault->kind], (unsigned long long)fault->hits,
				(unsigned long long)fault->left);
	}
	fputc('\n', answer);
	return true;
}

/* ---- at once ---- */

static bool
run_fatal(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	controller_fatal(dev);
	return ok(answer);
}

static bool
run_remove(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	device_remove(dev);
	return ok(answer);
}

static bool
run_replug(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	dev->removed = false;
	controller_reset(dev, true);
	return ok(answer);
}

static bool
run_request_removal(struct device *dev, const struct words *words, FILE *answer)
{
	static const uint64_t one = 1;

	(void)words;
	if (dev->client.request < 0)
		return wrong(answer, "the client has set no eventfd for it");
	(void)!write(dev->client.request, &one, sizeof(one));
	return ok(answer);
}

static bool
run_disconnect(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	server_disconnect(dev);
	return ok(answer);
}

static bool
run_power_loss(struct device *dev, const struct words *words, FILE *answer)
{
	bool stays = words->count == 2 && strcmp(words->words[1], "connected") == 0;

	fprintf(answer, "ok %llu\n", (unsigned long long)device_power_loss(dev));
	if (!stays)
		server_disconnect(dev);
	return true;
}

static bool
run_stop(struct device *dev, const struct words *words, FILE *answer)
{
	(void)words;
	dev->stop = true;
	return ok(answer);
}

/* ---- what the client did ---- */

static bool
run_expect_durable(struct device *dev, const struct words *words, FILE *answer)
{
	uint64_t nsid = 0, first = 0, count = UINT64_MAX, dirty = 0;

	if ((words->count > 1 && !word_number(words, 1, MAX_NAMESPACES, &nsid)) ||
	    (words->count > 2 && (!word_number(words, 2, UINT64_MAX, &first) ||
				  !word_number(words, 3, UINT64_MAX, &count))))
		return wrong(answer, "expect-durable [NSID [FIRST COUNT]]");
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++) {
		const struct nvme_ns *ns = &dev->namespaces[i];
		uint64_t blocks = first < ns->blocks ? ns->blocks - first : 0;

		if (ns->kind != NAMESPACE_NONE && (nsid == 0 || nsid == ns->nsid))
			dirty += namespace_dirty(ns, first, count < blocks ? count : blocks);
	}
	if (dirty > 0)
		violation(dev, V_NOT_DURABLE, "%llu blocks were never flushed",
			  (unsigned long long)dirty);
	fprintf(answer, "ok %llu\n", (unsigned long long)dirty);
	return true;
}

static bool
run_violations(struct device *dev, const struct words *words, FILE *answer)
{
	struct violations *violations = &dev->violations;

	if (words->count == 2 && strcmp(words->words[1], "clear") == 0) {
		*violations = (struct violations){0};
		return ok(answer);
	}
	queues_check_doorbells(dev);
	fprintf(answer, "ok total=%llu", (unsigned long long)violations->total);
	for (uint32_t i = 0; i < VIOLATIONS; i++) {
		if (violations->counts[i] > 0)
			fprintf(answer, " %s=%llu", violation_names[i],
				(unsigned long long)violations->counts[i]);
	}
	if (violations->total > 0)
		fprintf(answer, " last=%s", violations->last);
	fputc('\n', answer);
	return true;
}

static bool
run_stats(struct device *dev, const struct words *words, FILE *answer)
{
	const struct statistics *statistics = &dev->statistics;
	const struct controller *controller = &dev->controller;
	uint64_t dirty = 0, bytes = 0, in_flight = 0;

	(void)words;
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++)
		dirty += dev->namespaces[i].dirty_count;
	for (uint32_t i = 0; i < dev->dma.count; i++)
		bytes += dev->dma.maps[i].size;
	for (uint32_t i = 0; i < controller->active_count; i++) {
		for (uint32_t word = 0; word < 65536 / 64; word++)
			in_flight += (uint64_t)__builtin_popcountll(
				controller->active[i]->in_flight[word]);
	}
	fprintf(answer,
		"ok connected=%d enabled=%d ready=%d fatal=%d shut_down=%d removed=%d queues=%u "
		"in_flight=%llu delayed=%u maps=%u map_bytes=%llu dirty=%llu shadow=%d",
		dev->client.socket >= 0, (int)(controller->cc & 1),
		(controller->csts & NVME_CSTS_RDY_MASK) != 0, (controller->csts & CSTS_FATAL) != 0,
		controller->shut_down, dev->removed,
		controller->active_count > 0 ? controller->active_count - 1 : 0,
		(unsigned long long)in_flight, dev->delayed_count, dev->dma.count,
		(unsigned long long)bytes, (unsigned long long)dirty, controller->shadow);
	fprintf(answer,
		" interrupts=%llu enables=%llu resets=%llu connections=%llu shutdowns=%llu "
		"unsafe_shutdowns=%llu errors=%llu crossings=%llu",
		(unsigned long long)statistics->interrupts, (unsigned long long)statistics->enables,
		(unsigned long long)statistics->resets, (unsigned long long)statistics->connections,
		(unsigned long long)statistics->shutdowns,
		(unsigned long long)statistics->unsafe_shutdowns,
		(unsigned long long)statistics->errors, (unsigned long long)statistics->crossings);
	for (uint32_t i = 0; i < 256; i++) {
		if (statistics->admin[i] > 0)
			fprintf(answer, " admin_0x%02x=%llu", i,
				(unsigned long long)statistics->admin[i]);
		if (statistics->io[i] > 0)
			fprintf(answer, " io_0x%02x=%llu", i,
				(unsigned long long)statistics->io[i]);
	}
	fputc('\n', answer);
	return true;
}

/* ---- lines and connections ---- */

static const struct {
	const char *name;
	bool (*run)(struct device *dev, const struct words *words, FILE *answer);
} commands[] = {
	{"set", run_set},
	{"ns", run_ns},
	{"identify", run_identify},
	{"fault", run_fault},
	{"fault-clear", run_fault_clear},
	{"faults", run_faults},
	{"release", run_release},
	{"fatal", run_fatal},
	{"remove", run_remove},
	{"replug", run_replug},
	{"request-removal", run_request_removal},
	{"disconnect", run_disconnect},
	{"power-loss", run_power_loss},
	{"expect-durable", run_expect_durable},
	{"violations", run_violations},
	{"stats", run_stats},
	{"stop", run_stop},
};

bool
control_run(struct device *dev, char *line, FILE *answer)
{
	struct words words = {0};
	char *rest = line;

	for (char *word; words.count < MAX_WORDS && (word = strsep(&rest, WORDS)) != NULL;) {
		if (*word != '\0')
			words.words[words.count++] = word;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands) && words.count > 0; i++) {
		if (strcmp(commands[i].name, words.words[0]) == 0)
			return commands[i].run(dev, &words, answer);
	}
	return wrong(answer, "no such command");
}

void
control_accept(struct device *dev)
{
	int fd = accept4(dev->control_listener, NULL, NULL, SOCK_CLOEXEC);

	for (uint32_t i = 0; i < MAX_CONTROLS; i++) {
		if (dev->controls[i].socket < 0) {
			dev->controls[i] = (struct control){.socket = fd};
			return;
		}
	}
	close(fd);
}

static void
answer_line(struct device *dev, struct control *control, char *line)
{
	char *text = NULL;
	size_t size = 0;
	FILE *answer = open_memstream(&text, &size);

	control_run(dev, line, answer);
	fclose(answer);
	(void)!send(control->socket, text, size, MSG_NOSIGNAL);
	free(text);
}

void
control_receive(struct device *dev, struct control *control)
{
	ssize_t length = recv(control->socket, control->line + control->length,
			      LINE_SIZE - 1 - control->length, MSG_DONTWAIT);
	char *end;

	if (length <= 0) {
		close(control->socket);
		control->socket = -1;
		return;
	}
	control->length += (size_t)length;
	control->line[control->length] = '\0';
	while ((end = strchr(control->line, '\n')) != NULL) {
		*end = '\0';
		answer_line(dev, control, control->line);
		control->length -= (size_t)(end + 1 - control->line);
		memmove(control->line, end + 1, control->length + 1);
	}
	/* A line that is too long. */
	if (control->length == LINE_SIZE - 1)
		control->length = 0;
}
