/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Runs a fuzz target without libFuzzer, as a test program: first the corpus, then inputs made from
 * it by a seeded generator. It has no feedback from the code; it keeps what the fuzzers found from
 * coming back.
 *
 *   test_fuzz_<thing>            tests/fuzz/corpus/<thing>, then mutations, for FUZZ_MS
 *                                milliseconds (2000) or until FUZZ_RUNS (20000) are done, from
 *                                FUZZ_SEED (1) on
 *   test_fuzz_<thing> FILE...    these inputs only
 *
 * The n-th run depends on the seed, n and the corpus only. What ends the process prints its input
 * in hexadecimal (for `xxd -r -p`).
 */
#include <setjmp.h>
#include <stdarg.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "input.h"

#include <cmocka.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define INPUT_BYTES   8192
#define MAX_ENTRIES   4096
#define MAX_CORPUS    (16u << 20) /* bytes */
#define MAX_MEMORY    (2u << 20)  /* KiB resident, shadow memory included */
#define INPUT_SECONDS 60          /* that one input may take: a loop without an end otherwise */
#define MUTATIONS     6
#define RUNS_PER_LOOK 64 /* at clock and memory */
#define DEFAULT_MS    2000
#define DEFAULT_RUNS  20000

struct entry {
	uint8_t *data;
	size_t size;
};

static struct entry corpus[MAX_ENTRIES];
static size_t corpus_count, corpus_bytes;

/* What runs now, for the last words. */
static uint8_t current[INPUT_BYTES];
static size_t current_size;
static const char *current_name;
static unsigned long current_run;

int __attribute__((weak)) LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

/* ---- last words ---- */

static void
say(const char *text, size_t size)
{
	if (write(STDERR_FILENO, text, size) < 0)
		return;
}

static void
print_input(void)
{
	static const char digits[] = "0123456789abcdef";
	char line[64];
	size_t used = 0;
	int length = snprintf(line, sizeof(line), "run %lu, input %.32s:\n", current_run,
			      current_name != NULL ? current_name : "none");

	say(line, (size_t)length);
	for (size_t i = 0; i < current_size; i++) {
		line[used++] = digits[current[i] >> 4];
		line[used++] = digits[current[i] & 15];
		if (used < sizeof(line) - 1 && i + 1 < current_size)
			continue;
		say(line, used);
		used = 0;
	}
	say("\n", 1);
}

static void
on_signal(int number)
{
	if (number == SIGALRM)
		say("no end of this input\n", 21);
	print_input();
	signal(number, SIG_DFL);
	raise(number == SIGALRM ? SIGKILL : number);
}

static void
prepare_last_words(void)
{
	signal(SIGALRM, on_signal);
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_set_death_callback(print_input);
	signal(SIGABRT, on_signal);
#else
	static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		signal(numbers[i], on_signal);
#endif
}

/* cmocka sets handlers of its own for each test; a target may have some that it needs. */
static const int cmocka_signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
static struct sigaction before_cmocka[ARRAY_SIZE(cmocka_signals)];

static void
save_handlers(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(cmocka_signals); i++)
		sigaction(cmocka_signals[i], NULL, &before_cmocka[i]);
}

static void
restore_handlers(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(cmocka_signals); i++)
		sigaction(cmocka_signals[i], &before_cmocka[i], NULL);
}

/* ---- running ---- */

static void
run(const char *name, const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size > 0 ? size : 1); /* of the exact size, for the sanitizer */

	assert_non_null(copy);
	current_size = size < sizeof(current) ? size : sizeof(current);
	memcpy(current, data, current_size);
	memcpy(copy, data, size);
	current_name = name;
	alarm(INPUT_SECONDS);
	LLVMFuzzerTestOneInput(copy, size);
	alarm(0);
	current_run++;
	free(copy);
}

static bool
read_file(const char *path, struct entry *entry)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool good = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
		    st.st_size <= (off_t)MAX_CORPUS;

	if (good) {
		entry->size = (size_t)st.st_size;
		entry->data = malloc(entry->size + 1);
		good = entry->data != NULL &&
		       read(fd, entry->data, entry->size) == (ssize_t)entry->size;
	}
	if (fd >= 0)
		close(fd);
	return good;
}

static int
compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* tests/fuzz/corpus/<thing> of test_fuzz_<thing>. */
static void
read_corpus(void)
{
	const char *thing = program_invocation_short_name + strlen("test_fuzz_");
	char folder[PATH_MAX], path[PATH_MAX + NAME_MAX + 2];
	struct dirent **names;
	int count;

	snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s", thing);
	count = scandir(folder, &names, NULL, compare_names);
	if (count < 0)
		fail_msg("%s: %s", folder, strerror(errno));
	for (int i = 0; i < count; i++) {
		struct entry *entry = &corpus[corpus_count];

		snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
		if (names[i]->d_name[0] != '.' && corpus_count < MAX_ENTRIES &&
		    corpus_bytes < MAX_CORPUS) {
			assert_true(read_file(path, entry));
			corpus_bytes += entry->size;
			corpus_count++;
		}
		free(names[i]);
	}
	free(names);
	assert_true(corpus_count > 0);
}

