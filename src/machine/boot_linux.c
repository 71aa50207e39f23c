/*
 * Linux bzImage by its 64-bit entry, or the 32-bit one where the kernel is a
 * 32-bit kernel (Linux Documentation/arch/x86/boot.rst and zero-page.rst).
 *
 * In conventional memory, for the kernel to read before it has its own:
 *
 *	1000  GDT		8000  zero page
 *	2000  page tables	9000  setup data: a seed for random numbers
 *				20000 command line
 */
#include "machine/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <sys/random.h>

#include "base/endian.h"
#include "base/overflow.h"

/* clang-format off */
#define GDT_GPA         0x1000ULL
#define PAGE_TABLES_GPA 0x2000ULL
#define ZERO_PAGE_GPA   0x8000ULL
#define SETUP_DATA_GPA  0x9000ULL
#define CMDLINE_GPA     0x20000ULL
#define CMDLINE_MAX     0x10000ULL

#define HEADER_AT       offsetof(struct boot_params, hdr)
#define HEADER_MAGIC    0x53726448 /* "HdrS" */
#define BOOT_FLAG       0xaa55
#define ENTRY_64        0x200
#define LOADER_OTHER    0xff /* no number is assigned to us */

#define BOOT_CS         0x10
#define BOOT_DS         0x18
/* clang-format on */

/* What the header says, checked. */
struct linux_image {
	struct setup_header hdr;
	uint64_t offset, size; /* of the protected-mode part in the file */
	uint64_t need;         /* memory from its start while it boots */
	uint64_t gpa;
	bool is_64;
};

static bool linux_matches(const struct boot *b)
{
	return b->head_len >= HEADER_AT + sizeof(struct setup_header) &&
	       load_le16(b->head + 0x1fe) == BOOT_FLAG &&
	       load_le32(b->head + 0x202) == HEADER_MAGIC;
}

static int check_size(const struct boot *b, struct linux_image *k,
		      struct err *err)
{
	const struct boot_file *f = &b->kernel;
	unsigned sects = k->hdr.setup_sects ? k->hdr.setup_sects : 4;

	k->offset = (sects + 1) * 512ULL;
	k->size = k->hdr.syssize * 16ULL;
	if (!k->size)
		return boot_error(f, EINVAL, err, NULL,
				  "its header says that it has no code");
	/* syssize counts paragraphs: the last one may be incomplete. */
	if (f->size <= k->offset || k->size - 15 > f->size - k->offset)
		return boot_error(f, EINVAL, err, "get the file again",
				  "it is truncated: its header says %" PRIu64
				  " bytes, there are %" PRIu64,
				  k->offset + k->size, f->size);
	k->size = MIN(k->size, f->size - k->offset);
	return 0;
}

static int check_header(const struct boot *b, struct linux_image *k,
			struct err *err)
{
	const struct boot_file *f = &b->kernel;
	/* The header ends where the jump at its start leads. */
	size_t end = 0x202 + b->head[0x201];
	size_t len = MIN(end - HEADER_AT, sizeof(k->hdr));

	memcpy(&k->hdr, b->head + HEADER_AT, len);
	if (k->hdr.version < 0x206 ||
	    len < offsetof(struct setup_header, hardware_subarch))
		return boot_error(f, EINVAL, err, "give Linux 2.6.22 or newer",
				  "its boot protocol %u.%02u is too old",
				  k->hdr.version >> 8, k->hdr.version & 0xff);
	if (!(k->hdr.loadflags & LOADED_HIGH))
		return boot_error(f, EINVAL, err, "build a bzImage",
				  "it is a zImage, for low memory");
	k->is_64 =
		k->hdr.version >= 0x20c && (k->hdr.xloadflags & XLF_KERNEL_64);
	if (k->hdr.relocatable_kernel && !IS_POW2(k->hdr.kernel_alignment))
		return boot_error(f, EINVAL, err, NULL,
				  "its alignment 0x%x is no power of two",
				  k->hdr.kernel_alignment);
	return check_size(b, k, err);
}

static int choose_address(const struct boot *b, const struct boot_target *to,
			  struct linux_image *k, struct err *err)
{
	const struct setup_header *h = &k->hdr;
	bool has_pref = h->version >= 0x20a;

	k->need = MAX(k->size, has_pref ? h->init_size : 0);
	k->gpa = has_pref ? h->pref_address : MEM_LOW;
	if (k->gpa >= MEM_LOW && k->gpa < MEM_HIGH &&
	    memmap_is_ram(to->map, k->gpa, k->need))
		return 0;
	if (!h->relocatable_kernel)
		return boot_check_ram(&b->kernel, to, "its code", k->gpa,
				      k->need, err);
	k->gpa = ALIGN_UP(MEM_LOW, (uint64_t)h->kernel_alignment);
	return boot_check_ram(&b->kernel, to, "its code", k->gpa, k->need, err);
}

/* As high as possible, so that it is out of the kernel's way. */
static int load_initrd(const struct boot *b, const struct boot_target *to,
		       struct linux_image *k, struct err *err)
{
	const struct boot_file *f = &b->module[0].file;
	uint64_t bottom = k->gpa + k->need;
	uint64_t top = MIN(k->hdr.initrd_addr_max + 1ULL, to->map->low_end);
	uint64_t gpa;

	if (top < f->size || ALIGN_DOWN(top - f->size, PAGE_SIZE) < bottom)
		return err_set(err, ENOMEM, "give more memory (-m)",
			       "cannot load the initrd '%.100s': %llu KiB do "
			       "not fit between the kernel and %llu MiB",
			       f->name, (unsigned long long)(f->size / KiB),
			       (unsigned long long)(top / MiB));
	gpa = ALIGN_DOWN(top - f->size, PAGE_SIZE);
	k->hdr.ramdisk_image = (uint32_t)gpa;
	k->hdr.ramdisk_size = (uint32_t)f->size;
	return boot_file_load(f, 0, f->size, to, gpa, f->size, err);
}

