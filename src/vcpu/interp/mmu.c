/*
 * Guest-virtual memory: the software TLB, loads, stores, segmentation.
 *
 * The TLB has two direct-mapped arrays, for supervisor and user accesses, of
 * 4 KiB entries (bigger pages are entered piece by piece), each with a tag for
 * reading, writing and fetching. What the guest must be able to forget at once
 * is forgotten by giving it a new number, its context, in the low bits of the
 * tags that accesses look for:
 *
 *  - The lower half of the address space (bit 63 clear) has a context for each
 *    PCID in use, and a second one for supervisor accesses with RFLAGS.AC set,
 *    to which SMAP opens user pages. STAC and CLAC switch between the two.
 *  - The upper half has one context in all address spaces: that is where
 *    global pages are. The few that are not global are listed, and dropped one
 *    by one when CR3 is loaded.
 *
 * INVLPG has to drop all of a large page that it hits. Filters, by hash, know
 * for which 2 MiB and 1 GiB ranges pieces of a large page were entered.
 *
 * No entry is made for what needs a look at every access: device registers,
 * writes to ROM or to pages that translated code was made from, pages with a
 * data breakpoint on them. While alignment is checked no access hits, because
 * it looks for a context that no entry has.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "vcpu/interp/mem.h"
#include "vcpu/interp/mmu.h"

#define CONTEXT_FIRST 2
#define CONTEXT_LAST  0xffe
#define MAX_NONGLOBAL 64
#define FILTER_BITS   4096
#define FILTER_LONGS  (FILTER_BITS / 64)

enum mem_access { MEM_READ, MEM_WRITE, MEM_FETCH };

struct tlb_state {
	uint16_t next_context;
	uint16_t high; /* the upper half's */
	struct tlb_space spaces[TLB_SPACES];
	struct tlb_space *space; /* CR3's */
	unsigned victim;
	/* Entries of the upper half that are not global; more than fit: start
	 * a new context. */
	uint64_t nonglobal[MAX_NONGLOBAL];
	unsigned nr_nonglobal;
	uint64_t large_2m[FILTER_LONGS], large_1g[FILTER_LONGS];
	/* Page tables in ROM are walked in copies, so that they stay. */
	uint64_t rom_entry[8];
	unsigned nr_rom_entries;
};

/** Where an access to one page ends up. Without (region) it is RAM that the
 * TLB has, where nothing but the access is to be done. */
struct place {
	uint8_t *hva; /* NULL: a device, or nothing */
	uint64_t gpa;
	struct gmem_region *region;
};

/* ---- Contexts ------------------------------------------------------------ */

static void filter_clear(struct tlb_state *t)
{
	for (unsigned i = 0; i < FILTER_LONGS; i++)
		t->large_2m[i] = t->large_1g[i] = 0;
}

/* All numbers are used up: empty the arrays and start again. */
static void contexts_restart(struct cpu *cpu)
{
	struct tlb_state *t = cpu->tlb_state;

	for (unsigned i = 0; i < TLB_SIZE; i++) {
		cpu->tlbs[0][i] = cpu->tlbs[1][i] =
			(struct tlb_entry){ TLB_INVALID, TLB_INVALID,
					    TLB_INVALID, 0 };
	}
	for (unsigned i = 0; i < TLB_SPACES; i++)
		t->spaces[i].context = 0;
	t->nr_nonglobal = 0;
	filter_clear(t);
	t->next_context = CONTEXT_FIRST;
	t->high = t->next_context++;
	t->space->context = t->next_context++;
	t->space->context_ac = t->next_context++;
}

static void space_renew(struct cpu *cpu, struct tlb_space *space)
{
	struct tlb_state *t = cpu->tlb_state;

	if (t->next_context + 1 > CONTEXT_LAST)
		contexts_restart(cpu);
	space->context = t->next_context++;
	space->context_ac = t->next_context++;
	if (cpu->mirror)
		cpu->mirror->flush_space(cpu, (unsigned)(space - t->spaces));
}

static void high_renew(struct cpu *cpu)
{
	struct tlb_state *t = cpu->tlb_state;

	if (cpu->mirror)
		cpu->mirror->flush_high(cpu);

	t->nr_nonglobal = 0;
	if (t->next_context > CONTEXT_LAST)
		contexts_restart(cpu);
	else
		t->high = t->next_context++;
}

