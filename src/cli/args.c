#include "cli/args.h"

#include <errno.h>

#include "base/opt.h"

#define MAX_OPTIONS 64

static const struct cli_option *find_name(const struct cli_verb *verb,
					  const char *name, size_t len)
{
	for (const struct cli_option *o = verb->options; o->name; o++)
		if (strlen(o->name) == len && !memcmp(o->name, name, len))
			return o;
	return NULL;
}

static const struct cli_option *find_letter(const struct cli_verb *verb,
					    char letter)
{
	for (const struct cli_option *o = verb->options; o->name; o++)
		if (o->letter == letter)
			return o;
	return NULL;
}

static int unknown_option(const struct cli_verb *verb, const char *arg,
			  const char *name, struct err *err)
{
	const char *names[MAX_OPTIONS + 1], *near;
	char hint[120];
	unsigned n = 0;

	for (const struct cli_option *o = verb->options;
	     o->name && n < MAX_OPTIONS; o++)
		names[n++] = o->name;
	names[n] = NULL;
	near = opt_nearest(names, name);
	if (near)
		snprintf(hint, sizeof(hint), "did you mean --%s?", near);
	else
		snprintf(hint, sizeof(hint), "ringer %s --help lists them",
			 verb->name);
	return err_set(err, EINVAL, hint, "%s has no option '%.80s'",
		       verb->name, arg);
}

static int list_add(struct cli_list *list, const char *what, const char *value,
		    struct err *err)
{
	if (list->nr == CLI_LIST_MAX)
		return err_set(err, EINVAL, NULL, "more than %d times %s",
			       CLI_LIST_MAX, what);
	list->item[list->nr++] = value;
	return 0;
}

static int set_option(const struct cli_option *o, const char *value, void *args,
		      struct err *err)
{
	void *member = (char *)args + o->offset;
	char what[40];

	snprintf(what, sizeof(what), "--%s", o->name);
	switch (o->kind) {
	case CLI_FLAG:
		if (value)
			return err_set(err, EINVAL, NULL, "%s takes no value",
				       what);
		*(bool *)member = true;
		return 0;
	case CLI_TEXT:
		if (*(const char **)member)
			return err_set(err, EINVAL, NULL, "%s is given twice",
				       what);
		*(const char **)member = value;
		return 0;
	case CLI_LIST:
		return list_add(member, what, value, err);
	}
	return -EINVAL;
}

int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *args,
	      bool *wants_help, struct err *err)
{
	bool is_positional = false;
	int r = 0;

	*wants_help = false;
	for (int i = 0; i < argc && !r; i++) {
		const char *arg = argv[i], *value = NULL;
		const struct cli_option *o;

		if (is_positional || arg[0] != '-' || !arg[1]) {
			if (!verb->positional)
				return err_set(err, EINVAL, verb->help,
					       "%s: what is '%.80s'?",
					       verb->name, arg);
			r = list_add((void *)((char *)args +
					      verb->positional_offset),
				     verb->positional, arg, err);
			continue;
		}
		if (!strcmp(arg, "--")) {
			is_positional = true;
			continue;
		}
		if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
			*wants_help = true;
			return 0;
		}
		if (arg[1] == '-') {
			size_t len = strcspn(arg + 2, "=");

			o = find_name(verb, arg + 2, len);
			value = arg[2 + len] ? arg + 3 + len : NULL;
		} else {
			o = find_letter(verb, arg[1]);
			value = arg[2] ? arg + 2 : NULL;
		}
		if (!o)
			return unknown_option(verb, arg,
					      arg + 1 + (arg[1] == '-'), err);
		if (o->kind != CLI_FLAG && !value) {
			if (i + 1 == argc)
				return err_set(err, EINVAL, o->help,
					       "--%s needs a value: %s",
					       o->name, o->value);
			value = argv[++i];
		}
		r = set_option(o, value, args, err);
	}
	return r;
}

void cli_help(const struct cli_verb *verb)
{
	printf("Usage: ringer %s [options]%s%s\n\n%s.\n\nExamples:\n",
	       verb->name, verb->positional ? " " : "",
	       verb->positional ? verb->positional : "", verb->help);
	for (const char *const *e = verb->examples; *e; e++)
		printf("  %s\n", *e);
	printf("\nOptions:\n");
	for (const struct cli_option *o = verb->options; o->name; o++) {
		char left[48], letter[8] = "    ";

		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c, ", o->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name,
			 o->value ? " " : "", o->value ? o->value : "");
		printf("  %-32s %s\n", left, o->help);
	}
	printf("  %-32s %s\n", "-h, --help", "this text");
	if (verb->more_help)
		verb->more_help();
}
