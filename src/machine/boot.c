#include "machine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/overflow.h"
#include "machine/vm.h"

#define COPY_CHUNK  (256 * KiB)
#define MAX_MODULES 64

static const struct boot_loader *const loaders[] = {
	&boot_linux,
	&boot_multiboot, /* before ELF: the header is inside an ELF file */
	&boot_elf,
	NULL,
};

/* What people give by mistake, told by the first bytes. */
/* clang-format off */
static const struct {
	uint8_t len;
	const char *magic, *what, *hint;
} mistaken[] = {
	{ 2, "\x1f\x8b", "a gzip file", "unpack it with gunzip" },
	{ 5,
	  "\xfd"
	  "7zXZ",
	  "an xz file", "unpack it with unxz" },
	{ 4, "\x28\xb5\x2f\xfd", "a zstd file", "unpack it with unzstd" },
	{ 4, "QFI\xfb", "a qcow2 disk image", "give it as a disk" },
	{ 2, "MZ", "an EFI program, not a Linux kernel for x86", NULL },
	{ 6, "070701", "a cpio archive", "give it as the initrd (-i)" },
};
/* clang-format on */

int boot_error(const struct boot_file *f, int errnum, struct err *err,
	       const char *hint, const char *fmt, ...)
{
	char why[240];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return err_set(err, errnum, hint, "cannot boot '%.60s': %s", f->name,
		       why);
}

static int file_open(struct boot_file *f, const char *what, const char *path,
		     struct err *err)
{
	struct stat stat;
	int r;

	f->fd = -1;
	f->name = strdup(path);
	if (!f->name)
		return err_set(err, ENOMEM, NULL, "cannot open the %s:", what);
	/* O_NONBLOCK: do not wait for a writer of a named pipe. */
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0 || fstat(f->fd, &stat) < 0) {
		r = errno;
		return err_set(err, r,
			       r == EACCES ? "check its permissions" : NULL,
			       "cannot open the %s '%.100s':", what, path);
	}
	if (!S_ISREG(stat.st_mode))
		return err_set(
			err, EINVAL, "give a regular file",
			"cannot use '%.100s' as the %s: it is %s", path, what,
			S_ISDIR(stat.st_mode) ? "a directory" : "not a file");
	f->size = (uint64_t)stat.st_size;
	return 0;
}

static void file_close(struct boot_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->name);
}

int boot_file_read(const struct boot_file *f, uint64_t offset, void *buf,
		   uint64_t len, struct err *err)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, errno, NULL,
				       "cannot read '%.100s':", f->name);
		if (n == 0)
			return boot_error(f, EINVAL, err, "get the file again",
					  "it is truncated");
		p += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int boot_file_load(const struct boot_file *f, uint64_t offset, uint64_t len,
		   const struct boot_target *to, uint64_t gpa, uint64_t mem_len,
		   struct err *err)
{
	uint8_t *buf = malloc(COPY_CHUNK);
	int r = 0;

	if (!buf)
		return err_set(err, ENOMEM, NULL,
			       "cannot load '%.100s':", f->name);
	while (len && !r) {
		uint64_t n = MIN(len, COPY_CHUNK);

		r = boot_file_read(f, offset, buf, n, err);
		if (!r)
			r = gmem_load(to->mem, gpa, buf, n);
		offset += n;
		gpa += n;
		len -= n;
		mem_len -= n;
	}
	memset(buf, 0, COPY_CHUNK);
	while (to->is_used && mem_len && !r) {
		uint64_t n = MIN(mem_len, COPY_CHUNK);

		r = gmem_load(to->mem, gpa, buf, n);
		gpa += n;
		mem_len -= n;
	}
	free(buf);
	if (r)
		err_set(err, -r, NULL, "cannot load '%.100s':", f->name);
	return r;
}

int boot_check_ram(const struct boot_file *f, const struct boot_target *to,
		   const char *what, uint64_t gpa, uint64_t len,
		   struct err *err)
{
	if (!memmap_is_ram(to->map, gpa, len))
		return boot_error(f, ENOMEM, err, "give more memory (-m)",
				  "%s (%llu KiB at 0x%llx) does not fit into "
				  "memory",
				  what, (unsigned long long)(len / KiB),
				  (unsigned long long)gpa);
	if (range_overlaps(gpa, len, BOOT_AREA, BOOT_AREA_END - BOOT_AREA))
		return boot_error(f, EINVAL, err, NULL,
				  "%s is at 0x%llx, where boot information "
				  "goes",
				  what, (unsigned long long)gpa);
	return 0;
}

int boot_place_module(const struct boot *b, unsigned i,
		      const struct boot_target *to, uint64_t *next,
		      uint64_t *gpa, struct err *err)
{
	const struct boot_file *f = &b->module[i].file;
	int r;

	/* (*next) is the end of something in low RAM: no overflow. */
	*gpa = ALIGN_UP(MAX(*next, MEM_LOW), PAGE_SIZE);
	if (*gpa >= to->map->low_end || f->size > to->map->low_end - *gpa)
		return err_set(err, ENOMEM, "give more memory (-m)",
			       "cannot load '%.100s': %llu MiB do not fit into "
			       "memory behind the kernel",
			       f->name, (unsigned long long)(f->size / MiB));
	r = boot_file_load(f, 0, f->size, to, *gpa, f->size, err);
	*next = *gpa + f->size;
	return r;
}