static uint16_t current_pcid(const struct cpu *cpu)
{
	return cpu->s.cr4 & CR4_PCIDE ? cpu->s.cr3 & CR3_PCID : 0;
}

static struct tlb_space *space_find(struct tlb_state *t, uint16_t pcid)
{
	for (unsigned i = 0; i < TLB_SPACES; i++)
		if (t->spaces[i].context && t->spaces[i].pcid == pcid)
			return &t->spaces[i];
	return NULL;
}

static void entry_drop(struct tlb_entry *e)
{
	e->read = e->write = e->exec = TLB_INVALID;
}

static void drop_nonglobal(struct cpu *cpu)
{
	struct tlb_state *t = cpu->tlb_state;

	if (t->nr_nonglobal > MAX_NONGLOBAL) {
		high_renew(cpu);
		return;
	}
	for (unsigned i = 0; i < t->nr_nonglobal; i++) {
		unsigned slot = t->nonglobal[i] >> PAGE_SHIFT & (TLB_SIZE - 1);

		entry_drop(&cpu->tlbs[0][slot]);
		entry_drop(&cpu->tlbs[1][slot]);
		if (cpu->mirror)
			cpu->mirror->flush_range(cpu, t->nonglobal[i],
						 PAGE_SIZE);
	}
	t->nr_nonglobal = 0;
}

void tlb_load_cr3(struct cpu *cpu, bool keep)
{
	struct tlb_state *t = cpu->tlb_state;
	uint16_t pcid = current_pcid(cpu);
	struct tlb_space *space = space_find(t, pcid);

	drop_nonglobal(cpu);
	if (!space) {
		space = &t->spaces[t->victim++ % cpu->nr_spaces];
		space->pcid = pcid;
		keep = false;
	}
	t->space = space;
	if (!keep)
		space_renew(cpu, space);
	cpu_update_access(cpu);
}

void tlb_flush_pcid(struct cpu *cpu, uint16_t pcid)
{
	struct tlb_space *space = space_find(cpu->tlb_state, pcid);

	if (pcid == current_pcid(cpu))
		drop_nonglobal(cpu);
	if (space)
		space_renew(cpu, space);
	cpu_update_access(cpu);
}

void tlb_flush(struct cpu *cpu)
{
	struct tlb_state *t = cpu->tlb_state;

	cpu->tlb_flushes++;
	for (unsigned i = 0; i < TLB_SPACES; i++)
		t->spaces[i].context = 0;
	filter_clear(t);
	t->space = &t->spaces[0];
	t->space->pcid = current_pcid(cpu);
	space_renew(cpu, t->space);
	high_renew(cpu);
	cpu_update_access(cpu);
}

int mmu_create(struct cpu *cpu)
{
	struct tlb_state *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	cpu->tlb_state = t;
	t->space = &t->spaces[0];
	contexts_restart(cpu);
	tlb_flush(cpu);
	return 0;
}

void mmu_destroy(struct cpu *cpu)
{
	free(cpu->tlb_state);
}

static bool filter_test(const uint64_t *filter, uint64_t n)
{
	n &= FILTER_BITS - 1;
	return filter[n / 64] >> (n % 64) & 1;
}

static void filter_set(uint64_t *filter, uint64_t n)
{
	n &= FILTER_BITS - 1;
	filter[n / 64] |= BIT(n % 64);
}

/* Drop what the slot of (gva) has for [start, start + size). */
static void slot_drop(struct cpu *cpu, uint64_t gva, uint64_t start,
		      uint64_t size)
{
	for (unsigned i = 0; i < 2; i++) {
		struct tlb_entry *e =
			&cpu->tlbs[i][gva >> PAGE_SHIFT & (TLB_SIZE - 1)];

		if (e->read - start < size || e->write - start < size ||
		    e->exec - start < size)
			entry_drop(e);
	}
}

void tlb_drop_writable(struct cpu *cpu, uint64_t gva)
{
	for (unsigned i = 0; i < 2; i++) {
		struct tlb_entry *e =
			&cpu->tlbs[i][gva >> PAGE_SHIFT & (TLB_SIZE - 1)];

		if ((e->write & PAGE_MASK) == (gva & PAGE_MASK))
			e->write = TLB_INVALID;
	}
}

