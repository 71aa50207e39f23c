/*
 * ELF kernels that say by a note where they can be entered in 32-bit protected
 * mode: PVH (Xen docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/
 * start_info.h, xen/include/public/elfnote.h). Linux's vmlinux, Xen, BSDs and
 * unikernels have it.
 */
#include "machine/boot.h"

#include <elf.h>
#include <errno.h>

#include "base/endian.h"
#include "base/overflow.h"
#include "machine/vm.h"

#define INFO_GPA                 0x10000ULL
#define MAX_SEGMENTS             256
#define MAX_NOTES_SIZE           (64 * KiB)

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC          0x336ec578

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* A header or program header of either class, widened. */
struct elf_image {
	bool is_64;
	uint64_t entry, phoff;
	unsigned phnum;
};

struct elf_segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz;
};

bool boot_is_elf(const struct boot *b)
{
	return b->head_len >= EI_NIDENT && !memcmp(b->head, ELFMAG, SELFMAG);
}

static int read_header(const struct boot *b, struct elf_image *e,
		       struct err *err)
{
	const struct boot_file *f = &b->kernel;
	unsigned machine, type, phentsize;

	e->is_64 = b->head[EI_CLASS] == ELFCLASS64;
	if (b->head_len < (e->is_64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
		return boot_error(f, EINVAL, err, "get the file again",
				  "it is truncated");
	if (e->is_64) {
		Elf64_Ehdr h;

		memcpy(&h, b->head, sizeof(h));
		machine = h.e_machine, type = h.e_type;
		e->entry = h.e_entry, e->phoff = h.e_phoff;
		e->phnum = h.e_phnum, phentsize = h.e_phentsize;
	} else {
		Elf32_Ehdr h;

		memcpy(&h, b->head, sizeof(h));
		machine = h.e_machine, type = h.e_type;
		e->entry = h.e_entry, e->phoff = h.e_phoff;
		e->phnum = h.e_phnum, phentsize = h.e_phentsize;
	}
	if (b->head[EI_DATA] != ELFDATA2LSB ||
	    (b->head[EI_CLASS] != ELFCLASS32 && !e->is_64) ||
	    (machine != EM_X86_64 && machine != EM_386))
		return boot_error(f, ENOEXEC, err, NULL,
				  "it is an ELF file for another kind of CPU");
	if (type != ET_EXEC && type != ET_DYN)
		return boot_error(f, ENOEXEC, err, "link it",
				  "it is an ELF file, but no executable");
	if (!e->phnum || e->phnum > MAX_SEGMENTS ||
	    phentsize != (e->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return boot_error(f, EINVAL, err, NULL,
				  "it has %u program headers of %u bytes",
				  e->phnum, phentsize);
	return 0;
}

static int read_segment(const struct boot *b, const struct elf_image *e,
			unsigned i, struct elf_segment *s, struct err *err)
{
	size_t size = e->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	uint64_t at;
	Elf64_Phdr p64;
	Elf32_Phdr p32;
	int r;

	if (add_overflow(e->phoff, i * size, &at) ||
	    !range_fits(at, size, b->kernel.size))
		return boot_error(&b->kernel, EINVAL, err, "get the file again",
				  "it is truncated: program header %u is "
				  "outside it",
				  i);
	r = boot_file_read(&b->kernel, at, e->is_64 ? (void *)&p64 : &p32, size,
			   err);
	if (r)
		return r;
	if (e->is_64)
		*s = (struct elf_segment){ p64.p_type,   p64.p_offset,
					   p64.p_vaddr,  p64.p_paddr,
					   p64.p_filesz, p64.p_memsz };
	else
		*s = (struct elf_segment){ p32.p_type,   p32.p_offset,
					   p32.p_vaddr,  p32.p_paddr,
					   p32.p_filesz, p32.p_memsz };
	if ((s->type == PT_LOAD || s->type == PT_NOTE) &&
	    !range_fits(s->offset, s->filesz, b->kernel.size))
		return boot_error(&b->kernel, EINVAL, err, "get the file again",
				  "it is truncated: segment %u is outside it",
				  i);
	return 0;
}

/* Look for the PVH entry among the notes of (s). A note: name size, contents
 * size, type, name, contents, each padded to four bytes. */
static int read_notes(const struct boot *b, const struct elf_segment *s,
		      uint64_t *entry, struct err *err)
{
	uint64_t len = MIN(s->filesz, MAX_NOTES_SIZE), at = 0;
	uint8_t *notes = malloc(MAX(len, 1));
	int r;

	if (!notes)
		return boot_error(&b->kernel, ENOMEM, err, NULL,
				  "no memory for its notes");
	r = boot_file_read(&b->kernel, s->offset, notes, len, err);
	while (!r && range_fits(at, sizeof(Elf32_Nhdr), len)) {
		Elf32_Nhdr n;
		uint64_t name = at + sizeof(n), desc;

		memcpy(&n, notes + at, sizeof(n));
		desc = name + ALIGN_UP((uint64_t)n.n_namesz, 4);
		at = desc + ALIGN_UP((uint64_t)n.n_descsz, 4);
		if (!range_fits(desc, n.n_descsz, len))
			break;
		if (n.n_namesz != 4 || memcmp(notes + name, "Xen", 4) != 0 ||
		    n.n_type != XEN_ELFNOTE_PHYS32_ENTRY)
			continue;
		if (n.n_descsz == 4 || n.n_descsz == 8)
			*entry = load_le(notes + desc, n.n_descsz);
	}
	free(notes);
	return r;
}

static int load_segment(const struct boot *b, const struct boot_target *to,
			const struct elf_segment *s, struct err *err)
{
	int r;

	if (s->filesz > s->memsz)
		return boot_error(&b->kernel, EINVAL, err, NULL,
				  "a segment is larger in the file than in "
				  "memory");
	r = boot_check_ram(&b->kernel, to, "a segment", s->paddr, s->memsz,
			   err);
	if (r)
		return r;
	return boot_file_load(&b->kernel, s->offset, s->filesz, to, s->paddr,
			      s->memsz, err);
}

int boot_elf_load(const struct boot *b, const struct boot_target *to,
		  struct boot_elf_info *info, struct err *err)
{
	struct elf_image e = { 0 };
	int r = read_header(b, &e, err);

	if (r)
		return r;
	*info = (struct boot_elf_info){ .entry = e.entry,
					.pvh_entry = UINT64_MAX };
	for (unsigned i = 0; i < e.phnum; i++) {
		struct elf_segment s = { 0 };

		r = read_segment(b, &e, i, &s, err);
		if (!r && s.type == PT_NOTE)
			r = read_notes(b, &s, &info->pvh_entry, err);
		if (!r && s.type == PT_LOAD && s.memsz)
			r = load_segment(b, to, &s, err);
		if (r)
			return r;
		if (s.type != PT_LOAD || !s.memsz)
			continue;
		/* Kernels linked to run elsewhere name a virtual entry. */
		if (e.entry - s.vaddr < s.memsz)
			info->entry = e.entry - s.vaddr + s.paddr;
		if (s.paddr < MEM_HIGH)
			info->end = MAX(info->end, s.paddr + s.memsz);
	}
	if (!info->end)
		return boot_error(&b->kernel, EINVAL, err, NULL,
				  "it has nothing to load");
	return 0;
}

static uint64_t put(uint8_t *info, size_t *len, const void *data, size_t size)
{
	size_t at = *len;

	memcpy(info + at, data, size);
	*len = ALIGN_UP(at + size, 8);
	return INFO_GPA + at;
}

/* Everything the start info points to is in one piece behind it. */
static int load_info(const struct boot *b, const struct boot_target *to,
		     const struct hvm_modlist_entry *modules, struct err *err)
{
	struct hvm_start_info si = {
		.magic = HVM_START_MAGIC,
		.version = 1,
		.nr_modules = b->nr_modules,
		.rsdp = to->rsdp,
		.memmap_entries = to->map->nr,
	};
	struct hvm_memmap_entry map[MEM_MAX_ENTRIES] = { { 0 } };
	struct hvm_modlist_entry *list = NULL;
	size_t len = sizeof(si), size, cmdlines = strlen(b->cmdline) + 8;
	uint8_t *info;
	int r;

	for (unsigned i = 0; i < b->nr_modules; i++)
		if (b->module[i].cmdline)
			cmdlines += strlen(b->module[i].cmdline) + 8;
	size = sizeof(si) + sizeof(map) + b->nr_modules * sizeof(*list) +
	       cmdlines;
	if (size > BOOT_AREA_END - INFO_GPA)
		return boot_error(&b->kernel, E2BIG, err, "shorten them",
				  "command lines of %zu bytes are too long",
				  cmdlines);
	info = calloc(1, size);
	list = calloc(MAX(b->nr_modules, 1u), sizeof(*list));
	if (!info || !list) {
		free(info);
		free(list);
		return boot_error(&b->kernel, ENOMEM, err, NULL, "no memory");
	}
	for (unsigned i = 0; i < to->map->nr; i++) {
		map[i].addr = to->map->entry[i].base;
		map[i].size = to->map->entry[i].len;
		map[i].type = to->map->entry[i].type;
	}
	for (unsigned i = 0; i < b->nr_modules; i++) {
		const char *cmdline = b->module[i].cmdline;

		list[i] = modules[i];
		if (cmdline)
			list[i].cmdline =
				put(info, &len, cmdline, strlen(cmdline) + 1);
	}
	si.memmap = put(info, &len, map, to->map->nr * sizeof(map[0]));
	if (b->nr_modules)
		si.modlist =
			put(info, &len, list, b->nr_modules * sizeof(*list));
	si.cmdline = put(info, &len, b->cmdline, strlen(b->cmdline) + 1);
	memcpy(info, &si, sizeof(si));
	r = gmem_load(to->mem, INFO_GPA, info, size);
	free(info);
	free(list);
	return r;
}

static int elf_load(const struct boot *b, const struct boot_target *to,
		    struct x86_state *st, struct err *err)
{
	struct hvm_modlist_entry *modules;
	struct boot_elf_info info;
	int r = boot_elf_load(b, to, &info, err);

	if (r)
		return r;
	if (info.pvh_entry == UINT64_MAX)
		return boot_error(&b->kernel, ENOEXEC, err,
				  "build Linux with CONFIG_PVH, or give its "
				  "bzImage",
				  "it is an ELF file without a PVH note");
	if (!memmap_is_ram(to->map, info.pvh_entry, 1) ||
	    info.pvh_entry >= MEM_HIGH)
		return boot_error(&b->kernel, EINVAL, err, NULL,
				  "its PVH entry 0x%llx is outside memory",
				  (unsigned long long)info.pvh_entry);
	modules = calloc(MAX(b->nr_modules, 1u), sizeof(*modules));
	if (!modules)
		return boot_error(&b->kernel, ENOMEM, err, NULL, "no memory");
	for (unsigned i = 0; i < b->nr_modules && !r; i++) {
		modules[i].size = b->module[i].file.size;
		r = boot_place_module(b, i, to, &info.end, &modules[i].paddr,
				      err);
	}
	if (!r)
		r = load_info(b, to, modules, err);
	free(modules);
	if (r)
		return r;
	boot_enter_32(st, (uint32_t)info.pvh_entry);
	st->gpr[RBX] = INFO_GPA;
	return 0;
}

const struct boot_loader boot_elf = {
	.name = "ELF with PVH",
	.matches = boot_is_elf,
	.load = elf_load,
};
