/*
 * Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF files, or plain
 * ones whose header gives the addresses (the "a.out kludge").
 */
#include "machine/boot.h"

#include <errno.h>

#include "base/endian.h"
#include "base/log.h"
#include "base/overflow.h"
#include "machine/vm.h"

/* clang-format off */
#define INFO_GPA         0x10000ULL
#define HEADER_MAGIC     0x1badb002
#define BOOTED_MAGIC     0x2badb002

#define HEADER_VIDEO     BIT(2)
#define HEADER_REQUIRED  MASK(15, 3) /* of which we know none */
#define HEADER_ADDRESSES BIT(16)

#define INFO_MEMORY      BIT(0)
#define INFO_CMDLINE     BIT(2)
#define INFO_MODULES     BIT(3)
#define INFO_MEMORY_MAP  BIT(6)
#define INFO_LOADER_NAME BIT(9)
/* clang-format on */

struct mb_header {
	uint32_t magic, flags, checksum;
	/* With HEADER_ADDRESSES: */
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr,
		entry_addr;
};

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr;
	uint32_t config_table, boot_loader_name, apm_table;
};

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct mb_mmap {
	uint32_t size; /* of the rest */
	uint64_t base, len;
	uint32_t type;
} __attribute__((packed));

/* Where the header is, or -1. */
static int find_header(const struct boot *b, struct mb_header *h)
{
	for (size_t at = 0; at + 12 <= b->head_len; at += 4) {
		memset(h, 0, sizeof(*h));
		memcpy(h, b->head + at, MIN(sizeof(*h), b->head_len - at));
		if (h->magic == HEADER_MAGIC &&
		    !(h->magic + h->flags + h->checksum))
			return (int)at;
	}
	return -1;
}

static bool multiboot_matches(const struct boot *b)
{
	struct mb_header h;

	return find_header(b, &h) >= 0;
}

/* Load by the header's own addresses. */
static int load_plain(const struct boot *b, const struct boot_target *to,
		      const struct mb_header *h, uint32_t at,
		      struct boot_elf_info *info, struct err *err)
{
	const struct boot_file *f = &b->kernel;
	uint64_t before = (uint64_t)h->header_addr - h->load_addr;
	uint64_t offset, len, mem_len;
	int r;

	if (!range_fits(at, sizeof(*h), f->size))
		return boot_error(f, EINVAL, err, "get the file again",
				  "it is truncated in its multiboot header");
	if (h->load_addr > h->header_addr || before > at)
		return boot_error(f, EINVAL, err, NULL,
				  "its multiboot header loads it from before "
				  "the file");
	offset = at - before;
	len = f->size - offset;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr ||
		    h->load_end_addr - h->load_addr > len)
			return boot_error(f, EINVAL, err, "get the file again",
					  "it is truncated: its multiboot "
					  "header wants more");
		len = h->load_end_addr - h->load_addr;
	}
	mem_len = len;
	if (h->bss_end_addr > h->load_addr)
		mem_len = MAX(len, h->bss_end_addr - h->load_addr);
	r = boot_check_ram(f, to, "it", h->load_addr, mem_len, err);
	if (r)
		return r;
	info->entry = h->entry_addr;
	info->end = h->load_addr + mem_len;
	return boot_file_load(f, offset, len, to, h->load_addr, mem_len, err);
}

/* The information structure, and behind it what it points to. */
struct info_buf {
	uint8_t *data;
	size_t len, size;
};

static uint32_t put(struct info_buf *ib, const void *data, size_t size)
{
	size_t at = ib->len;

	memcpy(ib->data + at, data, size);
	ib->len = ALIGN_UP(at + size, 8);
	return (uint32_t)(INFO_GPA + at);
}

/* "FILE ARGUMENTS", as loaders have always given it. */
static uint32_t put_cmdline(struct info_buf *ib, const struct boot_file *f,
			    const char *args)
{
	char *at = (char *)ib->data + ib->len;
	int len = snprintf(at, ib->size - ib->len, "%s%s%s", boot_file_base(f),
			   args && *args ? " " : "", args ? args : "");
	uint32_t gpa = (uint32_t)(INFO_GPA + ib->len);

	ib->len = ALIGN_UP(ib->len + (size_t)len + 1, 8);
	return gpa;
}

static size_t cmdline_size(const struct boot_file *f, const char *args)
{
	return strlen(boot_file_base(f)) + (args ? strlen(args) : 0) + 2 + 8;
}

static int info_size(const struct boot *b, size_t *size, struct err *err)
{
	*size = sizeof(struct mb_info) + 64 +
		MEM_MAX_ENTRIES * sizeof(struct mb_mmap) +
		b->nr_modules * sizeof(struct mb_module) +
		cmdline_size(&b->kernel, b->cmdline);
	for (unsigned i = 0; i < b->nr_modules; i++)
		*size += cmdline_size(&b->module[i].file, b->module[i].cmdline);
	if (*size > BOOT_AREA_END - INFO_GPA)
		return boot_error(&b->kernel, E2BIG, err, "shorten them",
				  "command lines of %zu bytes are too long",
				  *size);
	return 0;
}

