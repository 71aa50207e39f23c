/*
 * The control socket of a running machine. The framing is QMP's: a greeting,
 * then JSON objects {"execute": NAME, "arguments": {...}, "id": ANY} answered
 * by {"return": ...} or {"error": {"class", "desc", "hint"}} with the same id.
 * Requests need no newline between them. Nothing but qmp_capabilities is
 * answered before it was sent, as in QMP.
 */
#ifndef CONTROL_SERVER_H
#define CONTROL_SERVER_H

#include "base/err.h"
#include "control/rundir.h"

struct control;
struct vm;

/** Serve (vm) on a socket in (dir), which is borrowed, from its main loop. */
int control_create(struct control **control, struct vm *vm,
		   const struct rundir *dir, struct err *err);
/** Drop all clients and stop. NULL is fine. */
void control_destroy(struct control *control);

#endif