static int load_cmdline(const struct boot *b, const struct boot_target *to,
			struct linux_image *k, struct err *err)
{
	size_t len = strlen(b->cmdline);
	uint64_t max = MIN(k->hdr.cmdline_size ? k->hdr.cmdline_size : 255,
			   CMDLINE_MAX - 1);

	if (len > max)
		return boot_error(&b->kernel, E2BIG, err, "shorten it",
				  "its command line has %zu bytes, it takes "
				  "%llu",
				  len, (unsigned long long)max);
	k->hdr.cmd_line_ptr = CMDLINE_GPA;
	return gmem_load(to->mem, CMDLINE_GPA, b->cmdline, len + 1);
}

static int load_zero_page(const struct boot_target *to, struct linux_image *k)
{
	struct {
		struct setup_data head;
		uint8_t seed[32];
	} rng = { .head = { .type = SETUP_RNG_SEED, .len = sizeof(rng.seed) } };
	struct boot_params *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	k->hdr.type_of_loader = LOADER_OTHER;
	k->hdr.setup_data = 0;
	if (k->hdr.version >= 0x209 &&
	    getrandom(rng.seed, sizeof(rng.seed), GRND_NONBLOCK) ==
		    sizeof(rng.seed))
		k->hdr.setup_data = SETUP_DATA_GPA;
	p->hdr = k->hdr;
	p->acpi_rsdp_addr = to->rsdp;
	p->e820_entries = (uint8_t)to->map->nr;
	for (unsigned i = 0; i < to->map->nr; i++) {
		const struct mem_entry *e = &to->map->entry[i];

		p->e820_table[i] = (struct boot_e820_entry){ .addr = e->base,
							     .size = e->len,
							     .type = e->type };
	}
	r = gmem_load(to->mem, ZERO_PAGE_GPA, p, sizeof(*p));
	if (!r)
		r = gmem_load(to->mem, SETUP_DATA_GPA, &rng, sizeof(rng));
	free(p);
	return r;
}

/* The descriptors of the protocol: code at 0x10, data at 0x18, and a TSS. */
static int load_gdt(const struct boot_target *to, bool is_64)
{
	const uint64_t gdt[] = {
		0,
		0,
		is_64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
		0x00cf93000000ffff,
		0x00008b0000000067,
		0,
	};

	return gmem_load(to->mem, GDT_GPA, gdt, sizeof(gdt));
}

/* The identity for the first 4 GiB, in pages of 2 MiB. */
static int load_page_tables(const struct boot_target *to)
{
	uint64_t table[512] = { 0 };
	uint64_t pdpt = PAGE_TABLES_GPA + PAGE_SIZE;
	uint64_t pd = pdpt + PAGE_SIZE;
	int r;

	table[0] = pdpt | PTE_P | PTE_W;
	r = gmem_load(to->mem, PAGE_TABLES_GPA, table, sizeof(table));
	for (unsigned i = 0; i < 4; i++)
		table[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_W;
	if (!r)
		r = gmem_load(to->mem, pdpt, table, sizeof(table));
	for (unsigned i = 0; i < 4 && !r; i++) {
		for (unsigned j = 0; j < 512; j++)
			table[j] = (i * GiB + j * 2 * MiB) | PTE_P | PTE_W |
				   PTE_PS;
		r = gmem_load(to->mem, pd + i * PAGE_SIZE, table,
			      sizeof(table));
	}
	return r;
}

static void enter_64(struct x86_state *st, uint64_t entry)
{
	boot_enter_32(st, 0);
	st->rip = entry;
	st->cr0 |= CR0_PG;
	st->cr3 = PAGE_TABLES_GPA;
	st->cr4 = CR4_PAE;
	st->efer = EFER_LME | EFER_LMA;
	st->seg[SEG_CS] = boot_flat_seg(BOOT_CS, true, true);
	st->tr.sel = 0x20;
}

static int linux_load(const struct boot *b, const struct boot_target *to,
		      struct x86_state *st, struct err *err)
{
	struct linux_image k = { .gpa = 0 };
	int r = check_header(b, &k, err);

	if (!r && b->nr_modules > 1)
		r = boot_error(&b->kernel, EINVAL, err, "give one initrd",
			       "Linux takes no modules");
	if (!r)
		r = choose_address(b, to, &k, err);
	if (!r)
		r = load_cmdline(b, to, &k, err);
	if (!r && b->nr_modules)
		r = load_initrd(b, to, &k, err);
	if (!r)
		r = boot_file_load(&b->kernel, k.offset, k.size, to, k.gpa,
				   k.need, err);
	if (!r)
		r = load_zero_page(to, &k);
	if (!r)
		r = load_gdt(to, k.is_64);
	if (!r)
		r = load_page_tables(to);
	if (r)
		return boot_error(&b->kernel, -r, err, NULL, "%s",
				  strerror(-r));
	if (k.is_64)
		enter_64(st, k.gpa + ENTRY_64);
	else
		boot_enter_32(st, (uint32_t)k.gpa);
	st->gdtr = (struct x86_dtr){ .base = GDT_GPA, .limit = 6 * 8 - 1 };
	st->gpr[RSI] = ZERO_PAGE_GPA;
	return 0;
}

const struct boot_loader boot_linux = {
	.name = "Linux",
	.matches = linux_matches,
	.load = linux_load,
};