/* ---- mutations ---- */

static uint64_t random_state;

/* splitmix64 */
static uint64_t
next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static size_t
pick(size_t below)
{
	return below > 0 ? (size_t)(next_random() % below) : 0;
}

static uint64_t
pick_number(void)
{
	static const uint64_t numbers[] = {
		0,         1,          2,           7,          8,         16,
		127,       128,        255,         256,        0x7fff,    0x8000,
		0xffff,    0x10000,    0x7fffffff,  0x80000000, 0xfff0,    0x1000,
		0xfffffff, 0xffffffff, 0x100000000, UINT64_MAX, INT64_MAX, 0x8000000000000000,
	};

	return numbers[pick(ARRAY_SIZE(numbers))] + pick(3) - 1;
}

static void
replace_number(struct entry *input)
{
	uint64_t number = pick_number();
	size_t width = (size_t)1 << pick(4);

	if (input->size >= width)
		memcpy(input->data + pick(input->size - width + 1), &number, width);
}

static void
flip_bit(struct entry *input)
{
	if (input->size > 0)
		input->data[pick(input->size)] ^= (uint8_t)(1u << pick(8));
}

static void
replace_byte(struct entry *input)
{
	if (input->size > 0)
		input->data[pick(input->size)] = (uint8_t)next_random();
}

static void
delete_part(struct entry *input)
{
	size_t at = pick(input->size), length = pick(pick(2) ? 8 : input->size);

	if (length > input->size - at)
		length = input->size - at;
	memmove(input->data + at, input->data + at + length, input->size - at - length);
	input->size -= length;
}

/* Puts a part of itself or of another one in. */
static void
insert_part(struct entry *input)
{
	static uint8_t part[INPUT_BYTES];
	const struct entry *from = pick(2) ? input : &corpus[pick(corpus_count)];
	size_t at = pick(input->size + 1), start = pick(from->size);
	size_t length = pick(from->size - start + 1);

	if (length > INPUT_BYTES - input->size)
		length = INPUT_BYTES - input->size;
	memcpy(part, from->data + start, length);
	memmove(input->data + at + length, input->data + at, input->size - at);
	memcpy(input->data + at, part, length);
	input->size += length;
}

static void (*const mutations[])(struct entry *input) = {
	replace_number, flip_bit, replace_byte, delete_part, insert_part,
};

static void
run_mutation(uint64_t seed, unsigned long number)
{
	static uint8_t bytes[INPUT_BYTES];
	struct entry input = {.data = bytes};
	const struct entry *base;

	random_state = seed * 0x2545f4914f6cdd1dULL + number;
	base = &corpus[pick(corpus_count)];
	input.size = base->size < INPUT_BYTES ? base->size : INPUT_BYTES;
	memcpy(bytes, base->data, input.size);
	for (size_t i = 1 + pick(MUTATIONS); i > 0; i--)
		mutations[pick(ARRAY_SIZE(mutations))](&input);
	run("mutation", input.data, input.size);
}

/* ---- tests ---- */

static unsigned long
number_from(const char *name, unsigned long preset)
{
	const char *text = getenv(name);

	return text != NULL ? strtoul(text, NULL, 0) : preset;
}

static uint64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void
check_memory(void)
{
	struct rusage usage;

	assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
	assert_in_range(usage.ru_maxrss, 0, MAX_MEMORY);
}

static void
test_corpus(void **state)
{
	(void)state;
	restore_handlers();
	for (size_t i = 0; i < corpus_count; i++)
		run("corpus", corpus[i].data, corpus[i].size);
	check_memory();
}

static void
test_mutations(void **state)
{
	uint64_t seed = number_from("FUZZ_SEED", 1);
	unsigned long runs = number_from("FUZZ_RUNS", DEFAULT_RUNS), i;
	uint64_t end = now_ms() + number_from("FUZZ_MS", DEFAULT_MS);

	(void)state;
	restore_handlers();
	for (i = 0; i < runs; i++) {
		if (i % RUNS_PER_LOOK == 0) {
			check_memory();
			if (now_ms() >= end)
				break;
		}
		run_mutation(seed, i);
	}
	fprintf(stderr, "# %s: %zu inputs of the corpus, %lu mutations of seed %lu\n",
		program_invocation_short_name, corpus_count, i, seed);
}

static int
read_corpus_once(void **state)
{
	(void)state;
	read_corpus();
	return 0;
}

static int
free_corpus(void **state)
{
	(void)state;
	while (corpus_count > 0)
		free(corpus[--corpus_count].data);
	return 0;
}

static int
run_files(int count, char **paths)
{
	for (int i = 0; i < count; i++) {
		struct entry entry;

		if (!read_file(paths[i], &entry)) {
			fprintf(stderr, "%s: cannot be read\n", paths[i]);
			return 1;
		}
		run(paths[i], entry.data, entry.size);
		free(entry.data);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_corpus),
		cmocka_unit_test(test_mutations),
	};

	prepare_last_words();
	LLVMFuzzerInitialize(&argc, &argv);
	save_handlers();
	if (argc > 1)
		return run_files(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, read_corpus_once, free_corpus);
}
