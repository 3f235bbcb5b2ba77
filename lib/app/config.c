/* SPDX-License-Identifier: BSD-3-Clause */
#include "config.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coroutine.h"
#include "internal.h"
#include "log.h"
#include "notify.h"
#include "state.h"

/* App thread only; `file` is the work pool's while a coroutine waits for it. */
static struct {
	const struct app_opts *opts;
	struct state_file file;
	struct coroutine_mutex lock; /* of `file` and `written` */
	char *written;               /* what the journal holds; NULL: not known */
	json_t *document;            /* read and not replayed yet */
	json_t *failed;              /* array of {"subsystem", "number", "entry"}, see keep() */
	json_int_t failures;         /* the highest number of a failed entry */
	json_t *order;               /* of what is there among the failed, see note_order() */
	bool noted;                  /* nothing was replayed since the last note */
	struct coroutine *replaying; /* calls what an entry says */
	bool retrying;               /* a coroutine tries failed entries again */
	bool retry_wanted;
	bool ended; /* the subsystems are being stopped */
	bool lost;  /* an entry that failed, for lack of memory */
} config;

/* ---- lack of memory ---- */

/*
 * jansson drops what it has no memory for, down to one member of one entry, and its callers would
 * have to look at each outcome: a disk might come back without "readonly". So its allocations are
 * watched instead. A failure on another thread counts as well, and does no harm.
 */
static json_malloc_t json_malloc; /* set once */
static json_free_t json_free;
static _Atomic unsigned int json_failures;

static void *
malloc_watched(size_t size)
{
	void *memory = json_malloc(size);

	if (memory == NULL)
		atomic_fetch_add(&json_failures, 1);
	return memory;
}

static void
watch_memory(void)
{
	if (json_malloc != NULL)
		return;
	json_get_alloc_funcs(&json_malloc, &json_free);
	json_set_alloc_funcs(malloc_watched, json_free);
}

/* json, made since there were so many failures; NULL if there have been more. */
static json_t *
only_whole(json_t *json, unsigned int failures)
{
	if (atomic_load(&json_failures) == failures)
		return json;
	json_decref(json);
	return NULL;
}

/* ---- from the subsystems ---- */

/* NULL: no memory. */
static json_t *
subsystem_config(const struct app_subsystem *subsystem)
{
	unsigned int failures = atomic_load(&json_failures);

	return only_whole(subsystem->config != NULL ? subsystem->config() : json_array(), failures);
}

json_t *
app_subsystem_config_json(const char *name)
{
	const struct app_subsystem *const *subsystem = app_get_opts()->subsystems;

	for (; *subsystem != NULL; subsystem++) {
		if (strcmp((*subsystem)->name, name) == 0)
			return subsystem_config(*subsystem);
	}
	return NULL;
}

json_t *
app_config_json(void)
{
	const struct app_subsystem *const *subsystem = app_get_opts()->subsystems;
	json_t *subsystems = json_array();
	int rc = 0;

	for (; *subsystem != NULL; subsystem++)
		rc |= json_array_append_new(subsystems,
					    json_pack("{s:s, s:o}", "subsystem", (*subsystem)->name,
						      "config", subsystem_config(*subsystem)));
	if (rc == 0)
		return json_pack("{s:i, s:o}", "version", STATE_VERSION, "subsystems", subsystems);
	json_decref(subsystems);
	return NULL;
}

/* ---- entries that could not be replayed ---- */

/* What an entry makes: the methods of a subsystem call it one or the other. */
static const char *
made_name(json_t *entry)
{
	json_t *params = json_object_get(entry, "params");
	const char *name = json_string_value(json_object_get(params, "name"));

	return name != NULL ? name : json_string_value(json_object_get(params, "ctrlr"));
}

static const char *
display_name(json_t *entry)
{
	const char *name = made_name(entry);

	return name != NULL ? name : json_string_value(json_object_get(entry, "method"));
}

/*
 * Entries that fail are numbered from 1 on, and what is there has the number of the last one that
 * had failed when it came: so both can be put together in their order, wherever a subsystem lists
 * what it has. An object {method: {name: number}}; the name is empty where there is none.
 */
