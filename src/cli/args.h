/*
 * The command line, by tables: each verb lists its options once, and the same
 * list parses, prints the help and finds what a mistyped option meant.
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include "base/err.h"

/** How often an option may be given and where its value goes in the verb's
 * struct: a flag (bool), a text (const char *), or a list of texts. */
enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_LIST };

#define CLI_LIST_MAX 32

/** The values of a CLI_LIST option, in order. */
struct cli_list {
	const char *item[CLI_LIST_MAX];
	unsigned nr;
};

/** An option; (letter) may be 0. (value) names its value in the help. */
struct cli_option {
	char letter;
	const char *name;
	enum cli_kind kind;
	size_t offset;
	const char *value, *help;
};

/** A verb of ringer. (positional) names what follows the options, for the
 * help; the values go to a cli_list at (positional_offset). */
struct cli_verb {
	const char *name, *positional, *help;
	const char *const *examples;      /* ends with NULL */
	const struct cli_option *options; /* ends with no name */
	size_t args_size, positional_offset;
	/* More help, printed last; may be NULL. */
	void (*more_help)(void);
	/* Returns the exit code. */
	int (*run)(const void *args);
};

/** Read (argv), without the verb's name, into (args), zeroed and of
 * (verb->args_size). 0, or -EINVAL with (err). (*wants_help) is set by --help,
 * and the rest is not read. */
int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *args,
	      bool *wants_help, struct err *err);

/** Print the help of (verb) on stdout. */
void cli_help(const struct cli_verb *verb);

extern const struct cli_verb cli_run, cli_list_verb, cli_ctl;

/** Exit codes (ringer --help prints them). */
enum cli_exit {
	CLI_USAGE = 2,
	CLI_PANIC = 110,
	CLI_TRIPLE_FAULT = 111,
	CLI_FAILED = 125,
	CLI_SIGNAL = 128,
};

#endif
