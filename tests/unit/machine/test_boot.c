/* Loaders, on images made here, cut off everywhere, and mutated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "machine/boot.h"
#include "machine/vm.h"

#define RAM (64 * MiB)

/* A file in memory, by a path. */
struct file {
	int fd;
	char path[32];
};

static void file_init(struct file *f)
{
	f->fd = memfd_create("image", MFD_CLOEXEC);
	assert_true(f->fd >= 0);
	snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
}

static void file_set(struct file *f, const void *data, size_t len)
{
	assert_int_equal(ftruncate(f->fd, 0), 0);
	assert_int_equal(pwrite(f->fd, data, len, 0), len);
}

struct fixture {
	struct memmap map;
	struct gmem mem;
	struct file kernel, extra;
	struct x86_state *st;
	struct err err;
	uint8_t *image;
};

#define IMAGE_SIZE (32 * KiB)

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->image = calloc(1, IMAGE_SIZE);
	f->st = aligned_alloc(64, sizeof(*f->st));
	gmem_init(&f->mem);
	assert_int_equal(memmap_init(&f->map, RAM, 46, &f->err), 0);
	assert_int_equal(memmap_populate(&f->map, &f->mem, &f->err), 0);
	file_init(&f->kernel);
	file_init(&f->extra);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->kernel.fd);
	close(f->extra.fd);
	gmem_finish(&f->mem);
	free(f->st);
	free(f->image);
	free(f);
	return 0;
}

/* Open and load; the boot is over when this returns. */
static int boot(struct fixture *f, const struct vm_config *config)
{
	struct boot_target to = { .map = &f->map,
				  .mem = &f->mem,
				  .rsdp = MEM_ACPI };
	struct boot *b;
	int r;

	memset(&f->err, 0, sizeof(f->err));
	x86_state_reset(f->st, true);
	r = boot_open(&b, config, &f->err);
	if (r)
		return r;
	r = boot_load(b, &to, f->st, &f->err);
	boot_close(b);
	return r;
}

static int boot_image(struct fixture *f, size_t len)
{
	struct vm_config config = { .kernel = f->kernel.path,
				    .append = "console=ttyS0" };

	file_set(&f->kernel, f->image, len);
	return boot(f, &config);
}

static void assert_boot_error(struct fixture *f, int r, const char *word)
{
	assert_true(r < 0);
	assert_null(strchr(f->err.what, '\n'));
	if (!strstr(f->err.what, word))
		fail_msg("'%s' is not in: %s", word, f->err.what);
}

/*
 * Linux
 */

#define LINUX_SETUP 2048
#define LINUX_CODE  4096
#define LINUX_SIZE  (LINUX_SETUP + LINUX_CODE)

static struct setup_header *linux_header(struct fixture *f)
{
	return (void *)(f->image + 0x1f1);
}

static void make_linux(struct fixture *f)
{
	struct setup_header *h = linux_header(f);

	memset(f->image, 0, IMAGE_SIZE);
	*h = (struct setup_header){
		.setup_sects = LINUX_SETUP / 512 - 1,
		.syssize = LINUX_CODE / 16,
		.boot_flag = 0xaa55,
		.jump = 0x66eb,
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.pref_address = 0x1000000,
		.init_size = 0x100000,
	};
	memset(f->image + LINUX_SETUP, 0xc3, LINUX_CODE);
}

static void g2_linux_64_bit_entry(void **state)
{
	struct fixture *f = *state;
	struct boot_params p;
	char cmdline[16];
	uint8_t code[LINUX_CODE];

	make_linux(f);
	assert_int_equal(boot_image(f, LINUX_SIZE), 0);
	assert_int_equal(f->st->rip, 0x1000200);
	assert_true(x86_is_long64(f->st));
	assert_int_equal(x86_cpl(f->st), 0);
	assert_int_equal(f->st->rflags, FLAG_ONE);
	assert_int_equal(f->st->seg[SEG_CS].sel, 0x10);
	assert_int_equal(f->st->seg[SEG_SS].sel, 0x18);
	gmem_read(&f->mem, 0x1000000, code, sizeof(code));
	assert_memory_equal(code, f->image + LINUX_SETUP, LINUX_CODE);
	gmem_read(&f->mem, f->st->gpr[RSI], &p, sizeof(p));
	assert_int_equal(p.acpi_rsdp_addr, MEM_ACPI);
	assert_int_equal(p.e820_entries, f->map.nr);
	assert_int_equal(p.hdr.type_of_loader, 0xff);
	assert_int_equal(p.hdr.ramdisk_size, 0);
	gmem_read(&f->mem, p.hdr.cmd_line_ptr, cmdline, sizeof(cmdline));
	assert_string_equal(cmdline, "console=ttyS0");
}