static void
set_number(json_t *order, json_t *entry, json_int_t number)
{
	const char *method = json_string_value(json_object_get(entry, "method"));
	const char *name = made_name(entry);

	if (json_object_get(order, method) == NULL)
		json_object_set_new(order, method, json_object());
	json_object_set_new(json_object_get(order, method), name != NULL ? name : "",
			    json_integer(number));
}

/* -1: it was not there when the order was noted last. */
static json_int_t
get_number(json_t *entry)
{
	const char *name = made_name(entry);
	json_t *names =
		json_object_get(config.order, json_string_value(json_object_get(entry, "method")));
	json_t *number = json_object_get(names, name != NULL ? name : "");

	return number != NULL ? json_integer_value(number) : -1;
}

/* What is new in the document came after all that has failed. What has gone is forgotten. */
static void
note_order(json_t *document)
{
	unsigned int failures = atomic_load(&json_failures);
	json_t *order = json_object();
	json_t *subsystem, *entry;
	size_t i, j;

	json_array_foreach (json_object_get(document, "subsystems"), i, subsystem) {
		json_array_foreach (json_object_get(subsystem, "config"), j, entry) {
			json_int_t number = get_number(entry);

			set_number(order, entry, number >= 0 ? number : config.failures);
		}
	}
	order = only_whole(order, failures);
	if (order == NULL)
		return;
	json_decref(config.order);
	config.order = order;
}

static void
note_what_is_there(void)
{
	json_t *document = config.noted ? NULL : app_config_json();

	if (document != NULL)
		note_order(document);
	json_decref(document);
	config.noted = true;
}

static void
keep(const char *subsystem, json_t *entry)
{
	json_t *kept;

	note_what_is_there();
	kept = json_pack("{s:s, s:I, s:O}", "subsystem", subsystem, "number", ++config.failures,
			 "entry", entry);
	if (json_array_append_new(config.failed, kept) == 0)
		return;
	config.lost = true;
	log_err("state: no memory to keep the entry of %s: the state is not written any more until "
		"the next start",
		display_name(entry));
}

static json_int_t
failure_number(json_t *kept)
{
	return json_integer_value(json_object_get(kept, "number"));
}

/* Whether the entry makes an object, rather than add to one. */
static bool
is_creation(json_t *entry)
{
	const char *method = json_string_value(json_object_get(entry, "method"));

	return strstr(method, "_create") != NULL || strstr(method, "_attach") != NULL;
}

/* Whether another entry of the same method for the same object takes its place. */
static bool
is_setting(json_t *entry)
{
	return strstr(json_string_value(json_object_get(entry, "method")), "_set_") != NULL;
}

/* The one of the entries that makes or sets what `failed` did not, or NULL. */
static json_t *
find_substitute(json_t *failed, json_t *entries)
{
	const char *name = made_name(failed);
	json_t *entry;
	size_t i;

	json_array_foreach (entries, i, entry) {
		const char *other = made_name(entry);

		if (json_equal(entry, failed))
			return entry;
		if (name == NULL || other == NULL || strcmp(name, other) != 0)
			continue;
		if (is_creation(failed) && is_creation(entry))
			return entry;
		if (is_setting(failed) &&
		    json_equal(json_object_get(entry, "method"), json_object_get(failed, "method")))
			return entry;
	}
	return NULL;
}

/* The entries of that subsystem in the document; made if there are none, NULL without memory. */
static json_t *
entries_of(json_t *document, const char *name)
{
	json_t *subsystems = json_object_get(document, "subsystems");
	json_t *subsystem, *entries;
	size_t i;

	json_array_foreach (subsystems, i, subsystem) {
		if (strcmp(json_string_value(json_object_get(subsystem, "subsystem")), name) == 0)
			return json_object_get(subsystem, "config");
	}
	entries = json_array();
	if (json_array_append_new(
		    subsystems, json_pack("{s:s, s:o}", "subsystem", name, "config", entries)) != 0)
		return NULL;
	return entries;
}

/*
 * Gives up the failed entries whose objects the document, which has none of them yet, has again.
 * What a client has made instead takes their place in the order: what failed after them may need
 * it.
 */
