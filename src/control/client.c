#include "control/client.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/rundir.h"

static bool send_request(int fd, const char *command, json_t *args)
{
	json_t *request = json_pack("{s:s}", "execute", command);
	char *text;
	size_t len, sent = 0;

	if (args)
		json_object_set(request, "arguments", args);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	len = text ? strlen(text) : 0;
	while (sent < len) {
		ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			break;
		sent += n > 0 ? (size_t)n : 0;
	}
	free(text);
	return len && sent == len;
}

/* The next object that is no event. NULL: the machine has gone. */
static json_t *receive_answer(int fd)
{
	for (;;) {
		json_t *o = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, NULL);

		if (!o || !json_object_get(o, "event"))
			return o;
		json_decref(o);
	}
}

/* Send one request and take its answer apart. */
static json_t *exchange(int fd, const char *name, const char *command,
			json_t *args, struct err *err)
{
	json_t *answer = NULL, *result, *error;

	if (send_request(fd, command, args))
		answer = receive_answer(fd);
	if (!answer) {
		err_set(err, EPIPE, NULL,
			"machine '%s' ended before it answered", name);
		return NULL;
	}
	result = json_incref(json_object_get(answer, "return"));
	error = json_object_get(answer, "error");
	if (!result) {
		const char *desc =
			json_string_value(json_object_get(error, "desc"));
		const char *hint =
			json_string_value(json_object_get(error, "hint"));

		err_set(err, EINVAL, hint, "%s: %s", name,
			desc ? desc : "an answer without a result");
	}
	json_decref(answer);
	return result;
}

json_t *control_ask(const char *name, const char *command, json_t *args,
		    struct err *err)
{
	json_t *greeting, *ready, *result = NULL;
	int fd = rundir_connect(name, err);

	if (fd < 0)
		return NULL;
	greeting = receive_answer(fd);
	ready = exchange(fd, name, "qmp_capabilities", NULL, err);
	if (ready)
		result = exchange(fd, name, command, args, err);
	json_decref(ready);
	json_decref(greeting);
	close(fd);
	return result;
}