/* The page tables are the identity for 4 GiB, and the GDT has what the
 * selectors say. */
static void g2_linux_tables(void **state)
{
	struct fixture *f = *state;
	uint64_t pml4, pdpt, pd, gdt[6];

	make_linux(f);
	assert_int_equal(boot_image(f, LINUX_SIZE), 0);
	gmem_read(&f->mem, f->st->cr3, &pml4, 8);
	for (unsigned i = 0; i < 2048; i++) {
		gmem_read(&f->mem, (pml4 & PTE_ADDR) + i / 512 * 8, &pdpt, 8);
		gmem_read(&f->mem, (pdpt & PTE_ADDR) + i % 512 * 8, &pd, 8);
		assert_true(pml4 & pdpt & pd & PTE_P);
		assert_true(pd & PTE_PS);
		assert_int_equal(pd & PTE_ADDR, i * 2 * MiB);
	}
	assert_int_equal(f->st->gdtr.limit, sizeof(gdt) - 1);
	gmem_read(&f->mem, f->st->gdtr.base, gdt, sizeof(gdt));
	assert_int_equal(gdt[2] >> 40 & 0xff, f->st->seg[SEG_CS].attr & 0xff);
	assert_int_equal(gdt[2] >> 52 & 0xf, f->st->seg[SEG_CS].attr >> 12);
	assert_int_equal(gdt[3] >> 40 & 0xff, f->st->seg[SEG_DS].attr & 0xff);
	assert_int_equal(gdt[3] >> 52 & 0xf, f->st->seg[SEG_DS].attr >> 12);
}

static void g2_linux_32_bit_entry(void **state)
{
	struct fixture *f = *state;

	make_linux(f);
	linux_header(f)->xloadflags = 0;
	assert_int_equal(boot_image(f, LINUX_SIZE), 0);
	assert_int_equal(f->st->rip, 0x1000000);
	assert_int_equal(f->st->cr0, CR0_PE | CR0_ET);
	assert_int_equal(f->st->efer, 0);
	assert_true(f->st->seg[SEG_CS].attr & ATTR_DB);
}

static void g2_linux_initrd_is_below_limit_and_ram(void **state)
{
	static const uint32_t limits[] = { 0x7fffffff, 0x37fffff, 0x2000fff };
	struct fixture *f = *state;
	struct vm_config config = { .kernel = f->kernel.path,
				    .initrd = f->extra.path };
	struct boot_params p;
	uint8_t *initrd = calloc(1, 100001), *copy = malloc(100001);

	memset(initrd, 0x5a, 100001);
	file_set(&f->extra, initrd, 100001);
	for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
		uint64_t end;

		make_linux(f);
		linux_header(f)->initrd_addr_max = limits[i];
		file_set(&f->kernel, f->image, LINUX_SIZE);
		assert_int_equal(boot(f, &config), 0);
		gmem_read(&f->mem, f->st->gpr[RSI], &p, sizeof(p));
		end = (uint64_t)p.hdr.ramdisk_image + p.hdr.ramdisk_size;
		assert_int_equal(p.hdr.ramdisk_size, 100001);
		assert_int_equal(p.hdr.ramdisk_image % 4096, 0);
		assert_true(end <= RAM && end - 1 <= limits[i]);
		gmem_read(&f->mem, p.hdr.ramdisk_image, copy, 100001);
		assert_memory_equal(copy, initrd, 100001);
	}
	linux_header(f)->initrd_addr_max = 0x1100fff;
	file_set(&f->kernel, f->image, LINUX_SIZE);
	assert_boot_error(f, boot(f, &config), "between the kernel");
	free(initrd);
	free(copy);
}