static uint32_t put_memory_map(struct info_buf *ib, const struct memmap *map)
{
	struct mb_mmap mmap[MEM_MAX_ENTRIES];

	for (unsigned i = 0; i < map->nr; i++)
		mmap[i] = (struct mb_mmap){ .size = sizeof(mmap[i]) - 4,
					    .base = map->entry[i].base,
					    .len = map->entry[i].len,
					    .type = map->entry[i].type };
	return put(ib, mmap, map->nr * sizeof(mmap[0]));
}

static int load_info(const struct boot *b, const struct boot_target *to,
		     struct mb_module *modules, struct err *err)
{
	struct mb_info mi = {
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MEMORY_MAP |
			 INFO_LOADER_NAME | (b->nr_modules ? INFO_MODULES : 0),
		.mem_lower = MEM_EBDA / KiB,
		.mem_upper = (uint32_t)((to->map->low_end - MEM_LOW) / KiB),
		.mods_count = b->nr_modules,
		.mmap_length = (uint32_t)(to->map->nr * sizeof(struct mb_mmap)),
	};
	struct info_buf ib = { .len = sizeof(mi) };
	int r = info_size(b, &ib.size, err);

	if (r)
		return r;
	ib.data = calloc(1, ib.size);
	if (!ib.data)
		return boot_error(&b->kernel, ENOMEM, err, NULL, "no memory");
	mi.cmdline = put_cmdline(&ib, &b->kernel, b->cmdline);
	mi.boot_loader_name = put(&ib, "ringer", sizeof("ringer"));
	mi.mmap_addr = put_memory_map(&ib, to->map);
	for (unsigned i = 0; i < b->nr_modules; i++)
		modules[i].string = put_cmdline(&ib, &b->module[i].file,
						b->module[i].cmdline);
	if (b->nr_modules)
		mi.mods_addr =
			put(&ib, modules, b->nr_modules * sizeof(*modules));
	vm_assert(ib.len <= ib.size);
	memcpy(ib.data, &mi, sizeof(mi));
	r = gmem_load(to->mem, INFO_GPA, ib.data, ib.len);
	free(ib.data);
	return r;
}

static int load_modules(const struct boot *b, const struct boot_target *to,
			uint64_t end, struct err *err)
{
	struct mb_module *modules =
		calloc(MAX(b->nr_modules, 1u), sizeof(*modules));
	int r = 0;

	if (!modules)
		return boot_error(&b->kernel, ENOMEM, err, NULL, "no memory");
	for (unsigned i = 0; i < b->nr_modules && !r; i++) {
		uint64_t gpa = 0;

		r = boot_place_module(b, i, to, &end, &gpa, err);
		modules[i].start = (uint32_t)gpa;
		modules[i].end = (uint32_t)end;
	}
	if (!r)
		r = load_info(b, to, modules, err);
	free(modules);
	return r;
}

static int multiboot_load(const struct boot *b, const struct boot_target *to,
			  struct x86_state *st, struct err *err)
{
	const struct boot_file *f = &b->kernel;
	struct boot_elf_info info = { 0 };
	struct mb_header h = { 0 };
	int at = find_header(b, &h), r;

	if (h.flags & HEADER_REQUIRED)
		return boot_error(
			f, ENOTSUP, err, NULL,
			"it requires multiboot features 0x%llx",
			(unsigned long long)(h.flags & HEADER_REQUIRED));
	if (h.flags & HEADER_VIDEO)
		log_debug("'%s' asks for a video mode; there is no display",
			  f->name);
	if (h.flags & HEADER_ADDRESSES)
		r = load_plain(b, to, &h, (uint32_t)at, &info, err);
	else if (boot_is_elf(b))
		r = boot_elf_load(b, to, &info, err);
	else
		r = boot_error(f, ENOEXEC, err, NULL,
			       "its multiboot header has no addresses, and it "
			       "is no ELF file");
	if (r)
		return r;
	if (info.entry >= MEM_HIGH || !memmap_is_ram(to->map, info.entry, 1))
		return boot_error(f, EINVAL, err, NULL,
				  "its entry 0x%llx is outside memory",
				  (unsigned long long)info.entry);
	r = load_modules(b, to, info.end, err);
	if (r)
		return r;
	boot_enter_32(st, (uint32_t)info.entry);
	st->gpr[RAX] = BOOTED_MAGIC;
	st->gpr[RBX] = INFO_GPA;
	return 0;
}

const struct boot_loader boot_multiboot = {
	.name = "multiboot",
	.matches = multiboot_matches,
	.load = multiboot_load,
};