const char *boot_file_base(const struct boot_file *f)
{
	const char *slash = strrchr(f->name, '/');

	return slash ? slash + 1 : f->name;
}

struct x86_seg boot_flat_seg(uint16_t sel, bool is_code, bool is_long)
{
	return (struct x86_seg){
		.sel = sel,
		.limit = UINT32_MAX,
		.attr = (uint16_t)(ATTR_ACCESSED | ATTR_RW |
				   (is_code ? ATTR_CODE : 0) | ATTR_S | ATTR_P |
				   (is_long ? ATTR_L : ATTR_DB) | ATTR_G),
	};
}

void boot_enter_32(struct x86_state *st, uint32_t entry)
{
	memset(st->gpr, 0, sizeof(st->gpr));
	st->rip = entry;
	st->rflags = FLAG_ONE;
	st->cr0 = CR0_PE | CR0_ET;
	st->cr4 = 0;
	st->efer = 0;
	for (unsigned i = 0; i < NR_SEG; i++)
		st->seg[i] = boot_flat_seg(i == SEG_CS ? 0x10 : 0x18,
					   i == SEG_CS, false);
	st->tr = (struct x86_seg){ .limit = 0x67,
				   .attr = SYS_TSS_BUSY | ATTR_P };
	st->ldtr = (struct x86_seg){ .attr = ATTR_UNUSABLE };
}

static int modules_open(struct boot *b, const struct vm_config *config,
			struct err *err)
{
	unsigned nr = config->nr_modules + !!config->initrd;

	if (nr > MAX_MODULES)
		return err_set(err, E2BIG, NULL,
			       "cannot boot with more than %u modules",
			       MAX_MODULES);
	b->module = calloc(MAX(nr, 1u), sizeof(*b->module));
	if (!b->module)
		return err_set(err, ENOMEM, NULL, "cannot open modules:");
	for (unsigned i = 0; i < nr; i++) {
		struct boot_module *m = &b->module[b->nr_modules];
		struct vm_module from = { .path = config->initrd };
		bool is_initrd = config->initrd && !i;
		int r;

		if (!is_initrd)
			from = config->modules[i - !!config->initrd];
		b->nr_modules++; /* boot_close() sees it from here on */
		r = file_open(&m->file, is_initrd ? "initrd" : "module",
			      from.path, err);
		if (r)
			return r;
		if (!from.cmdline)
			continue;
		m->cmdline = strdup(from.cmdline);
		if (!m->cmdline)
			return err_set(err, ENOMEM, NULL,
				       "cannot open modules:");
	}
	return 0;
}

/* Find the loader, or say what the file is instead. */
static int recognise(struct boot *b, struct err *err)
{
	for (unsigned i = 0; loaders[i]; i++) {
		if (loaders[i]->matches(b)) {
			b->loader = loaders[i];
			return 0;
		}
	}
	if (!b->head_len)
		return boot_error(&b->kernel, EINVAL, err, NULL, "it is empty");
	for (unsigned i = 0; i < ARRAY_SIZE(mistaken); i++)
		if (b->head_len >= mistaken[i].len &&
		    !memcmp(b->head, mistaken[i].magic, mistaken[i].len))
			return boot_error(&b->kernel, ENOEXEC, err,
					  mistaken[i].hint, "it is %s",
					  mistaken[i].what);
	if (load_le16(b->head + 510) == 0xaa55)
		return boot_error(&b->kernel, ENOEXEC, err, "give it as a disk",
				  "it is a boot sector or a disk");
	return boot_error(&b->kernel, ENOEXEC, err,
			  "known are Linux bzImage, ELF with a PVH note, and "
			  "multiboot",
			  "it is no kernel of a known kind");
}

int boot_open(struct boot **boot, const struct vm_config *config,
	      struct err *err)
{
	struct boot *b;
	int r;

	if (!config->kernel)
		return err_set(err, EINVAL, "give a kernel with -k",
			       "nothing to boot");
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_set(err, ENOMEM, NULL, "cannot open the kernel:");
	r = file_open(&b->kernel, "kernel", config->kernel, err);
	if (r)
		goto err_close;
	b->head_len = MIN(b->kernel.size, sizeof(b->head));
	r = boot_file_read(&b->kernel, 0, b->head, b->head_len, err);
	if (r)
		goto err_close;
	r = recognise(b, err);
	if (r)
		goto err_close;
	b->cmdline = strdup(config->append ? config->append : "");
	if (!b->cmdline) {
		r = err_set(err, ENOMEM, NULL, "cannot open the kernel:");
		goto err_close;
	}
	r = modules_open(b, config, err);
	if (r)
		goto err_close;
	*boot = b;
	return 0;

err_close:
	boot_close(b);
	return r;
}

void boot_close(struct boot *b)
{
	if (!b)
		return;
	for (unsigned i = 0; i < b->nr_modules; i++) {
		file_close(&b->module[i].file);
		free(b->module[i].cmdline);
	}
	free(b->module);
	free(b->cmdline);
	file_close(&b->kernel);
	free(b);
}

int boot_load(const struct boot *b, const struct boot_target *to,
	      struct x86_state *st, struct err *err)
{
	return b->loader->load(b, to, st, err);
}