static void g2_linux_is_moved_where_memory_is_small(void **state)
{
	struct fixture *f = *state;

	make_linux(f);
	linux_header(f)->pref_address = RAM;
	assert_int_equal(boot_image(f, LINUX_SIZE), 0);
	assert_int_equal(f->st->rip, 0x200200);
	linux_header(f)->relocatable_kernel = 0;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "does not fit");
	linux_header(f)->relocatable_kernel = 1;
	linux_header(f)->init_size = RAM;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "does not fit");
}

static void g2_linux_refusals(void **state)
{
	struct fixture *f = *state;
	struct setup_header *h = linux_header(f);
	struct vm_config config = { .kernel = f->kernel.path };
	char *line = calloc(1, 3000);

	make_linux(f);
	h->version = 0x205;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "2.05 is too old");
	make_linux(f);
	h->loadflags = 0;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "zImage");
	make_linux(f);
	h->kernel_alignment = 3;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "power of two");
	make_linux(f);
	h->jump = 0x10eb;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "too old");
	make_linux(f);
	h->syssize = 0;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "no code");
	make_linux(f);
	h->syssize = UINT32_MAX;
	assert_boot_error(f, boot_image(f, LINUX_SIZE), "truncated");
	make_linux(f);
	memset(line, 'x', 2048);
	config.append = line;
	file_set(&f->kernel, f->image, LINUX_SIZE);
	assert_boot_error(f, boot(f, &config), "takes 2047");
	line[2047] = 0;
	assert_int_equal(boot(f, &config), 0);
	free(line);
}

/*
 * ELF with PVH
 */

#define ELF_ENTRY 0x200000
#define ELF_SIZE  0x2000

/* Two segments and a note, of either class. */
static void make_elf(struct fixture *f, bool is_64)
{
	uint8_t *i = f->image;
	uint32_t note[] = { 4, 4, 18, 0x006e6558, ELF_ENTRY + 16, 0 };

	memset(i, 0, IMAGE_SIZE);
	if (is_64) {
		Elf64_Ehdr *h = (void *)i;
		Elf64_Phdr *p = (void *)(i + 64);

		*h = (Elf64_Ehdr){ .e_type = ET_EXEC,
				   .e_machine = EM_X86_64,
				   .e_entry = 0xffffffff80200010,
				   .e_phoff = 64,
				   .e_phentsize = sizeof(*p),
				   .e_phnum = 3 };
		p[0] = (Elf64_Phdr){ PT_LOAD,   5,
				     0x1000,    0xffffffff80200000,
				     ELF_ENTRY, 0x800,
				     0x800,     0x1000 };
		p[1] = (Elf64_Phdr){ PT_LOAD,  6,
				     0x1800,   0xffffffff80300000,
				     0x300000, 0x800,
				     0x10000,  0x1000 };
		p[2] = (Elf64_Phdr){ PT_NOTE, 4, 0x400, 0, 0, 20, 20, 4 };
	} else {
		Elf32_Ehdr *h = (void *)i;
		Elf32_Phdr *p = (void *)(i + 52);

		*h = (Elf32_Ehdr){ .e_type = ET_EXEC,
				   .e_machine = EM_386,
				   .e_entry = 0xc0200010,
				   .e_phoff = 52,
				   .e_phentsize = sizeof(*p),
				   .e_phnum = 3 };
		p[0] = (Elf32_Phdr){ PT_LOAD, 0x1000, 0xc0200000, ELF_ENTRY,
				     0x800,   0x800,  5,          0x1000 };
		p[1] = (Elf32_Phdr){ PT_LOAD, 0x1800,  0xc0300000, 0x300000,
				     0x800,   0x10000, 6,          0x1000 };
		p[2] = (Elf32_Phdr){ PT_NOTE, 0x400, 0, 0, 20, 20, 4, 4 };
	}
	memcpy(i, ELFMAG, SELFMAG);
	i[EI_CLASS] = is_64 ? ELFCLASS64 : ELFCLASS32;
	i[EI_DATA] = ELFDATA2LSB;
	memcpy(i + 0x400, note, sizeof(note));
	memset(i + 0x1000, 0x90, 0x1000);
}

