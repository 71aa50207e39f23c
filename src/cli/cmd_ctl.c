/* ringer list, ringer ctl: talking to machines that run. */
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "cli/args.h"
#include "control/client.h"
#include "control/commands.h"
#include "control/rundir.h"

/* ---- list --------------------------------------------------------------- */

struct list_args {
	bool json, quiet;
};

struct listing {
	const struct list_args *args;
	json_t *all;
	bool has_header;
};

static int list_one(void *opaque, const char *name, long pid)
{
	struct listing *l = opaque;
	struct err err = { "", "" };
	json_t *status;

	if (l->args->quiet) {
		printf("%s\n", name);
		return 0;
	}
	status = control_ask(name, "status", NULL, &err);
	if (!status)
		status = json_pack("{s:s, s:s}", "name", name, "status", "?");
	json_object_set_new(status, "pid", json_integer(pid));
	if (l->args->json) {
		json_array_append(l->all, status);
	} else {
		const char *state, *accel = "?";
		json_int_t memory = 0;
		int cpus = 0;

		if (!l->has_header)
			printf("%-20s %-8s %-9s %-7s %4s %8s\n", "NAME", "PID",
			       "STATUS", "ACCEL", "CPUS", "MEMORY");
		l->has_header = true;
		json_unpack(status, "{s:s, s?s, s?i, s?I}", "status", &state,
			    "accel", &accel, "cpus", &cpus, "memory", &memory);
		printf("%-20s %-8ld %-9s %-7s %4d %6" JSON_INTEGER_FORMAT "M\n",
		       name, pid, state, accel, cpus, memory / (json_int_t)MiB);
	}
	json_decref(status);
	return 0;
}

static int run_list(const void *opaque)
{
	struct listing l = { .args = opaque, .all = json_array() };

	rundir_for_each(list_one, &l);
	if (l.args->json) {
		json_dumpf(l.all, stdout, JSON_INDENT(2));
		printf("\n");
	}
	json_decref(l.all);
	return 0;
}

static const struct cli_option list_options[] = {
	{ 0, "json", CLI_FLAG, offsetof(struct list_args, json), NULL,
	  "print JSON" },
	{ 'q', "quiet", CLI_FLAG, offsetof(struct list_args, quiet), NULL,
	  "print names only" },
	{ .name = NULL },
};

static const char *const list_examples[] = { "ringer list",
					     "ringer list --json",
					     "ringer list -q", NULL };

const struct cli_verb cli_list_verb = {
	.name = "list",
	.help = "List the machines that run",
	.examples = list_examples,
	.options = list_options,
	.args_size = sizeof(struct list_args),
	.run = run_list,
};

/* ---- ctl ---------------------------------------------------------------- */

struct ctl_args {
	struct cli_list words;
};

/* "key=value" as the command's argument of that name wants it. */
static int add_argument(json_t *args, const struct command *cmd,
			const char *word, struct err *err)
{
	size_t len = strcspn(word, "=");
	char key[64], path[PATH_MAX];
	const char *value = word + len + 1;
	const struct command_arg *a = cmd->args;

	if (!word[len] || len >= sizeof(key))
		return err_set(err, EINVAL, NULL,
			       "'%.60s' is not of the form key=value", word);
	memcpy(key, word, len);
	key[len] = 0;
	while (a && a->name && strcmp(a->name, key) != 0)
		a++;
	if (a && a->name && a->type == ARG_BOOL) {
		json_object_set_new(args, key,
				    json_boolean(!strcmp(value, "on") ||
						 !strcmp(value, "true")));
		return 0;
	}
	/* The machine's working directory is not ours. */
	if (!strcmp(key, "file") && value[0] != '/' &&
	    getcwd(path, sizeof(path)))
		json_object_set_new(args, key,
				    json_sprintf("%s/%s", path, value));
	else
		json_object_set_new(args, key, json_string(value));
	return 0;
}

static void print_result(const json_t *result)
{
	if (json_object_size(result) || json_array_size(result)) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		printf("\n");
	}
}

static int usage(const struct err *err)
{
	err_print(err);
	return CLI_USAGE;
}

static int run_ctl(const void *opaque)
{
	const struct ctl_args *a = opaque;
	const struct command *cmd;
	struct err err = { "", "" };
	json_t *args, *result;

	if (a->words.nr < 2) {
		err_set(&err, EINVAL, "ringer ctl NAME COMMAND [key=value...]",
			"ctl needs a machine's name and a command");
		return usage(&err);
	}
	cmd = command_find(a->words.item[1]);
	if (!cmd) {
		err_set(&err, EINVAL, "ringer ctl --help lists them",
			"there is no command '%.60s'", a->words.item[1]);
		return usage(&err);
	}
	args = json_object();
	for (unsigned i = 2; i < a->words.nr; i++)
		if (add_argument(args, cmd, a->words.item[i], &err)) {
			json_decref(args);
			return usage(&err);
		}
	result = control_ask(a->words.item[0], cmd->name, args, &err);
	json_decref(args);
	if (!result) {
		err_print(&err);
		return CLI_FAILED;
	}
	print_result(result);
	json_decref(result);
	return 0;
}

static void ctl_more_help(void)
{
	printf("\nCommands:\n");
	for (const struct command *c = commands; c->name; c++) {
		printf("  %-12s %s\n", c->name, c->help);
		for (const struct command_arg *a = c->args; a && a->name; a++)
			printf("               %s%s\n", a->help,
			       a->is_required ? " (required)" : "");
	}
}

static const struct cli_option no_options[] = { { .name = NULL } };

static const char *const ctl_examples[] = {
	"ringer ctl vm1 pause", "ringer ctl vm1 xlate gva=0xffffffff81000000",
	"ringer ctl vm1 dump gpa=0x1000 length=64", NULL
};

const struct cli_verb cli_ctl = {
	.name = "ctl",
	.positional = "NAME COMMAND [key=value...]",
	.positional_offset = offsetof(struct ctl_args, words),
	.help = "Tell or ask a running machine",
	.examples = ctl_examples,
	.options = no_options,
	.args_size = sizeof(struct ctl_args),
	.more_help = ctl_more_help,
	.run = run_ctl,
};
