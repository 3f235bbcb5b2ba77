/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhostctl_options.h"

#include <stdlib.h>
#include <string.h>

/* "4k" → 4096. False: no such number. */
static bool
parse_bytes(const char *text, double *number)
{
	static const char suffixes[] = "kMG";
	const char *suffix;
	char *end;

	*number = strtod(text, &end);
	if (end == text)
		return false;
	suffix = *end != '\0' ? strchr(suffixes, *end) : NULL;
	if (suffix != NULL) {
		*number *= (double)(1ull << (10 * (suffix - suffixes + 1)));
		end++;
	}
	return *end == '\0';
}

static bool
parse_number(const struct ctl_option *option, const char *text, double *number)
{
	char *end;

	if (option->type == CTL_BYTES)
		return parse_bytes(text, number);
	*number = strtod(text, &end);
	return end != text && *end == '\0';
}

static enum vhostctl_status
set_value(const char *command, const struct ctl_option *option, const char *text,
	  struct errmsg *err)
{
	double number;

	if (option->type == CTL_TEXT) {
		*(const char **)option->value = text;
		return STATUS_OK;
	}
	/* The comparison is false for "nan". */
	if (!parse_number(option, text, &number) ||
	    !(number >= option->min && number <= option->max))
		return err_set(err, STATUS_USAGE, "%s: %s must be %g to %g, not '%s'", command,
			       option->name, option->min, option->max, text);
	if (option->type == CTL_SECONDS)
		*(double *)option->value = number;
	else if (number == (unsigned int)number)
		*(unsigned int *)option->value = (unsigned int)number;
	else
		return err_set(err, STATUS_USAGE, "%s: %s must be a whole number, not '%s'",
			       command, option->name, text);
	return STATUS_OK;
}

/* The option that arg is or begins with ("--name=…"), or NULL. */
static const struct ctl_option *
find_option(const struct ctl_option *options, const char *arg, const char **text)
{
	size_t len = strcspn(arg, "=");

	*text = arg[len] == '=' ? arg + len + 1 : NULL;
	for (; options->name != NULL; options++) {
		if (strlen(options->name) == len && strncmp(options->name, arg, len) == 0)
			return options;
	}
	return NULL;
}

enum vhostctl_status
ctl_parse_options(const char *command, const struct ctl_option *options, char **args,
		  const char **operand, struct errmsg *err)
{
	enum vhostctl_status status = STATUS_OK;

	for (; *args != NULL && status == STATUS_OK; args++) {
		const struct ctl_option *option;
		const char *text;

		if (**args != '-' && operand != NULL && *operand == NULL) {
			*operand = *args;
			continue;
		}
		option = find_option(options, *args, &text);
		if (option == NULL || (option->type == CTL_FLAG && text != NULL))
			return err_set(err, STATUS_USAGE, "%s: '%s' is no option of it", command,
				       *args);
		if (option->type == CTL_FLAG) {
			*(bool *)option->value = true;
			continue;
		}
		if (text == NULL)
			text = *++args;
		if (text == NULL)
			return err_set(err, STATUS_USAGE, "%s: %s has no value", command,
				       option->name);
		status = set_value(command, option, text, err);
	}
	return status;
}