static void check_start_info(struct fixture *f, unsigned nr_modules)
{
	struct {
		uint32_t magic, version, flags, nr_modules;
		uint64_t modlist, cmdline, rsdp, memmap;
		uint32_t memmap_entries, reserved;
	} si;
	uint64_t module[4], entry[3];
	char text[16];

	gmem_read(&f->mem, f->st->gpr[RBX], &si, sizeof(si));
	assert_int_equal(si.magic, 0x336ec578);
	assert_int_equal(si.version, 1);
	assert_int_equal(si.rsdp, MEM_ACPI);
	assert_int_equal(si.memmap_entries, f->map.nr);
	gmem_read(&f->mem, si.memmap + 24 * 3, entry, sizeof(entry));
	assert_int_equal(entry[0], MEM_LOW);
	assert_int_equal(entry[1], RAM - MEM_LOW);
	assert_int_equal(entry[2], MEM_RAM);
	assert_int_equal(si.nr_modules, nr_modules);
	gmem_read(&f->mem, si.cmdline, text, sizeof(text));
	assert_string_equal(text, "hello");
	if (!nr_modules)
		return;
	gmem_read(&f->mem, si.modlist, module, sizeof(module));
	assert_int_equal(module[0], 0x310000);
	assert_int_equal(module[1], 6);
	gmem_read(&f->mem, module[0], text, 6);
	assert_memory_equal(text, "initrd", 6);
}

static void g2_pvh_entry_and_start_info(void **state)
{
	struct fixture *f = *state;

	for (int is_64 = 0; is_64 < 2; is_64++) {
		struct vm_config config = { .kernel = f->kernel.path,
					    .append = "hello" };
		uint8_t code[0x800];

		make_elf(f, is_64);
		file_set(&f->kernel, f->image, ELF_SIZE);
		assert_int_equal(boot(f, &config), 0);
		assert_int_equal(f->st->rip, ELF_ENTRY + 16);
		assert_int_equal(f->st->cr0, CR0_PE | CR0_ET);
		assert_int_equal(f->st->seg[SEG_DS].limit, UINT32_MAX);
		gmem_read(&f->mem, 0x300000, code, sizeof(code));
		assert_memory_equal(code, f->image + 0x1800, sizeof(code));
		check_start_info(f, 0);
		file_set(&f->extra, "initrd", 6);
		config.initrd = f->extra.path;
		assert_int_equal(boot(f, &config), 0);
		check_start_info(f, 1);
	}
}

/* A segment's memory beyond the file is zero on a second boot too. */
static void g2_elf_bss_is_zeroed_again(void **state)
{
	struct fixture *f = *state;
	struct vm_config config = { .kernel = f->kernel.path };
	struct boot_target to = { .map = &f->map,
				  .mem = &f->mem,
				  .is_used = true };
	struct boot *b;
	uint8_t byte = 0xff;

	make_elf(f, true);
	file_set(&f->kernel, f->image, ELF_SIZE);
	assert_int_equal(boot_open(&b, &config, &f->err), 0);
	assert_int_equal(boot_load(b, &to, f->st, &f->err), 0);
	gmem_write(&f->mem, 0x300800, &byte, 1);
	gmem_write(&f->mem, 0x30ffff, &byte, 1);
	gmem_write(&f->mem, 0x310000, &byte, 1);
	assert_int_equal(boot_load(b, &to, f->st, &f->err), 0);
	assert_int_equal(*(uint8_t *)gmem_at(&f->mem, 0x300800, 1), 0);
	assert_int_equal(*(uint8_t *)gmem_at(&f->mem, 0x30ffff, 1), 0);
	assert_int_equal(*(uint8_t *)gmem_at(&f->mem, 0x310000, 1), 0xff);
	boot_close(b);
}

