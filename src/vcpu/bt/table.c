/*
 * The flat tables: what translated code looks its memory accesses up in.
 *
 * An address space's table has an entry of 8 bytes for every page of the
 * 48-bit address space, one for each kind of access:
 *
 *     base           reading: hva - gva, or 0
 *       + KIND_SIZE  writing: the same
 *     + 2 KIND_SIZE  execution: see code_lookup(); there are four such parts,
 *                    by the upper two bits of the gva, which no access but this
 *                    loses, and which are equal in canonical addresses
 *
 *     number of an entry = bits 47 to 12 of the gva: the lower half of the
 *     address space is the lower half of each part
 *
 * It is a reservation of addresses; only those pages of it have memory that
 * were looked at. An entry is never 0 where there is something, so code that
 * loads one needs no other check than JRCXZ. As the sum of an address and the
 * difference is canonical only if the address was, wrong upper bits fault.
 *
 * There is a table for the lower half of each space (PCID) that the software
 * TLB keeps apart, with what user mode may do. Supervisor code uses it while
 * RFLAGS.AC opens user pages to it (SMAP), else one of its own, the system
 * table, whose lower half is for supervisor pages. The upper half is the
 * supervisor's; it is one piece of memory mapped into all tables. User code
 * cannot see it: it masks one bit more away, so that an upper-half address
 * finds an entry of the lower half and ends up at no canonical address.
 *
 * The entries are a mirror of the software TLB of interp/mmu.c: entered when it
 * fills and dropped when it drops.
 *
 * A page is writable through one gva at a time, which (writer) remembers: so
 * when code is translated from it, there is one entry to take back.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vcpu/bt/bt.h"

#define ENTRIES_PAGE_SHIFT 21 /* a page of entries is for 2 MiB */
#define TOUCHED_SIZE       (1U << TOUCHED_BITS)
#define TOUCHED_MAX        (TOUCHED_SIZE * 3 / 4)
#define TOUCHED_EVER       8192 /* pages of stale memory before it is given back */

/* Parts of tables that are flushed as one. */
static unsigned part_system(const struct tables *t)
{
	return t->nr_spaces;
}

static unsigned part_high(const struct tables *t)
{
	return t->nr_spaces + 1;
}

/* Where the entries of (part) are, its base being at entry 0 of its table. */
static uint8_t *part_base(const struct tables *t, unsigned part)
{
	return part == part_high(t) ? t->base : t->base + part * TABLE_SIZE;
}

/* Where the entries of (kind) start. Those for execution are found with the
 * address's upper two bits in front of the page's number. */
static uint64_t kind_offset(enum table_kind kind, bool is_high)
{
	uint64_t offset = kind * KIND_SIZE;

	return kind == KIND_EXEC && is_high ? offset + 3 * KIND_SIZE : offset;
}

static uint64_t *entry_of(const struct tables *t, unsigned part,
			  enum table_kind kind, uint64_t gva)
{
	uint64_t n = gva >> PAGE_SHIFT & (BIT(36) - 1);

	return (uint64_t *)(void *)(part_base(t, part) +
				    kind_offset(kind, gva >> 47 & 1) + n * 8);
}

/* ---- Pages of entries in use ---------------------------------------------------- */

static uint32_t touched_key(enum table_kind kind, uint64_t gva)
{
	return (uint32_t)(gva >> ENTRIES_PAGE_SHIFT & (BIT(27) - 1)) |
	       (kind + 1U) << 27;
}

static uint32_t *touched_slot(struct touched *t, uint32_t key)
{
	unsigned i = key * 0x9e3779b1U >> (32 - TOUCHED_BITS);

	while (t->keys[i] && t->keys[i] != key)
		i = (i + 1) & (TOUCHED_SIZE - 1);
	return &t->keys[i];
}

static bool is_touched(struct touched *t, enum table_kind kind, uint64_t gva)
{
	return t->nr && *touched_slot(t, touched_key(kind, gva));
}

/* Clear the page of entries for (key). */
static void page_clear(const struct tables *t, unsigned part, uint32_t key)
{
	uint64_t gva = (uint64_t)(key & (BIT(27) - 1)) << ENTRIES_PAGE_SHIFT;

	zero_bytes(entry_of(t, part, (key >> 27) - 1, gva), PAGE_SIZE);
}