static void
give_up_made_up(json_t *document)
{
	size_t i = 0;

	/* Forwards: subsystems that nobody knows keep their order. */
	while (i < json_array_size(config.failed)) {
		json_t *kept = json_array_get(config.failed, i);
		json_t *entry = json_object_get(kept, "entry");
		const char *subsystem = json_string_value(json_object_get(kept, "subsystem"));
		json_t *substitute = find_substitute(entry, entries_of(document, subsystem));

		if (substitute == NULL) {
			i++;
			continue;
		}
		log_notice("state: %s exists again; its entry that failed is given up",
			   display_name(entry));
		if (get_number(substitute) < 0)
			set_number(config.order, substitute, failure_number(kept) - 1);
		json_array_remove(config.failed, i);
	}
}

/* The index after the last entry that was there before `kept` failed; not less than `first`. */
static size_t
place_of(json_t *kept, json_t *entries, size_t first)
{
	size_t place = first;

	for (size_t i = first; i < json_array_size(entries); i++) {
		if (get_number(json_array_get(entries, i)) < failure_number(kept))
			place = i + 1;
	}
	return place;
}

/*
 * Puts the failed entries back, in their order, each after all that was there before it: what it
 * met when it failed it meets again at the next start.
 */
static int
merge_failed(json_t *document)
{
	unsigned int failures = atomic_load(&json_failures);
	json_t *next = json_object(); /* by subsystem: the index after its last failed entry */
	json_t *kept;
	size_t i;
	int rc = 0;

	give_up_made_up(document);
	note_order(document);
	json_array_foreach (config.failed, i, kept) {
		const char *subsystem = json_string_value(json_object_get(kept, "subsystem"));
		json_t *entries = entries_of(document, subsystem);
		size_t place = (size_t)json_integer_value(json_object_get(next, subsystem));

		place = place_of(kept, entries, place);
		rc |= json_array_insert(entries, place, json_object_get(kept, "entry"));
		rc |= json_object_set_new(next, subsystem, json_integer((json_int_t)place + 1));
	}
	json_decref(next);
	return rc == 0 && atomic_load(&json_failures) == failures ? 0 : -ENOMEM;
}

/* name is a string, params an object */
static bool
is_named(json_t *entry, const void *name)
{
	const char *made = made_name(entry);

	return name == NULL || (made != NULL && strcmp(made, name) == 0);
}

static bool
has_params(json_t *entry, const void *params)
{
	json_t *all = json_object_get(entry, "params");
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)params, key, value) {
		if (!json_equal(json_object_get(all, key), value))
			return false;
	}
	return true;
}

/* The index of the last one before `end`, or SIZE_MAX. */
static size_t
find_meant(size_t end, const char *method, bool (*is_meant)(json_t *entry, const void *arg),
	   const void *arg)
{
	while (end-- > 0) {
		json_t *entry = json_object_get(json_array_get(config.failed, end), "entry");
		const char *made_by = json_string_value(json_object_get(entry, "method"));

		if (strcmp(made_by, method) == 0 && is_meant(entry, arg))
			return end;
	}
	return SIZE_MAX;
}

static bool
give_up(const char *method, bool (*is_meant)(json_t *entry, const void *arg), const void *arg)
{
	bool found = false;
	size_t i = json_array_size(config.failed);

	while ((i = find_meant(i, method, is_meant, arg)) != SIZE_MAX) {
		json_t *entry = json_object_get(json_array_get(config.failed, i), "entry");

		log_notice("state: %s is deleted or set anew; its entry that failed is given up",
			   display_name(entry));
		json_array_remove(config.failed, i);
		found = true;
	}
	return found;
}

bool
app_give_up(const char *method, const char *name)
{
	return give_up(method, is_named, name);
}

bool
app_give_up_where(const char *method, json_t *params)
{
	return give_up(method, has_params, params);
}