static void g2_elf_refusals(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *h = (void *)f->image;
	Elf64_Phdr *p = (void *)(f->image + 64);

	make_elf(f, true);
	p[2].p_type = PT_NULL;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "without a PVH note");
	make_elf(f, true);
	h->e_machine = EM_AARCH64;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "another kind of CPU");
	make_elf(f, true);
	h->e_type = ET_REL;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "no executable");
	make_elf(f, true);
	h->e_phnum = 0xffff;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "program headers");
	make_elf(f, true);
	h->e_phoff = UINT64_MAX - 3;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "program header 0");
	make_elf(f, true);
	p[1].p_filesz = p[1].p_memsz + 1;
	assert_boot_error(f, boot_image(f, IMAGE_SIZE), "truncated");
	make_elf(f, true);
	p[1].p_memsz = 1;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "larger in the file");
	make_elf(f, true);
	p[1].p_memsz = UINT64_MAX;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "does not fit");
	make_elf(f, true);
	p[1].p_paddr = UINT64_MAX - 0x100;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "does not fit");
	make_elf(f, true);
	p[1].p_paddr = BOOT_AREA_END - 8;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "does not fit");
	make_elf(f, true);
	p[1].p_paddr = BOOT_AREA;
	p[1].p_memsz = 0x800;
	assert_boot_error(f, boot_image(f, ELF_SIZE), "boot information");
	make_elf(f, true);
	store_le32(f->image + 0x410, 0xa0000);
	assert_boot_error(f, boot_image(f, ELF_SIZE), "outside memory");
}

/*
 * Multiboot
 */

#define MB_MAGIC 0x1badb002

static void set_mb_header(struct fixture *f, size_t at, uint32_t flags)
{
	uint32_t h[] = { MB_MAGIC, flags, 0U - MB_MAGIC - flags };

	memcpy(f->image + at, h, sizeof(h));
}

/* A flat binary of 8 KiB, with its header at 0x40. */
static void make_flat(struct fixture *f)
{
	uint32_t addr[] = { 0x100040, 0x100000, 0x102000, 0x104000, 0x100100 };

	memset(f->image, 0x90, IMAGE_SIZE);
	set_mb_header(f, 0x40, 0x10003);
	memcpy(f->image + 0x4c, addr, sizeof(addr));
}

static void check_mb_info(struct fixture *f, unsigned nr_modules)
{
	uint32_t info[22], module[4];
	uint8_t mmap[24];
	char text[32];

	assert_int_equal(f->st->gpr[RAX], 0x2badb002);
	assert_int_equal(f->st->cr0, CR0_PE | CR0_ET);
	gmem_read(&f->mem, f->st->gpr[RBX], info, sizeof(info));
	assert_int_equal(info[0] & ~8U, 0x245);
	assert_int_equal(info[1], 639);
	assert_int_equal(info[2], (RAM - MEM_LOW) / KiB);
	assert_int_equal(info[5], nr_modules);
	assert_int_equal(info[11], 24 * f->map.nr);
	gmem_read(&f->mem, info[12], mmap, sizeof(mmap));
	assert_int_equal(load_le32(mmap), 20);
	assert_int_equal(load_le64(mmap + 12), MEM_EBDA);
	gmem_read(&f->mem, info[4], text, sizeof(text));
	assert_string_equal(strchr(text, ' '), " -v");
	for (unsigned i = 0; i < nr_modules; i++) {
		gmem_read(&f->mem, info[6] + i * 16, module, sizeof(module));
		assert_int_equal(module[0] % 4096, 0);
		assert_int_equal(module[1] - module[0], 4);
		gmem_read(&f->mem, module[0], text, 4);
		assert_memory_equal(text, "data", 4);
		gmem_read(&f->mem, module[2], text, sizeof(text));
		if (i)
			assert_string_equal(strchr(text, ' '), " second one");
		else
			assert_null(strchr(text, ' '));
	}
}

static void g2_multiboot_flat_with_modules(void **state)
{
	struct fixture *f = *state;
	const struct vm_module modules[] = { { f->extra.path, NULL },
					     { f->extra.path, "second one" } };
	struct vm_config config = { .kernel = f->kernel.path, .append = "-v" };

	make_flat(f);
	file_set(&f->kernel, f->image, 0x2000);
	assert_int_equal(boot(f, &config), 0);
	assert_int_equal(f->st->rip, 0x100100);
	check_mb_info(f, 0);
	config.modules = modules;
	config.nr_modules = 2;
	file_set(&f->extra, "data", 4);
	assert_int_equal(boot(f, &config), 0);
	check_mb_info(f, 2);
}

