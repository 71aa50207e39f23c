/* The other end of a control socket. */
#ifndef CONTROL_CLIENT_H
#define CONTROL_CLIENT_H

#include <jansson.h>

#include "base/err.h"

/**
 * Connect to the machine (name), run (command) with (args), which may be NULL,
 * and return what it returned (a new reference), or NULL with (err). Waits.
 */
json_t *control_ask(const char *name, const char *command, json_t *args,
		    struct err *err);

#endif