json_t *
app_failed_params(const char *method, const char *name)
{
	json_t *array = json_array();
	size_t i = json_array_size(config.failed);
	int rc = array != NULL ? 0 : -ENOMEM;

	while ((i = find_meant(i, method, is_named, name)) != SIZE_MAX) {
		json_t *entry = json_object_get(json_array_get(config.failed, i), "entry");

		rc |= json_array_append(array, json_object_get(entry, "params"));
	}
	if (rc == 0)
		return array;
	json_decref(array);
	return NULL;
}

/* ---- the journal ---- */

struct write_job {
	const char *text;
	struct errmsg *err;
};

static int
write_blocking(void *arg)
{
	struct write_job *job = arg;

	return state_write(&config.file, job->text, strlen(job->text), job->err);
}

/* A new text, or NULL: no memory. */
static char *
compose(void)
{
	json_t *document = config.lost ? NULL : app_config_json();
	char *text = NULL;

	if (document != NULL &&
	    (json_array_size(config.failed) == 0 || merge_failed(document) == 0))
		text = json_dumps(document, JSON_INDENT(2));
	json_decref(document);
	return text;
}

static int
commit_locked(struct errmsg *err)
{
	char *text = compose();
	struct write_job job = {text, err};
	int rc;

	if (text == NULL)
		return err_set(err, -ENOMEM, "state %s: out of memory", config.file.path);
	if (config.written != NULL && strcmp(config.written, text) == 0) {
		free(text);
		return 0;
	}
	rc = coroutine_blocking(write_blocking, &job);
	free(config.written);
	config.written = rc == 0 ? text : NULL;
	if (rc == 0)
		return 0;
	free(text);
	if (err->text[0] == '\0')
		err_set(err, rc, "state %s: %s", config.file.path, strerror(-rc));
	log_err("%s", err->text);
	return rc;
}

int
config_commit(struct errmsg *err)
{
	int rc;

	if (config.file.path == NULL)
		return 0;
	coroutine_mutex_lock(&config.lock);
	/* It may have waited for the lock until the subsystems stop. */
	rc = config.ended ? err_set(err, -ECANCELED, "the daemon is stopping") : commit_locked(err);
	coroutine_mutex_unlock(&config.lock);
	if (rc != 0 && rc != -ECANCELED)
		notify_send(NOTIFY_STATE_SAVE_FAILED, "%s", err->text);
	return rc;
}

static json_t *
failed_json(void)
{
	json_t *array = json_array();
	json_t *kept;
	size_t i;

	json_array_foreach (config.failed, i, kept) {
		json_t *entry = json_object_get(kept, "entry");

		json_array_append_new(array, json_pack("{s:O, s:O, s:s}", "subsystem",
						       json_object_get(kept, "subsystem"), "method",
						       json_object_get(entry, "method"), "name",
						       display_name(entry)));
	}
	return array;
}

json_t *
config_state_json(void)
{
	const char *path = config.file.path;

	return json_pack("{s:s?, s:b, s:o}", "state_file", path, "saved",
			 path != NULL && config.written != NULL, "failed", failed_json());
}

/* ---- reading and replaying ---- */

static int
read_blocking(void *arg)
{
	const char *config_file = config.opts->config_file;
	struct errmsg *err = arg;
	int rc = 0;

	if (config.opts->state_file != NULL) {
		rc = state_open(&config.file, config.opts->state_file, err);
		if (rc == 0)
			rc = state_read(&config.file, &config.document, err);
	}
	if (config.document != NULL)
		config.written = json_dumps(config.document, JSON_INDENT(2));
	if (rc != 0 || config_file == NULL)
		return rc;
	if (config.document == NULL)
		return document_read(config_file, &config.document, err);
	log_notice("state %s exists already: %s is not loaded", config.file.path, config_file);
	return 0;
}