static void g2_multiboot_elf_by_its_virtual_entry(void **state)
{
	struct fixture *f = *state;
	struct vm_config config = { .kernel = f->kernel.path, .append = "-v" };

	for (int is_64 = 0; is_64 < 2; is_64++) {
		make_elf(f, is_64);
		set_mb_header(f, 0x1ff0, 3);
		file_set(&f->kernel, f->image, ELF_SIZE);
		assert_int_equal(boot(f, &config), 0);
		assert_int_equal(f->st->rip, ELF_ENTRY + 16);
		check_mb_info(f, 0);
	}
}

static void g2_multiboot_refusals(void **state)
{
	struct fixture *f = *state;
	uint32_t *addr = (void *)(f->image + 0x4c);

	make_flat(f);
	set_mb_header(f, 0x40, 0x10008);
	assert_boot_error(f, boot_image(f, 0x2000), "features 0x8");
	make_flat(f);
	set_mb_header(f, 0x40, 0);
	assert_boot_error(f, boot_image(f, 0x2000), "no addresses");
	make_flat(f);
	addr[1] = 0x100044;
	assert_boot_error(f, boot_image(f, 0x2000), "before the file");
	make_flat(f);
	addr[1] = 0xff000;
	assert_boot_error(f, boot_image(f, 0x2000), "before the file");
	make_flat(f);
	addr[2] = UINT32_MAX;
	assert_boot_error(f, boot_image(f, 0x2000), "truncated");
	make_flat(f);
	addr[3] = UINT32_MAX;
	assert_boot_error(f, boot_image(f, 0x2000), "does not fit");
	make_flat(f);
	addr[4] = 0xb8000;
	assert_boot_error(f, boot_image(f, 0x2000), "outside memory");
	/* A header in the last place that counts, and one behind it. */
	make_elf(f, false);
	set_mb_header(f, 8192 - 12, 3);
	assert_int_equal(boot_image(f, ELF_SIZE), 0);
	assert_int_equal(f->st->gpr[RAX], 0x2badb002);
	make_elf(f, false);
	set_mb_header(f, 8192 - 8, 3);
	assert_int_equal(boot_image(f, IMAGE_SIZE), 0);
	assert_int_equal(f->st->gpr[RAX], 0);
}

/*
 * All
 */

static void g2_files_that_are_no_kernels(void **state)
{
	static const struct {
		const char *bytes, *word;
	} wrong[] = { { "\x1f\x8b\x08", "gzip" },
		      { "QFI\xfb", "qcow2" },
		      { "MZ", "EFI program" },
		      { "070701", "cpio" },
		      { "#!/bin/sh\n", "no kernel" } };
	struct fixture *f = *state;
	struct vm_config config = { 0 };

	assert_boot_error(f, boot(f, &config), "nothing to boot");
	assert_non_null(strstr(f->err.hint, "-k"));
	config.kernel = "/nonexistent/kernel";
	assert_boot_error(f, boot(f, &config), "No such file");
	config.kernel = "/tmp";
	assert_boot_error(f, boot(f, &config), "directory");
	config.kernel = "/dev/zero";
	assert_boot_error(f, boot(f, &config), "not a file");
	assert_boot_error(f, boot_image(f, 0), "empty");
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		memset(f->image, 0, IMAGE_SIZE);
		memcpy(f->image, wrong[i].bytes, strlen(wrong[i].bytes));
		assert_boot_error(f, boot_image(f, 4096), wrong[i].word);
	}
	memset(f->image, 0, IMAGE_SIZE);
	store_le16(f->image + 510, 0xaa55);
	assert_boot_error(f, boot_image(f, 4096), "boot sector");
	make_linux(f);
	file_set(&f->kernel, f->image, LINUX_SIZE);
	config.kernel = f->kernel.path;
	config.initrd = "/nonexistent/initrd";
	assert_boot_error(f, boot(f, &config), "initrd");
}

