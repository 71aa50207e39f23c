/*
 * A listening UNIX socket. One client is served at a time; others wait in the
 * socket's backlog. What the guest wrote while nobody was connected, up to the
 * buffer, goes to the next client, so that one that comes late sees how the
 * guest got where it is.
 *
 * A client that has closed its sending side still gets output, until it hangs
 * up altogether; one that hangs up is read to its end first.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "chr/chr_impl.h"

#define PATIENCE_MS 1000

struct chr_socket {
	struct chr chr;
	struct loop_fd listener, client;
	struct loop_work flush;
	bool has_client, is_eof, is_hung_up;
	struct sockaddr_un addr;
	bool is_bound;
	ino_t inode; /* what is bound: another may take the name later */
};

static struct chr_socket *to_socket(struct chr *chr)
{
	return container_of(chr, struct chr_socket, chr);
}

/* Edge-triggered: a client that cannot be accepted, for want of descriptors,
 * must not keep the loop spinning. Watching anew shows who waits already. */
static void listen_again(struct chr_socket *s)
{
	loop_watch(s->chr.loop, &s->listener, EPOLLIN | EPOLLET);
}

static void drop_client(struct chr_socket *s)
{
	loop_unwatch(&s->client);
	close(s->client.fd);
	s->has_client = false;
	listen_again(s);
}

/* Send what can be sent; false when the client is gone. */
static bool send_out(struct chr_socket *s)
{
	struct fifo *out = &s->chr.out;
	const uint8_t *p;
	ssize_t n = 0;
	size_t len;

	pthread_mutex_lock(&s->chr.lock);
	while (out->len && n >= 0) {
		p = fifo_peek(out, &len);
		n = send(s->client.fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			fifo_drop(out, n);
	}
	pthread_mutex_unlock(&s->chr.lock);
	return n >= 0 || errno == EAGAIN || errno == EINTR;
}

static bool has_output(struct chr_socket *s)
{
	bool has;

	pthread_mutex_lock(&s->chr.lock);
	has = s->chr.out.len;
	pthread_mutex_unlock(&s->chr.lock);
	return has;
}

static void watch_client(struct chr_socket *s)
{
	uint32_t events = 0;

	if (!s->is_eof && fifo_room(&s->chr.in))
		events |= EPOLLIN;
	if (!s->is_hung_up) {
		if (has_output(s))
			events |= EPOLLOUT;
		else if (s->is_eof)
			events |= EPOLLERR; /* and EPOLLHUP */
	}
	loop_watch(s->chr.loop, &s->client, events);
}

static void read_in(struct chr_socket *s)
{
	uint8_t buf[4096];
	ssize_t n;

	while (!s->is_eof && fifo_room(&s->chr.in)) {
		n = recv(s->client.fd, buf,
			 MIN(sizeof(buf), fifo_room(&s->chr.in)), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			s->is_eof = true;
		else
			fifo_put(&s->chr.in, buf, n);
	}
}

static void client_ready(void *opaque, uint32_t events)
{
	struct chr_socket *s = opaque;

	if (events & (EPOLLHUP | EPOLLERR))
		s->is_hung_up = true;
	read_in(s);
	if ((s->is_hung_up && s->is_eof) || (!s->is_hung_up && !send_out(s)))
		drop_client(s);
	else
		watch_client(s);
	chr_deliver(&s->chr);
}

static void listener_ready(void *opaque, uint32_t events)
{
	struct chr_socket *s = opaque;
	int fd = accept4(s->listener.fd, NULL, NULL,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno != EAGAIN)
			log_warn("cannot accept a client of '%s': %s",
				 s->addr.sun_path, strerror(errno));
		return;
	}
	loop_watch(s->chr.loop, &s->listener, 0);
	s->client.fd = fd;
	s->has_client = true;
	s->is_eof = s->is_hung_up = false;
	client_ready(s, 0);
}

static void run_flush(void *opaque)
{
	struct chr_socket *s = opaque;

	if (s->has_client && !s->is_hung_up)
		client_ready(s, 0);
}

static void socket_output(struct chr *chr)
{
	loop_post(chr->loop, &to_socket(chr)->flush);
}

static void socket_input(struct chr *chr)
{
	struct chr_socket *s = to_socket(chr);

	if (s->has_client)
		watch_client(s);
}

static void socket_close(struct chr *chr)
{
	struct chr_socket *s = to_socket(chr);
	struct pollfd ready = { .fd = s->client.fd, .events = POLLOUT };
	struct stat st;

	loop_unpost(chr->loop, &s->flush);
	loop_unwatch(&s->listener);
	if (s->has_client) {
		loop_unwatch(&s->client);
		while (has_output(s) && send_out(s) && has_output(s) &&
		       poll(&ready, 1, PATIENCE_MS) > 0)
			;
		close(s->client.fd);
	}
	if (s->is_bound && !lstat(s->addr.sun_path, &st) &&
	    st.st_ino == s->inode)
		unlink(s->addr.sun_path);
	if (s->listener.fd >= 0)
		close(s->listener.fd);
	chr_fini(chr);
	free(s);
}

static const struct chr_ops socket_ops = {
	.output = socket_output,
	.input = socket_input,
	.close = socket_close,
};

/* Is (addr) the socket of a process that is gone? */
static bool is_stale(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool is_refused;

	if (fd < 0)
		return false;
	is_refused =
		connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) &&
		errno == ECONNREFUSED;
	close(fd);
	return is_refused;
}

static int bind_path(struct chr_socket *s)
{
	const struct sockaddr *addr = (const struct sockaddr *)&s->addr;
	struct stat st;

	/* Until it is bound, this is the mode that it will have. */
	fchmod(s->listener.fd, 0600);
	if (bind(s->listener.fd, addr, sizeof(s->addr))) {
		if (errno != EADDRINUSE)
			return -errno;
		if (lstat(s->addr.sun_path, &st) || !S_ISSOCK(st.st_mode) ||
		    !is_stale(&s->addr))
			return -EADDRINUSE;
		unlink(s->addr.sun_path);
		if (bind(s->listener.fd, addr, sizeof(s->addr)))
			return -errno;
	}
	s->is_bound = true;
	if (!lstat(s->addr.sun_path, &st))
		s->inode = st.st_ino;
	return listen(s->listener.fd, 8) ? -errno : 0;
}

int chr_socket_open(struct chr **chr, const char *path, struct loop *loop,
		    struct err *err)
{
	struct chr_socket *s;
	int r;

	if (strlen(path) >= sizeof(s->addr.sun_path))
		return err_set(err, ENAMETOOLONG, "107 bytes are the limit",
			       "cannot listen on '%s':", path);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, NULL,
			       "cannot listen on '%s':", path);
	s->addr.sun_family = AF_UNIX;
	memcpy(s->addr.sun_path, path, strlen(path));
	s->listener.fn = listener_ready;
	s->client.fn = client_ready;
	s->flush.fn = run_flush;
	s->listener.opaque = s->client.opaque = s->flush.opaque = s;
	r = chr_init(&s->chr, &socket_ops, loop, 4 * KiB, CHR_BUFFER);
	s->listener.fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (!r && s->listener.fd < 0)
		r = -errno;
	if (!r)
		r = bind_path(s);
	if (!r)
		r = loop_watch(loop, &s->listener, EPOLLIN | EPOLLET);
	if (r < 0) {
		err_set(err, -r, NULL, "cannot listen on '%s':", path);
		socket_close(&s->chr);
		return r;
	}
	*chr = &s->chr;
	return 0;
}