int
config_open(const struct app_opts *opts, struct errmsg *err)
{
	int rc;

	watch_memory();
	config.opts = opts;
	config.failed = json_array();
	config.order = json_object();
	if (config.failed == NULL || config.order == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	rc = coroutine_blocking(read_blocking, err);
	if (rc != 0)
		config_close();
	return rc;
}

void
config_close(void)
{
	json_decref(config.document);
	json_decref(config.failed);
	json_decref(config.order);
	free(config.written);
	state_close(&config.file);
	config.document = NULL;
	config.failed = NULL;
	config.order = NULL;
	config.noted = false;
	config.ended = false;
	config.lost = false;
	config.failures = 0;
	config.written = NULL;
}

bool
app_is_replaying(void)
{
	return config.replaying != NULL && config.replaying == coroutine_current();
}

static int
replay_entry(json_t *entry, struct errmsg *err)
{
	json_t *result = NULL;
	int rc;

	config.replaying = coroutine_current();
	rc = jsonrpc_call(entry, false, &result, err);
	config.replaying = NULL;
	json_decref(result);
	return rc;
}

static bool
replay_or_complain(json_t *entry)
{
	struct errmsg err = {""};
	int rc = replay_entry(entry, &err);

	if (rc == 0) {
		config.noted = false;
		return true;
	}
	log_err("state: %s (%s): %s; the entry is kept and tried again when a device "
		"arrives and at the next start, until it is deleted",
		display_name(entry), json_string_value(json_object_get(entry, "method")),
		err.text[0] != '\0' ? err.text : strerror(-rc));
	return false;
}

static unsigned int
replay_subsystem(json_t *subsystem)
{
	const char *name = json_string_value(json_object_get(subsystem, "subsystem"));
	json_t *entry;
	size_t i;

	json_array_foreach (json_object_get(subsystem, "config"), i, entry) {
		/* What is not tried any more must not get lost either. */
		if (app_is_stopping() || !replay_or_complain(entry))
			keep(name, entry);
	}
	return (unsigned int)json_array_size(config.failed);
}

unsigned int
config_replay(void)
{
	json_t *document = config.document;
	unsigned int failed = 0;
	json_t *subsystem;
	size_t i;

	config.document = NULL;
	json_array_foreach (json_object_get(document, "subsystems"), i, subsystem)
		failed = replay_subsystem(subsystem);
	if (failed > 0)
		note_what_is_there();
	/*
	 * The first change makes the journal, not a start without any. Until then --config holds.
	 */
	if (document == NULL)
		config.written = compose();
	json_decref(document);
	return failed;
}

/* ---- trying again what failed ---- */

/* SIZE_MAX: it has been given up meanwhile. */
static size_t
find_failed(const json_t *kept)
{
	json_t *other;
	size_t i;

	json_array_foreach (config.failed, i, other) {
		if (other == kept)
			return i;
	}
	return SIZE_MAX;
}

/* [waits] Each entry once, in order. Whether one of them could be made. */
static bool
retry_all(void)
{
	json_t *entries = json_copy(config.failed); /* it changes while this waits */
	bool made = false;
	json_t *kept;
	size_t i;

	json_array_foreach (entries, i, kept) {
		json_t *entry = json_object_get(kept, "entry");
		struct errmsg err = {""};

		if (app_is_stopping())
			break;
		if (find_failed(kept) == SIZE_MAX || replay_entry(entry, &err) != 0)
			continue;
		json_array_remove(config.failed, find_failed(kept));
		set_number(config.order, entry, failure_number(kept) - 1);
		made = true;
		log_notice("state: %s (%s) is made now", display_name(entry),
			   json_string_value(json_object_get(entry, "method")));
	}
	json_decref(entries);
	return made;
}

static void
retry(void *arg)
{
	bool made = false;
	struct errmsg err = {""};

	(void)arg;
	while (config.retry_wanted && !app_is_stopping()) {
		config.retry_wanted = false;
		made |= retry_all();
	}
	if (made && !app_is_stopping())
		config_commit(&err);
	config.retrying = false;
}

void
config_want_retry(bool now)
{
	if (json_array_size(config.failed) == 0)
		return;
	config.retry_wanted = true;
	if (now)
		config_retry();
}

void
config_retry(void)
{
	if (config.retry_wanted && !config.retrying)
		config.retrying =
			coroutine_start(thread_current(), "state_retry", retry, NULL) == 0;
}

void
config_end(void)
{
	while (config.retrying && coroutine_sleep(1000) == 0)
		continue;
	coroutine_mutex_lock(&config.lock);
	config.ended = true;
	coroutine_mutex_unlock(&config.lock);
}