static void make(struct fixture *f, unsigned kind)
{
	if (kind == 0)
		make_linux(f);
	else if (kind == 3)
		make_flat(f);
	else
		make_elf(f, kind == 1);
}

static const size_t sizes[] = { LINUX_SIZE, ELF_SIZE, ELF_SIZE, 0x2000 };

/* Cut off at every length, an image is refused in one line. */
static void g2_truncated_everywhere(void **state)
{
	struct fixture *f = *state;

	for (unsigned kind = 0; kind < 4; kind++) {
		make(f, kind);
		/* The last paragraph of Linux may be incomplete. */
		for (size_t len = 0; len < sizes[kind] - 15; len++)
			assert_boot_error(f, boot_image(f, len), "");
		assert_int_equal(boot_image(f, sizes[kind]), 0);
	}
}

static uint64_t random64(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Headers with a few bytes or words changed: no crash, and no write outside
 * RAM (which ASan or gmem's guards would show). */
static void c9_mutated_headers(void **state)
{
	static const uint64_t nasty[] = { 0,          1,          0x7fffffff,
					  0x80000000, 0xffffffff, UINT64_MAX,
					  1ULL << 63, RAM,        MEM_HIGH };
	static const unsigned head[] = { 0x290, 0x420, 0x420, 0x70 };
	struct fixture *f = *state;
	uint64_t seed = 0x9e3779b97f4a7c15;
	unsigned booted = 0;

	for (unsigned i = 0; i < 20000; i++) {
		unsigned kind = i % 4, nr = 1 + random64(&seed) % 4;

		make(f, kind);
		while (nr--) {
			size_t at = random64(&seed) % head[kind];
			uint64_t v = random64(&seed);

			/* Keep the file recognisable more often than not. */
			if (kind == 0 && v % 8)
				at = 0x1f1 + at % 0x90;
			if (v & 1)
				f->image[at] = (uint8_t)(v >> 8);
			else
				store_le(f->image + at, 1U << (v >> 8) % 4,
					 nasty[(v >> 16) % ARRAY_SIZE(nasty)]);
		}
		if (!boot_image(f, sizes[kind]))
			booted++;
		else
			assert_true(f->err.what[0]);
	}
	assert_in_range(booted, 1000, 19000);
}

/* The kernel of the host, and that of the system tests, where they are. */
static void g2_linux_of_the_host(void **state)
{
	char cached[512];
	const char *const paths[] = { "/vmlinuz", "/boot/vmlinuz", cached };
	struct fixture *f = *state;
	const char *home = getenv("HOME");

	snprintf(cached, sizeof(cached),
		 "%s/.cache/ringer/kernel-cloud/vmlinuz", home ? home : "");

	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
		struct vm_config config = { .kernel = paths[i],
					    .append = "quiet" };
		struct fixture big = { .st = f->st };

		if (access(paths[i], R_OK))
			continue;
		assert_int_equal(memmap_init(&big.map, GiB, 46, &big.err), 0);
		gmem_init(&big.mem);
		assert_int_equal(memmap_populate(&big.map, &big.mem, &big.err),
				 0);
		if (boot(&big, &config))
			fail_msg("%s", big.err.what);
		assert_true(x86_is_long64(f->st));
		gmem_finish(&big.mem);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(g2_linux_64_bit_entry),
		T(g2_linux_tables),
		T(g2_linux_32_bit_entry),
		T(g2_linux_initrd_is_below_limit_and_ram),
		T(g2_linux_is_moved_where_memory_is_small),
		T(g2_linux_refusals),
		T(g2_pvh_entry_and_start_info),
		T(g2_elf_bss_is_zeroed_again),
		T(g2_elf_refusals),
		T(g2_multiboot_flat_with_modules),
		T(g2_multiboot_elf_by_its_virtual_entry),
		T(g2_multiboot_refusals),
		T(g2_files_that_are_no_kernels),
		T(g2_truncated_everywhere),
		T(c9_mutated_headers),
		T(g2_linux_of_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