/* Give the memory of (part) back: its entries are 0 then. */
static void part_discard(struct tables *t, unsigned part)
{
	for (unsigned kind = 0; kind < NR_KINDS; kind++) {
		if (part == part_high(t))
			madvise(t->base + kind_offset(kind, true) + HALF_SIZE,
				HALF_SIZE, MADV_REMOVE);
		else
			madvise(part_base(t, part) + kind * KIND_SIZE,
				HALF_SIZE, MADV_DONTNEED);
	}
}

/* Branches between kernel pages do not look anything up. */
static void recheck(struct bt *bt)
{
	bt->recheck = bt->cpu.exit_block = true;
}

static void part_flush(struct bt *bt, unsigned part)
{
	struct tables *t = &bt->tables;
	struct touched *touched = &t->touched[part];
	unsigned left = touched->nr;

	if (!left)
		return;
	if (part == part_high(t))
		recheck(bt);
	t->nr_flushes++;
	touched->nr_ever += left;
	if (left > TOUCHED_MAX / 2 || touched->nr_ever > TOUCHED_EVER) {
		cpu_fpu_save(&bt->cpu);
		part_discard(t, part);
		zero_bytes(touched->keys, sizeof(touched->keys));
		touched->nr_ever = 0;
	} else {
		for (unsigned i = 0; left; i++) {
			if (!touched->keys[i])
				continue;
			page_clear(t, part, touched->keys[i]);
			touched->keys[i] = 0;
			left--;
		}
	}
	touched->nr = 0;
}

static void entry_set(struct bt *bt, unsigned part, enum table_kind kind,
		      uint64_t gva, uint64_t value)
{
	struct tables *t = &bt->tables;
	struct touched *touched = &t->touched[part];
	uint32_t key = touched_key(kind, gva), *slot;

	if (touched->nr >= TOUCHED_MAX)
		part_flush(bt, part);
	slot = touched_slot(touched, key);
	if (!*slot) {
		*slot = key;
		touched->nr++;
	}
	*entry_of(t, part, kind, gva) = value;
}

static void entry_clear(struct bt *bt, unsigned part, enum table_kind kind,
			uint64_t gva)
{
	if (is_touched(&bt->tables.touched[part], kind, gva))
		*entry_of(&bt->tables, part, kind, gva) = 0;
}

/* ---- Writable pages -------------------------------------------------------------- */

static uint64_t *writer_of(struct bt *bt, uint64_t gpa)
{
	uint64_t n = gpa >> PAGE_SHIFT;

	return n < bt->vm->nr_pages ? &bt->tables.writer[n] : NULL;
}

static void writer_drop(struct bt *bt, uint64_t writer)
{
	unsigned part = writer & (PAGE_SIZE - 1);
	uint64_t gva = writer & PAGE_MASK;

	if (!writer)
		return;
	tlb_drop_writable(&bt->cpu, gva);
	if (part - 1 <= part_high(&bt->tables))
		entry_clear(bt, part - 1, KIND_WRITE, gva);
}

void tables_revoke(struct bt *bt, uint64_t gpa)
{
	uint64_t *writer = writer_of(bt, gpa);

	if (writer) {
		writer_drop(bt, *writer);
		__atomic_store_n(writer, 0, __ATOMIC_SEQ_CST);
	}
}

/* The page of (gpa) may be written at (gva), in (part), and there alone. False:
 * it may not, because there is code of it. */
static bool writer_claim(struct bt *bt, uint64_t gpa, uint64_t gva,
			 unsigned part)
{
	uint64_t *writer = writer_of(bt, gpa), now = gva | (part + 1), old;
	unsigned old_part;

	if (!writer)
		return false;
	old = *writer;
	if (old == now)
		return true;
	old_part = (unsigned)(old & (PAGE_SIZE - 1)) - 1;
	/* The entry just made may be for the same gva. */
	if ((old ^ now) & PAGE_MASK)
		writer_drop(bt, old);
	else if (old_part <= part_high(&bt->tables))
		entry_clear(bt, old_part, KIND_WRITE, gva);
	/* One who begins to hold the page sees this, or is seen. */
	__atomic_store_n(writer, now, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&bt->vm->holders[gpa >> PAGE_SHIFT],
			     __ATOMIC_SEQ_CST))
		return true;
	tables_revoke(bt, gpa);
	return false;
}

