#include "control/server.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "control/commands.h"
#include "host/loop.h"
#include "machine/vm.h"

/* A client that sends more without completing an object is cut off, and so is
 * one that does not read its answers: neither can make the machine grow. */
#define MAX_REQUEST (256 * KiB)
#define MAX_ANSWERS (4 * MiB)
#define MAX_CLIENTS 16

struct client {
	struct list link;
	struct control *control;
	struct loop_fd fd;
	bool is_negotiated, is_ending;
	char *in, *out;
	size_t in_len, out_len, out_sent;
};

struct control {
	struct vm *vm;
	struct loop_fd listener;
	int spare_fd; /* see refuse() */
	struct list clients;
	unsigned nr_clients;
};

static void client_drop(struct client *c)
{
	loop_unwatch(&c->fd);
	close(c->fd.fd);
	list_remove(&c->link);
	c->control->nr_clients--;
	free(c->in);
	free(c->out);
	free(c);
}

/* Send what the socket takes. False: the client is gone. */
static bool client_flush(struct client *c)
{
	while (c->out_sent < c->out_len) {
		ssize_t n = send(c->fd.fd, c->out + c->out_sent,
				 c->out_len - c->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return false;
		c->out_sent += (size_t)n;
	}
	if (c->out_sent == c->out_len) {
		c->out_sent = c->out_len = 0;
		if (c->is_ending)
			return false;
	}
	return !loop_watch(c->control->vm->loop, &c->fd,
			   (c->is_ending ? 0 : EPOLLIN) |
				   (c->out_len ? EPOLLOUT : 0));
}

/* Queue (answer), whose reference is taken, and a line end. */
static bool client_send(struct client *c, json_t *answer)
{
	char *text = json_dumps(answer, JSON_COMPACT | JSON_ENSURE_ASCII);
	size_t len = text ? strlen(text) : 0;
	char *out = NULL;

	json_decref(answer);
	if (text && c->out_len + len + 2 <= MAX_ANSWERS)
		out = realloc(c->out, c->out_len + len + 2);
	if (out) {
		c->out = out;
		memcpy(out + c->out_len, text, len);
		memcpy(out + c->out_len + len, "\r\n", 2);
		c->out_len += len + 2;
	}
	free(text);
	return out;
}

/* A string for people. It may have been cut within a character or name a file
 * in another encoding, neither of which JSON takes. */
static json_t *text_json(const char *text)
{
	json_t *string = json_string(text);
	char ascii[sizeof(struct err)];
	size_t i;

	if (string)
		return string;
	for (i = 0; i < sizeof(ascii) - 1 && text[i]; i++)
		ascii[i] = text[i] & 0x80 ? '?' : text[i];
	ascii[i] = 0;
	return json_string(ascii);
}

static json_t *error_answer(const char *cls, const char *desc, const char *hint)
{
	json_t *e =
		json_pack("{s:s, s:o}", "class", cls, "desc", text_json(desc));

	if (hint && hint[0])
		json_object_set_new(e, "hint", text_json(hint));
	return json_pack("{s:o}", "error", e);
}

/* Run one request; a new reference to the answer. */
static json_t *answer_request(struct client *c, const json_t *request)
{
	const char *name =
		json_string_value(json_object_get(request, "execute"));
	const json_t *args = json_object_get(request, "arguments");
	const struct command *cmd;
	struct err err = { "", "" };
	char text[160];
	json_t *result;

	if (!name)
		return error_answer("GenericError",
				    "a request is an object with 'execute'",
				    NULL);
	if (!strcmp(name, "qmp_capabilities")) {
		c->is_negotiated = true;
		return json_pack("{s:{}}", "return");
	}
	if (!c->is_negotiated)
		return error_answer("CommandNotFound",
				    "Expecting capabilities negotiation with "
				    "'qmp_capabilities'",
				    NULL);
	cmd = command_find(name);
	if (!cmd) {
		snprintf(text, sizeof(text),
			 "The command %.100s has not been found", name);
		return error_answer("CommandNotFound", text, NULL);
	}
	result = command_run(cmd, c->control->vm, args, &err);
	if (!result)
		return error_answer("GenericError", err.what, err.hint);
	return json_pack("{s:o}", "return", result);
}

static bool handle_request(struct client *c, const json_t *request)
{
	json_t *answer = answer_request(c, request);
	json_t *id = json_object_get(request, "id");

	if (answer && id)
		json_object_set(answer, "id", id);
	return answer && client_send(c, answer);
}

/* Take complete objects off the input. False: drop the client. */
static bool client_parse(struct client *c)
{
	size_t at = 0;
	bool ok = true;

	while (ok && !c->is_ending) {
		json_error_t e;
		json_t *request;

		at += strspn(c->in + at, " \t\r\n");
		if (at == c->in_len)
			break;
		request = json_loadb(c->in + at, c->in_len - at,
				     JSON_DISABLE_EOF_CHECK, &e);
		if (!request) {
			if (json_error_code(&e) ==
				    json_error_premature_end_of_input &&
			    c->in_len < MAX_REQUEST)
				break;
			/* Where the next object begins is unknown: the last
			 * answer, then the end. */
			c->is_ending = true;
			ok = client_send(c, error_answer("GenericError",
							 "JSON parse error",
							 NULL));
			at = c->in_len;
			break;
		}
		at += (size_t)e.position;
		ok = handle_request(c, request);
		json_decref(request);
	}
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
	return ok;
}

static void client_ready(void *opaque, uint32_t events)
{
	struct client *c = opaque;

	if (!c->is_ending && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		ssize_t n = recv(c->fd.fd, c->in + c->in_len,
				 MAX_REQUEST - c->in_len, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			client_drop(c);
			return;
		}
		if (n > 0) {
			c->in_len += (size_t)n;
			c->in[c->in_len] = 0;
			if (!client_parse(c)) {
				client_drop(c);
				return;
			}
		}
	}
	if (!client_flush(c))
		client_drop(c);
}

static void client_accept(struct control *control, int fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return;
	}
	*c = (struct client){
		.control = control,
		.fd = { .fd = fd, .fn = client_ready, .opaque = c },
		.in = malloc(MAX_REQUEST + 1),
	};
	list_insert(&control->clients, &c->link);
	control->nr_clients++;
	if (!c->in ||
	    !client_send(c, json_pack("{s:{s:{s:{s:i, s:i, s:i}, s:s}, s:[]}}",
				      "QMP", "version", "qemu", "major", 7,
				      "minor", 2, "micro", 0, "package",
				      "ringer", "capabilities")) ||
	    !client_flush(c))
		client_drop(c);
}

