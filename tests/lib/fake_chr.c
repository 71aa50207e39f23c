#include "fake_chr.h"

#include <errno.h>
#include <stdlib.h>

int chr_open(struct chr **chr, const char *spec, struct loop *loop,
	     const struct chr_keys *keys, struct err *err)
{
	if (!strcmp(spec, "broken"))
		return err_set(err, EIO, NULL, "cannot open '%s':", spec);
	*chr = calloc(1, sizeof(**chr));
	if (!*chr)
		return -ENOMEM;
	snprintf((*chr)->spec, sizeof((*chr)->spec), "%s", spec);
	return 0;
}

void chr_close(struct chr *chr)
{
	free(chr);
}

void chr_set_user(struct chr *chr, const struct chr_user *user)
{
	chr->has_user = user != NULL;
	if (user)
		chr->user = *user;
}

void chr_write(struct chr *chr, const uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		chr->out[chr->out_len++ % sizeof(chr->out)] = buf[i];
}

void chr_resume(struct chr *chr)
{
	chr->nr_resumes++;
}

void chr_size(struct chr *chr, unsigned *columns, unsigned *rows)
{
	*columns = chr->columns;
	*rows = chr->rows;
}

size_t fake_chr_feed(struct chr *chr, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t done = 0, n;

	while (chr->has_user && done < len) {
		n = MIN(chr->user.can_receive(chr->user.opaque), len - done);
		if (!n)
			break;
		chr->user.receive(chr->user.opaque, p + done, n);
		done += n;
	}
	return done;
}