/* ---- The mirror ------------------------------------------------------------------- */

static void mirror_enter(struct cpu *cpu, enum mirror_part part, uint64_t gva,
			 uint64_t gpa, uint8_t *hva, bool is_writable)
{
	struct bt *bt = bt_of(cpu);
	struct tables *t = &bt->tables;
	unsigned n;

	switch (part) {
	case MIRROR_SPACE:
		n = t->space;
		break;
	case MIRROR_SYS:
		n = part_system(t);
		break;
	case MIRROR_HIGH:
		n = part_high(t);
		break;
	default:
		n = part_high(t) + 1; /* none */
		break;
	}
	if (is_writable)
		is_writable = writer_claim(bt, gpa, gva, n);
	if (part == MIRROR_NONE)
		return;
	t->nr_fills++;
	entry_set(bt, n, KIND_READ, gva, (uint64_t)hva - gva);
	if (is_writable)
		entry_set(bt, n, KIND_WRITE, gva, (uint64_t)hva - gva);
	else
		entry_clear(bt, n, KIND_WRITE, gva);
}

static void mirror_flush_space(struct cpu *cpu, unsigned space)
{
	struct bt *bt = bt_of(cpu);

	part_flush(bt, space);
	part_flush(bt, part_system(&bt->tables));
}

static void mirror_flush_high(struct cpu *cpu)
{
	part_flush(bt_of(cpu), part_high(&bt_of(cpu)->tables));
}

static void range_clear(struct bt *bt, unsigned part, uint64_t gva,
			uint64_t size)
{
	for (unsigned kind = 0; kind < NR_KINDS; kind++)
		if (is_touched(&bt->tables.touched[part], kind, gva))
			zero_bytes(entry_of(&bt->tables, part, kind, gva),
				   size >> PAGE_SHIFT << 3);
}

static bool has_exec(const struct tables *t, uint64_t gva, uint64_t size)
{
	const uint64_t *e = entry_of(t, part_high(t), KIND_EXEC, gva);

	if (!is_touched(&t->touched[part_high(t)], KIND_EXEC, gva))
		return false;
	for (uint64_t i = 0; i < size >> PAGE_SHIFT; i++)
		if (e[i])
			return true;
	return false;
}

static void mirror_flush_range(struct cpu *cpu, uint64_t gva, uint64_t size)
{
	struct bt *bt = bt_of(cpu);
	struct tables *t = &bt->tables;

	if (gva >> 63) {
		if (has_exec(t, gva, size))
			recheck(bt);
		range_clear(bt, part_high(t), gva, size);
		return;
	}
	for (unsigned part = 0; part <= part_system(t); part++)
		range_clear(bt, part, gva, size);
}

/* Which table is in use? User code's is the space's; so is supervisor code's
 * while SMAP lets it at user pages. */
static void mirror_select(struct cpu *cpu, unsigned space)
{
	struct bt *bt = bt_of(cpu);
	struct tables *t = &bt->tables;
	unsigned n = part_system(t);

	if (space != t->space) {
		/* Its lower half was for the space that was. */
		part_flush(bt, n);
		t->space = space;
	}
	if (cpu->cpl == 3 ||
	    ((cpu->s.cr4 & CR4_SMAP) && (cpu->s.rflags & FLAG_AC)))
		n = space;
	code_update_key(bt);
	bt->table = (uint64_t)t->base + n * TABLE_SIZE;
	bt->table_ac[0] = (uint64_t)t->base + part_system(t) * TABLE_SIZE;
	bt->table_ac[1] = (uint64_t)t->base + space * TABLE_SIZE;
	bt->access_ac = cpu->s.rflags & FLAG_AC;
	bt->exec_table = bt->table + KIND_EXEC * KIND_SIZE;
	if (cpu->cpl != 3)
		bt->exec_table = (uint64_t)t->base +
				 part_system(t) * TABLE_SIZE +
				 KIND_EXEC * KIND_SIZE;
}