/* The process has no descriptor left for a client: one is held back to take the
 * client and send it away. False: not even that helped. */
static bool refuse(struct control *control)
{
	int fd;

	if (control->spare_fd >= 0)
		close(control->spare_fd);
	fd = accept4(control->listener.fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	control->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	log_warn("no control client can be taken: too many open files");
	return fd >= 0;
}

/* Edge-triggered: a client that cannot be taken must not keep the loop awake. */
static void listener_ready(void *opaque, uint32_t events)
{
	struct control *control = opaque;
	bool goes_on = true;

	while (goes_on) {
		int fd = accept4(control->listener.fd, NULL, NULL,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0 && control->nr_clients < MAX_CLIENTS)
			client_accept(control, fd);
		else if (fd >= 0)
			close(fd);
		else
			goes_on = errno == ECONNABORTED || errno == EINTR ||
				  (errno == EMFILE && refuse(control));
	}
}

int control_create(struct control **control, struct vm *vm,
		   const struct rundir *dir, struct err *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(err, ENOMEM, NULL, "cannot serve control:");
	c->vm = vm;
	list_init(&c->clients);
	c->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	r = rundir_listen(dir, err);
	if (r < 0)
		goto err_free;
	c->listener =
		(struct loop_fd){ .fd = r, .fn = listener_ready, .opaque = c };
	r = loop_watch(vm->loop, &c->listener, EPOLLIN | EPOLLET);
	if (r) {
		err_set(err, -r, NULL, "cannot watch the control socket:");
		goto err_close;
	}
	*control = c;
	return 0;

err_close:
	close(c->listener.fd);
err_free:
	if (c->spare_fd >= 0)
		close(c->spare_fd);
	free(c);
	return r;
}

void control_destroy(struct control *control)
{
	struct client *c, *next;

	if (!control)
		return;
	list_for_each_safe (c, next, &control->clients, link) {
		client_flush(c);
		client_drop(c);
	}
	loop_unwatch(&control->listener);
	close(control->listener.fd);
	if (control->spare_fd >= 0)
		close(control->spare_fd);
	free(control);
}