void tlb_flush_page(struct cpu *cpu, uint64_t gva)
{
	struct tlb_state *t = cpu->tlb_state;
	uint64_t start = gva & ~(2 * MiB - 1);

	if (filter_test(t->large_1g, gva >> 30)) {
		tlb_flush(cpu);
	} else if (filter_test(t->large_2m, gva >> 21)) {
		for (uint64_t i = 0; i < 2 * MiB; i += PAGE_SIZE)
			slot_drop(cpu, start + i, start, 2 * MiB);
		if (cpu->mirror)
			cpu->mirror->flush_range(cpu, start, 2 * MiB);
	} else {
		slot_drop(cpu, gva, gva & PAGE_MASK, PAGE_SIZE);
		if (cpu->mirror)
			cpu->mirror->flush_range(cpu, gva & PAGE_MASK,
						 PAGE_SIZE);
	}
	cpu->tlb_flushes++;
	cpu->exit_block = true;
}

void cpu_update_access(struct cpu *cpu)
{
	struct x86_state *s = &cpu->s;
	struct tlb_state *t = cpu->tlb_state;
	bool ac = s->rflags & FLAG_AC;

	cpu->align_check = cpu->cpl == 3 && ac && (s->cr0 & CR0_AM);
	cpu->tlb = cpu->tlbs[cpu->cpl == 3];
	cpu->code_context[0] = t->space->context;
	cpu->code_context[1] = t->high;
	cpu->context[0] = t->space->context;
	cpu->context[1] = t->high;
	if (cpu->cpl < 3 && ac && (s->cr4 & CR4_SMAP))
		cpu->context[0] = t->space->context_ac;
	if (cpu->align_check)
		cpu->context[0] = cpu->context[1] = TLB_NEVER;
	if (cpu->mirror)
		cpu->mirror->select(cpu, (unsigned)(t->space - t->spaces));
}

/* ---- The walk ------------------------------------------------------------ */

static struct gmem_region *region_of(struct gmem *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < mem->nr_regions; i++)
		if (gpa - mem->region[i].gpa < mem->region[i].size)
			return &mem->region[i];
	return NULL;
}

static void page_mark(struct gmem_region *r, uint64_t gpa)
{
	uint8_t *flags = &r->page_flags[(gpa - r->gpa) >> PAGE_SHIFT];

	if (!(__atomic_load_n(flags, __ATOMIC_RELAXED) & GMEM_PAGE_DIRTY))
		__atomic_fetch_or(flags, GMEM_PAGE_DIRTY, __ATOMIC_RELAXED);
}

static bool page_is_code(const struct gmem_region *r, uint64_t gpa)
{
	return __atomic_load_n(&r->page_flags[(gpa - r->gpa) >> PAGE_SHIFT],
			       __ATOMIC_RELAXED) &
	       GMEM_PAGE_CODE;
}

/* The walker may set A and D in what it gets: RAM is marked dirty then. */
static void *walk_entry(void *opaque, uint64_t gpa)
{
	struct cpu *cpu = opaque;
	struct tlb_state *t = cpu->tlb_state;
	struct gmem_region *r = region_of(cpu->vcpu->set->mem, gpa);
	uint64_t *slot, both = PTE_A | PTE_D;

	if (!r)
		return NULL;
	slot = (uint64_t *)(void *)(r->hva + (gpa - r->gpa));
	if (r->flags & GMEM_RO) {
		uint64_t *copy = &t->rom_entry[t->nr_rom_entries++ % 8];

		*copy = *slot;
		return copy;
	}
	if (!(cpu->s.cr4 & CR4_PAE))
		both |= both << 32;
	if ((*slot & both) != both)
		page_mark(r, gpa);
	return slot;
}

static void fault_address(struct cpu *cpu, unsigned flags)
	__attribute__((noreturn));
static void fault_address(struct cpu *cpu, unsigned flags)
{
	cpu_raise(cpu, flags & MEM_SS ? EXC_SS : EXC_GP, 0);
}

static bool is_watched(const struct cpu *cpu, uint64_t gva, uint64_t len,
		       bool is_write, uint32_t *hits);

/* Tell the mirror about a data page. Its lower half of a space has what user
 * accesses may do; the supervisor's with AC set, where that is the same. */