const struct tlb_mirror tables_mirror = {
	.enter = mirror_enter,
	.flush_space = mirror_flush_space,
	.flush_high = mirror_flush_high,
	.flush_range = mirror_flush_range,
	.select = mirror_select,
};

/* ---- Execution --------------------------------------------------------------------- */

static unsigned exec_part(struct bt *bt, uint64_t gva)
{
	if (gva >> 63)
		return part_high(&bt->tables);
	return bt->cpu.cpl == 3 ? bt->tables.space : part_system(&bt->tables);
}

const uint64_t *tables_exec_entry(struct bt *bt, uint64_t gva)
{
	return entry_of(&bt->tables, exec_part(bt, gva), KIND_EXEC, gva);
}

void tables_enter_exec(struct bt *bt, uint64_t gva, uint64_t entry)
{
	/* User code masks the upper half away. */
	if (!(gva >> 63) || bt->cpu.cpl < 3)
		entry_set(bt, exec_part(bt, gva), KIND_EXEC, gva, entry);
}

void tables_flush_exec(struct bt *bt)
{
	struct tables *t = &bt->tables;

	for (unsigned part = 0; part <= part_high(t); part++) {
		struct touched *touched = &t->touched[part];

		for (unsigned i = 0; touched->nr && i < TOUCHED_SIZE; i++)
			if (touched->keys[i] >> 27 == KIND_EXEC + 1)
				page_clear(t, part, touched->keys[i]);
	}
}

/* ---- Life ---------------------------------------------------------------------------- */

static int map_high(struct tables *t)
{
	unsigned nr = t->nr_spaces + 1;

	t->high_fd = memfd_create("ringer-tables", MFD_CLOEXEC);
	if (t->high_fd < 0 ||
	    ftruncate(t->high_fd, (off_t)(NR_KINDS * HALF_SIZE)) < 0)
		return -errno;
	for (unsigned i = 0; i < nr; i++) {
		for (unsigned kind = 0; kind < NR_KINDS; kind++) {
			uint8_t *at = t->base + i * TABLE_SIZE +
				      kind_offset(kind, true) + HALF_SIZE;

			if (mmap(at, HALF_SIZE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
				 t->high_fd,
				 (off_t)(kind * HALF_SIZE)) == MAP_FAILED)
				return -errno;
		}
	}
	return 0;
}

int tables_create(struct bt *bt, struct err *err)
{
	struct tables *t = &bt->tables;
	unsigned nr;
	void *base = MAP_FAILED;
	int r;

	t->high_fd = -1;
	/* Three quarters of the address space at most for all CPUs. */
	nr = (unsigned)(3 * BIT(45) / TABLE_SIZE) / bt->cpu.vcpu->set->nr;
	nr = MIN(MAX(nr, 2U), BT_MAX_SPACES + 1U);
	for (; base == MAP_FAILED && nr >= 2; nr--) {
		base = mmap(NULL, nr * TABLE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		t->nr_spaces = nr - 1;
	}
	if (base == MAP_FAILED) {
		r = -errno;
		goto err;
	}
	t->base = base;
	madvise(t->base, (t->nr_spaces + 1) * TABLE_SIZE, MADV_NOHUGEPAGE);
	r = map_high(t);
	madvise(t->base, (t->nr_spaces + 1) * TABLE_SIZE, MADV_DONTDUMP);
	t->touched = calloc(t->nr_spaces + 2, sizeof(*t->touched));
	if (!r && !t->touched)
		r = -ENOMEM;
	if (r)
		goto err;
	bt->cpu.nr_spaces = t->nr_spaces;
	bt->cpu.mirror = &tables_mirror;
	return 0;

err:
	tables_destroy(bt);
	return err_set(err, -r,
		       "limits of address space forbid it (ulimit -v, "
		       "vm.overcommit_memory=2)",
		       "cannot reserve tables for translation:");
}

void tables_destroy(struct bt *bt)
{
	struct tables *t = &bt->tables;

	if (t->base)
		munmap(t->base, (t->nr_spaces + 1) * TABLE_SIZE);
	if (t->high_fd >= 0)
		close(t->high_fd);
	free(t->touched);
	*t = (struct tables){ .high_fd = -1 };
}
