/*
 * What a running machine can be told and asked: one table, from which the
 * control socket dispatches and `ringer ctl` prints its help.
 */
#ifndef CONTROL_COMMANDS_H
#define CONTROL_COMMANDS_H

#include <jansson.h>

#include "base/err.h"

struct vm;

/** How an argument is written. */
enum command_arg_type { ARG_STRING, ARG_NUMBER, ARG_BOOL };

/** One argument of a command. */
struct command_arg {
	const char *name;
	enum command_arg_type type;
	bool is_required;
	const char *help;
};

/** One command. (fn) runs on the main loop and returns a new reference, or
 * NULL with (err). (args) ends with an entry without a name. */
struct command {
	const char *name;
	const char *qmp; /* the name that QMP clients know it by, or NULL */
	const char *help;
	const struct command_arg *args;
	json_t *(*fn)(struct vm *vm, const json_t *args, struct err *err);
};

/** All commands; ends with an entry without a name. */
extern const struct command commands[];

/** The command called (name) or known to QMP by it, or NULL. */
const struct command *command_find(const char *name);

/** Check (args), an object, against (cmd)'s list, then run it. */
json_t *command_run(const struct command *cmd, struct vm *vm,
		    const json_t *args, struct err *err);

#endif
