#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "chr/chr_impl.h"

#define PATIENCE_MS 10000

struct chr_file {
	struct chr chr;
	struct writer writer;
	int fd;
};

static struct chr_file *to_file(struct chr *chr)
{
	return container_of(chr, struct chr_file, chr);
}

static void file_output(struct chr *chr)
{
	writer_wake(&to_file(chr)->writer);
}

static void file_close(struct chr *chr)
{
	struct chr_file *file = to_file(chr);

	writer_stop(&file->writer, PATIENCE_MS);
	if (file->fd >= 0)
		close(file->fd);
	chr_fini(chr);
	free(file);
}

static const struct chr_ops file_ops = {
	.output = file_output,
	.close = file_close,
};

int chr_file_open(struct chr **chr, const char *path, struct loop *loop,
		  struct err *err)
{
	struct chr_file *file = calloc(1, sizeof(*file));
	int r;

	if (!file)
		return err_set(err, ENOMEM, NULL, "cannot open '%s':", path);
	r = chr_init(&file->chr, &file_ops, loop, 0, CHR_FILE_BUFFER);
	/* O_NONBLOCK: not to wait for the reader of a pipe. */
	file->fd = open(path,
			O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY |
				O_NONBLOCK,
			0666);
	if (!r && file->fd < 0)
		r = -errno;
	if (!r)
		r = writer_start(&file->writer, &file->chr, file->fd, err);
	if (r < 0) {
		err_set(err, -r, NULL, "cannot open '%s' for output:", path);
		file_close(&file->chr);
		return r;
	}
	*chr = &file->chr;
	return 0;
}
