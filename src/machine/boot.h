/*
 * Boot without firmware: a kernel file is recognised by its contents, checked,
 * and put into guest memory with what it wants to know, and the boot CPU's
 * state is set to its entry. Files are hostile: nothing in a header is used
 * before it was checked, and they stay open, so that a reset loads them anew.
 */
#ifndef MACHINE_BOOT_H
#define MACHINE_BOOT_H

#include "arch/regs.h"
#include "base/err.h"
#include "machine/memmap.h"
#include "mem/gmem.h"

struct vm_config;

/** Where loaders put tables and strings for a kernel: conventional memory. */
#define BOOT_AREA     0x1000ULL
#define BOOT_AREA_END 0x9f000ULL

/** How much of the start of a kernel file tells its type. */
#define BOOT_HEAD_SIZE 8192

/** An open, regular file; (name) is its path in messages. */
struct boot_file {
	char *name;
	int fd; /* -1: none */
	uint64_t size;
};

/** A file for the kernel, and its own command line or NULL. */
struct boot_module {
	struct boot_file file;
	char *cmdline;
};

struct boot_loader;

/** What a machine boots. */
struct boot {
	const struct boot_loader *loader;
	struct boot_file kernel;
	struct boot_module *module; /* the initrd is the first */
	unsigned nr_modules;
	char *cmdline;                /* never NULL */
	uint8_t head[BOOT_HEAD_SIZE]; /* of the kernel, zero-filled */
	size_t head_len;
};

/** Where to load to. */
struct boot_target {
	const struct memmap *map;
	struct gmem *mem;
	uint64_t rsdp;
	bool is_used; /* memory is not all zeroes any more */
};

/** A kind of kernel file. */
struct boot_loader {
	const char *name;
	/* Is it of this kind? By (b->head) alone. */
	bool (*matches)(const struct boot *b);
	/* Check, load, and set (st) to the entry; (st) is after power-on. */
	int (*load)(const struct boot *b, const struct boot_target *to,
		    struct x86_state *st, struct err *err);
};

extern const struct boot_loader boot_linux, boot_multiboot, boot_elf;

/** Open the files of (config) and recognise the kernel. Returns 0 or -errno
 * with (err): nothing to boot, not readable, no kind of kernel that we know.
 * Undone by boot_close(). */
int boot_open(struct boot **boot, const struct vm_config *config,
	      struct err *err);
/** Close the files. NULL is fine. */
void boot_close(struct boot *b);

/** Load everything to (to) and set (st), of the boot CPU after power-on, to
 * the kernel's entry. 0 or -errno with (err). */
int boot_load(const struct boot *b, const struct boot_target *to,
	      struct x86_state *st, struct err *err);

/*
 * For loaders.
 */

/** Say why (f) cannot be booted: "cannot boot 'NAME': REASON". Returns
 * -(errnum). */
int boot_error(const struct boot_file *f, int errnum, struct err *err,
	       const char *hint, const char *fmt, ...) PRINTF_LIKE(5, 6);

/** Read [offset, offset + len) of (f), all of it. */
int boot_file_read(const struct boot_file *f, uint64_t offset, void *buf,
		   uint64_t len, struct err *err);

/** Put [offset, offset + len) of (f) at (gpa), then zeroes up to (mem_len)
 * bytes. The target was checked with boot_check_ram(). */
int boot_file_load(const struct boot_file *f, uint64_t offset, uint64_t len,
		   const struct boot_target *to, uint64_t gpa, uint64_t mem_len,
		   struct err *err);

/** Is [gpa, gpa + len) RAM and clear of the boot area? Else -ENOMEM, with
 * (what) in the message. */
int boot_check_ram(const struct boot_file *f, const struct boot_target *to,
		   const char *what, uint64_t gpa, uint64_t len,
		   struct err *err);

/** Load the segments of the ELF file (f), whose first bytes are (head), at
 * their physical addresses. (entry) is its entry as a physical address, (end)
 * the end of its last segment below 4 GiB; with (pvh_entry), that is what its
 * PVH note says, or UINT64_MAX without such a note. */
struct boot_elf_info {
	uint64_t entry, pvh_entry, end;
};
int boot_elf_load(const struct boot *b, const struct boot_target *to,
		  struct boot_elf_info *info, struct err *err);
/** Is (b)'s kernel an ELF file? */
bool boot_is_elf(const struct boot *b);

/** Put module (i) at the first page at or above (*next), below the end of low
 * RAM, and move (*next) to its end. (gpa) is where it went. */
int boot_place_module(const struct boot *b, unsigned i,
		      const struct boot_target *to, uint64_t *next,
		      uint64_t *gpa, struct err *err);

/** The last part of (f)'s path. */
const char *boot_file_base(const struct boot_file *f);

/** 32-bit protected mode without paging and interrupts, flat segments, at
 * (entry): what PVH, multiboot and 32-bit Linux start in. */
void boot_enter_32(struct x86_state *st, uint32_t entry);

/** A flat segment of 4 GiB: code or data, 64-bit code with (is_long). */
struct x86_seg boot_flat_seg(uint16_t sel, bool is_code, bool is_long);

#endif