static void mirror_enter(struct cpu *cpu, uint64_t gva, bool user, bool sys,
			 const struct paging_result *r, const struct place *p,
			 bool is_writable)
{
	enum mirror_part part = MIRROR_SYS;

	if (gva >> 63) {
		part = user ? MIRROR_NONE : MIRROR_HIGH;
	} else if (sys) {
		part = MIRROR_NONE;
	} else if (user) {
		part = MIRROR_SPACE;
	} else if ((cpu->s.cr4 & CR4_SMAP) && (cpu->s.rflags & FLAG_AC)) {
		part = MIRROR_NONE;
		if (r->can_user && (!is_writable || r->can_write))
			part = MIRROR_SPACE;
	}
	cpu->mirror->enter(cpu, part, gva & PAGE_MASK, p->gpa,
			   (uint8_t *)((uint64_t)p->hva & PAGE_MASK),
			   is_writable);
}

/* Enter the translation of the page of (gva) that (r) found for an access. */
static void tlb_enter(struct cpu *cpu, uint64_t gva, enum mem_access kind,
		      bool user, bool sys, const struct paging_result *r,
		      const struct place *p, uint64_t context)
{
	struct tlb_state *t = cpu->tlb_state;
	uint64_t page = gva & PAGE_MASK, tag = page | context;
	uint64_t addend = ((uint64_t)p->hva & PAGE_MASK) - page;
	struct tlb_entry *e =
		&cpu->tlbs[user][gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
	bool writable = r->is_dirty &&
			(r->can_write || (!user && !(cpu->s.cr0 & CR0_WP))) &&
			!(p->region->flags & GMEM_RO);

	/* SMAP opens user pages by AC, which the upper half does not know. */
	if (gva >> 63 && !user && r->can_user && (cpu->s.cr4 & CR4_SMAP) &&
	    kind != MEM_FETCH)
		return;
	if (kind != MEM_FETCH && unlikely(cpu->watch) &&
	    is_watched(cpu, page, PAGE_SIZE, true, NULL))
		return;
	cpu->tlb_fills++;
	if (e->addend != addend || (e->read != tag && e->exec != tag)) {
		entry_drop(e);
		e->addend = addend;
	}
	if (kind == MEM_FETCH)
		e->exec = tag;
	else
		e->read = tag;
	if (kind == MEM_WRITE ||
	    (kind == MEM_READ && writable &&
	     (p->region->page_flags[(p->gpa - p->region->gpa) >> PAGE_SHIFT] &
	      GMEM_PAGE_DIRTY)))
		e->write = page_is_code(p->region, p->gpa) ? TLB_INVALID : tag;
	if (cpu->mirror && kind != MEM_FETCH)
		mirror_enter(cpu, gva, user, sys, r, p, e->write == tag);
	if (unlikely(cpu->before_store))
		e->write = TLB_INVALID;

	if (gva >> 63 && !r->is_global) {
		if (t->nr_nonglobal < MAX_NONGLOBAL)
			t->nonglobal[t->nr_nonglobal] = page;
		if (t->nr_nonglobal <= MAX_NONGLOBAL)
			t->nr_nonglobal++;
	}
	if (r->size_log2 == 21 || r->size_log2 == 22)
		filter_set(t->large_2m, gva >> 21);
	else if (r->size_log2 == 30)
		filter_set(t->large_1g, gva >> 30);
}

/**
 * Translate (gva), which is canonical, for an access by the current privilege,
 * or with (sys) by the CPU itself; raises #PF. A page that may be entered into
 * the TLB is.
 */
static struct place translate(struct cpu *cpu, uint64_t gva,
			      enum mem_access kind, bool sys)
{
	struct paging_ops ops = {
		.entry = walk_entry,
		.opaque = cpu,
		.phys_bits = (uint8_t)cpu->vcpu->set->cpuid.config.phys_bits,
	};
	bool user = cpu->cpl == 3 && !sys;
	struct paging_access access = {
		.is_write = kind == MEM_WRITE,
		.is_fetch = kind == MEM_FETCH,
		.is_user = user,
		.is_implicit = sys,
	};
	struct paging_result r;
	struct place p = { NULL, 0, NULL };

	if (!paging_walk(&cpu->s, &ops, gva, access, &r))
		cpu_raise_pf(cpu, gva, r.error);
	p.gpa = r.gpa;
	p.region = region_of(cpu->vcpu->set->mem, r.gpa);
	if (!p.region)
		return p;
	p.hva = p.region->hva + (r.gpa - p.region->gpa);
	if (kind == MEM_WRITE) {
		if (p.region->flags & GMEM_RO)
			return p;
		page_mark(p.region, r.gpa);
	}
	if (kind == MEM_FETCH && (p.region->flags & GMEM_NX))
		cpu_raise(cpu, EXC_GP, 0);
	if (sys) {
		/* As if AC were clear; at CPL 3 it is user accesses' bit. */
		tlb_enter(cpu, gva, kind, false, true, &r, &p,
			  gva >> 63 ? cpu->tlb_state->high
				    : cpu->tlb_state->space->context);
	} else {
		uint64_t context = kind == MEM_FETCH
					   ? cpu->code_context[gva >> 63]
					   : cpu->context[gva >> 63];

		if (context != TLB_NEVER)
			tlb_enter(cpu, gva, kind, user, false, &r, &p, context);
	}
	return p;
}

/* ---- Devices ------------------------------------------------------------- */

/* Access what is not memory at (gpa), in naturally aligned pieces. */
static void mmio_access(struct cpu *cpu, uint64_t gpa, void *data, unsigned len,
			bool is_write)
{
	uint8_t *bytes = data;

	cpu_fpu_save(cpu);
	cpu->irq_check = cpu->exit_block = true;
	while (len) {
		unsigned size = 8;
		struct access a;

		while (size > len || (gpa & (size - 1) && size > 1))
			size /= 2;
		/* A lone access goes as it is, misaligned or not. */
		if (bytes == data && len <= 8 && IS_POW2(len))
			size = len;
		a = (struct access){ .addr = gpa,
				     .size = (uint8_t)size,
				     .is_write = is_write,
				     .count = 1,
				     .data = bytes };
		if (!vcpu_mmio(cpu->vcpu, &a)) {
			if (cpu->vcpu->set->unmapped == UNMAPPED_INJECT)
				cpu_raise(cpu, EXC_GP, 0);
			cpu->exit->access = a;
			cpu_abort(cpu, EXIT_UNMAPPED);
		}
		bytes += size;
		gpa += size;
		len -= size;
	}
}

/* ---- Breakpoints, alignment, canonicality -------------------------------- */

/* Does [gva, gva + len) meet an enabled data breakpoint of DR7 (SDM 17.2.4)?
 * Sets the numbers of those that it meets in (hits). */
static bool is_watched(const struct cpu *cpu, uint64_t gva, uint64_t len,
		       bool is_write, uint32_t *hits)
{
	static const uint8_t lengths[] = { 1, 2, 8, 4 };
	uint64_t dr7 = cpu->s.dr[7];
	bool found = false;

	for (unsigned i = 0; i < 4; i++) {
		unsigned type = dr7 >> (16 + 4 * i) & 3;
		uint64_t size = lengths[dr7 >> (18 + 4 * i) & 3];
		uint64_t start = cpu->s.dr[i] & ~(size - 1);

		if (!(dr7 >> (2 * i) & 3) || !(type & 1) ||
		    (type == 1 && !is_write))
			continue;
		if (start - gva < len || gva - start < size) {
			found = true;
			if (hits)
				*hits |= 1U << i;
		}
	}
	return found;
}

/* The alignment that #AC asks for an operand of (size) bytes (SDM table 6-7):
 * x87 environments and states are made of words or doublewords. */
static unsigned alignment_of(unsigned size)
{
	switch (size) {
	case 2:
	case 4:
	case 8:
		return size;
	case 10:
		return 8;
	case 14:
	case 94:
		return 2;
	case 28:
	case 108:
		return 4;
	default:
		return 1;
	}
}

bool mem_is_misaligned(const struct cpu *cpu, uint64_t gva, unsigned len)
{
	return cpu->align_check && (gva & (alignment_of(len) - 1));
}

static void check_access(struct cpu *cpu, uint64_t gva, unsigned size,
			 unsigned flags, bool is_write, bool sys)
{
	unsigned width = cpu->s.cr4 & CR4_LA57 ? 57 : 48;

	if (cpu->is_long &&
	    (!is_canonical(gva, width) || !is_canonical(gva + size - 1, width)))
		fault_address(cpu, flags);
	if (sys)
		return;
	if (!(flags & MEM_UNALIGNED) && mem_is_misaligned(cpu, gva, size))
		cpu_raise(cpu, EXC_AC, 0);
	if (unlikely(cpu->watch) &&
	    is_watched(cpu, gva, size, is_write, &cpu->debug_trap))
		cpu->exit_block = true;
}

/* The bytes of [gva, gva + len) that are in its first page; and where the
 * second one starts: outside 64-bit mode, addresses wrap at 4 GiB. */
static unsigned first_part(uint64_t gva, unsigned len)
{
	uint64_t room = PAGE_SIZE - (gva & (PAGE_SIZE - 1));

	return len < room ? len : (unsigned)room;
}

static uint64_t second_page(const struct cpu *cpu, uint64_t gva)
{
	uint64_t next = (gva & PAGE_MASK) + PAGE_SIZE;

	return cpu->mode == MODE_64 || gva >> 32 ? next : (uint32_t)next;
}

/* ---- Loads and stores ---------------------------------------------------- */

static void place_read(struct cpu *cpu, const struct place *p, void *buf,
		       unsigned len)
{
	if (!p->hva)
		mmio_access(cpu, p->gpa, buf, len, false);
	else if (IS_POW2(len) && len <= 8)
		host_store(buf, len, host_load(p->hva, len));
	else
		copy_bytes(buf, p->hva, len);
}

static void place_write(struct cpu *cpu, const struct place *p, void *buf,
			unsigned len)
{
	struct gmem *mem = cpu->vcpu->set->mem;

	if (!p->hva) {
		mmio_access(cpu, p->gpa, buf, len, true);
		return;
	}
	if (p->region && (p->region->flags & GMEM_RO))
		return;
	code_check(cpu, p->hva);
	if (unlikely(cpu->before_store))
		cpu->before_store(cpu, p->hva, len);
	if (IS_POW2(len) && len <= 8)
		host_store(p->hva, len, host_load(buf, len));
	else
		copy_bytes(p->hva, buf, len);
	if (!mem->code_written || !p->region)
		return;
	/* One who translates sets the flag and then reads what is there. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (unlikely(page_is_code(p->region, p->gpa))) {
		cpu_fpu_save(cpu);
		mem->code_written(mem->code_opaque, p->gpa, len);
	}
}

static void read_bytes(struct cpu *cpu, uint64_t gva, void *buf, unsigned len,
		       bool sys)
{
	uint8_t *bytes = buf;

	while (len) {
		unsigned part = first_part(gva, len);
		struct place p = { NULL, 0, NULL };

		if (!sys)
			p.hva = tlb_read(cpu, gva, 1);
		if (!p.hva)
			p = translate(cpu, gva, MEM_READ, sys);
		place_read(cpu, &p, bytes, part);
		bytes += part;
		len -= part;
		gva = second_page(cpu, gva);
	}
}

/* Check all pages, then store. */
static void write_bytes(struct cpu *cpu, uint64_t gva, const void *buf,
			unsigned len, bool sys)
{
	struct place p[3];
	const uint8_t *bytes = buf;
	uint64_t at = gva;
	unsigned n = 0, left, part;

	for (left = len; left; left -= part, at = second_page(cpu, at)) {
		part = first_part(at, left);
		vm_assert(n < ARRAY_SIZE(p));
		p[n] = (struct place){ NULL, 0, NULL };
		if (!sys)
			p[n].hva = tlb_write(cpu, at, 1);
		if (!p[n].hva)
			p[n] = translate(cpu, at, MEM_WRITE, sys);
		n++;
	}
	for (unsigned i = 0; i < n; i++) {
		uint8_t tmp[8];

		part = first_part(gva, len);
		if (part <= sizeof(tmp)) {
			copy_bytes(tmp, bytes, part);
			place_write(cpu, &p[i], tmp, part);
		} else {
			place_write(cpu, &p[i], (void *)(uintptr_t)bytes, part);
		}
		bytes += part;
		len -= part;
		gva = second_page(cpu, gva);
	}
}

uint64_t mem_load_slow(struct cpu *cpu, uint64_t gva, unsigned size)
{
	unsigned flags = size & ~MEM_SIZE_MASK;
	uint64_t value = 0;

	size &= MEM_SIZE_MASK;
	check_access(cpu, gva, size, flags, false, false);
	read_bytes(cpu, gva, &value, size, false);
	return value;
}

void mem_store_slow(struct cpu *cpu, uint64_t gva, unsigned size,
		    uint64_t value)
{
	unsigned flags = size & ~MEM_SIZE_MASK;

	size &= MEM_SIZE_MASK;
	check_access(cpu, gva, size, flags, true, false);
	write_bytes(cpu, gva, &value, size, false);
}

uint64_t mem_load(struct cpu *cpu, uint64_t gva, unsigned size)
{
	void *hva = tlb_read(cpu, gva, size);

	if (likely(hva && IS_POW2(size)))
		return host_load(hva, size);
	return mem_load_slow(cpu, gva, size);
}

void mem_store(struct cpu *cpu, uint64_t gva, unsigned size, uint64_t value)
{
	if (likely(IS_POW2(size)))
		mem_store_fast(cpu, gva, size, 0, value);
	else
		mem_store_slow(cpu, gva, size, value);
}

/* The supervisor array's entry for an access by the CPU itself. */
static struct tlb_entry *sys_entry(struct cpu *cpu, uint64_t gva, unsigned size,
				   uint64_t *tag)
{
	struct tlb_state *t = cpu->tlb_state;

	*tag = ((gva + size - 1) & PAGE_MASK) |
	       (gva >> 63 ? t->high : t->space->context);
	return &cpu->tlbs[0][gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
}

uint64_t mem_load_sys(struct cpu *cpu, uint64_t gva, unsigned size)
{
	uint64_t value = 0, tag;
	struct tlb_entry *e = sys_entry(cpu, gva, size, &tag);

	if (likely(e->read == tag && IS_POW2(size)))
		return host_load((void *)(gva + e->addend), size);
	check_access(cpu, gva, size, 0, false, true);
	read_bytes(cpu, gva, &value, size, true);
	return value;
}

void mem_store_sys(struct cpu *cpu, uint64_t gva, unsigned size, uint64_t value)
{
	uint64_t tag;
	struct tlb_entry *e = sys_entry(cpu, gva, size, &tag);

	if (likely(e->write == tag && IS_POW2(size))) {
		code_check(cpu, (void *)(gva + e->addend));
		host_store((void *)(gva + e->addend), size, value);
		return;
	}
	check_access(cpu, gva, size, 0, true, true);
	write_bytes(cpu, gva, &value, size, true);
}

void mem_load_bytes(struct cpu *cpu, uint64_t gva, void *buf, unsigned len)
{
	unsigned flags = len & ~MEM_SIZE_MASK;

	len &= MEM_SIZE_MASK;
	check_access(cpu, gva, len, flags, false, false);
	read_bytes(cpu, gva, buf, len, false);
}

void mem_store_bytes(struct cpu *cpu, uint64_t gva, const void *buf,
		     unsigned len)
{
	unsigned flags = len & ~MEM_SIZE_MASK;

	len &= MEM_SIZE_MASK;
	check_access(cpu, gva, len, flags, true, false);
	write_bytes(cpu, gva, buf, len, false);
}

void mem_probe(struct cpu *cpu, uint64_t gva, unsigned len, bool is_write)
{
	unsigned flags = len & ~MEM_SIZE_MASK;

	len &= MEM_SIZE_MASK;
	check_access(cpu, gva, len, flags, is_write, false);
	while (len) {
		unsigned part = first_part(gva, len);

		if (!(is_write ? tlb_write(cpu, gva, 1)
			       : tlb_read(cpu, gva, 1)))
			translate(cpu, gva, is_write ? MEM_WRITE : MEM_READ,
				  false);
		len -= part;
		gva = second_page(cpu, gva);
	}
}

void *mem_host_slow(struct cpu *cpu, uint64_t gva, unsigned size, bool is_write)
{
	unsigned flags = size & ~MEM_SIZE_MASK;
	struct place p;

	size &= MEM_SIZE_MASK;
	check_access(cpu, gva, size, flags, is_write, false);
	if (first_part(gva, size) < size)
		return NULL;
	p = translate(cpu, gva, is_write ? MEM_WRITE : MEM_READ, false);
	if (!p.hva || !is_write)
		return p.hva;
	if ((p.region->flags & GMEM_RO) || page_is_code(p.region, p.gpa))
		return NULL;
	code_check(cpu, p.hva);
	if (unlikely(cpu->before_store))
		cpu->before_store(cpu, p.hva, size);
	return p.hva;
}

void *mem_host(struct cpu *cpu, uint64_t gva, unsigned len, bool is_write)
{
	void *hva =
		is_write ? tlb_write(cpu, gva, len) : tlb_read(cpu, gva, len);

	return likely(hva) ? hva : mem_host_slow(cpu, gva, len, is_write);
}

bool mem_is_open(struct cpu *cpu, uint64_t gva, bool is_write)
{
	struct paging_ops ops = {
		.entry = walk_entry,
		.opaque = cpu,
		.phys_bits = (uint8_t)cpu->vcpu->set->cpuid.config.phys_bits,
	};
	struct paging_access access = { .is_write = is_write,
					.is_user = cpu->cpl == 3,
					.no_ad = true };
	struct paging_result r;

	return paging_walk(&cpu->s, &ops, gva, access, &r);
}

const uint8_t *mem_code_peek(struct cpu *cpu, uint64_t gva)
{
	struct paging_ops ops = {
		.entry = walk_entry,
		.opaque = cpu,
		.phys_bits = (uint8_t)cpu->vcpu->set->cpuid.config.phys_bits,
	};
	struct paging_access access = { .is_fetch = true, .no_ad = true };
	const struct gmem_region *region;
	struct paging_result r;

	if (!paging_walk(&cpu->s, &ops, gva, access, &r))
		return NULL;
	region = region_of(cpu->vcpu->set->mem, r.gpa & PAGE_MASK);
	return region ? region->hva + ((r.gpa & PAGE_MASK) - region->gpa)
		      : NULL;
}

const uint8_t *mem_code(struct cpu *cpu, uint64_t gva)
{
	struct place p;

	if (cpu->is_long && !is_canonical(gva, cpu->s.cr4 & CR4_LA57 ? 57 : 48))
		cpu_raise(cpu, EXC_GP, 0);
	p = translate(cpu, gva, MEM_FETCH, false);
	/* Code in device registers: nothing there that could run. */
	if (!p.hva)
		cpu_raise(cpu, EXC_GP, 0);
	return (const uint8_t *)((uint64_t)p.hva & PAGE_MASK);
}

/* ---- Segmentation -------------------------------------------------------- */

/* SDM volume 3, 5.3 to 5.5: rights and limit. */
static bool segment_allows(const struct cpu *cpu, const struct x86_seg *seg,
			   uint32_t offset, unsigned len, bool is_write)
{
	uint32_t last = offset + len - 1;
	uint16_t attr = seg->attr;

	if (attr & ATTR_UNUSABLE)
		return false;
	if (cpu->s.cr0 & CR0_PE && !(cpu->s.rflags & FLAG_VM)) {
		if (attr & ATTR_CODE) {
			if (is_write || !(attr & ATTR_RW))
				return false;
		} else if (is_write && !(attr & ATTR_RW)) {
			return false;
		}
		if (!(attr & ATTR_CODE) && (attr & ATTR_CE)) {
			uint32_t top = attr & ATTR_DB ? 0xffffffff : 0xffff;

			return offset > seg->limit && last >= offset &&
			       last <= top;
		}
	}
	if (seg->limit == 0xffffffff)
		return true;
	return last >= offset && last <= seg->limit;
}

uint64_t mem_linear(struct cpu *cpu, unsigned seg, uint64_t offset,
		    unsigned len, bool is_write)
{
	const struct x86_seg *s = &cpu->s.seg[seg];
	unsigned width = cpu->s.cr4 & CR4_LA57 ? 57 : 48;
	uint64_t gva;

	len = len ?: 1;
	if (cpu->mode == MODE_64) {
		gva = offset + (seg >= SEG_FS ? s->base : 0);
		if (!is_canonical(gva, width) ||
		    !is_canonical(gva + len - 1, width))
			fault_address(cpu, seg == SEG_SS ? MEM_SS : 0);
		return gva;
	}
	if (!segment_allows(cpu, s, (uint32_t)offset, len, is_write))
		fault_address(cpu, seg == SEG_SS ? MEM_SS : 0);
	return (uint32_t)(s->base + offset);
}

uint64_t mem_effective(struct cpu *cpu, const struct insn *insn)
{
	uint64_t ea = (uint64_t)insn->disp;

	if (insn->flags & INSN_RIPREL)
		ea += cpu->next_rip;
	if (insn->base != INSN_NONE)
		ea += cpu->s.gpr[insn->base];
	if (insn->index != INSN_NONE)
		ea += cpu->s.gpr[insn->index] << insn->scale_log2;
	return ea & size_mask(insn->addrsize);
}

uint64_t mem_operand(struct cpu *cpu, const struct insn *insn, unsigned len,
		     bool is_write)
{
	return mem_linear(cpu, insn->seg, mem_effective(cpu, insn), len,
			  is_write);
}
