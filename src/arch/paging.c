#include "arch/paging.h"

#include <stdatomic.h>

/* The width of physical addresses when the caller names none. */
#define PHYS_BITS_MAX 52

/** How one paging mode lays out its tables. */
struct paging_format {
	unsigned top;        /* the first level read from memory */
	unsigned index_bits; /* of the address, for each level */
	unsigned entry_size;
	uint64_t reserved; /* in every entry */
	bool has_nx;
};

struct walk {
	const struct x86_state *st;
	const struct paging_ops *ops;
	struct paging_result *r;
	struct paging_format f;
	/* By level: where the entry is, and what it was. */
	void *slot[6];
	uint64_t entry[6];
	unsigned leaf;
};

/* clang-format off */
static const char *const level_names[] = {
	"", "PT", "PD", "PDPT", "PML4", "PML5"
};
/* clang-format on */

static void walk_format(struct walk *w)
{
	const struct x86_state *st = w->st;
	struct paging_format *f = &w->f;
	unsigned phys_bits = w->ops->phys_bits ?: PHYS_BITS_MAX;

	f->has_nx = st->efer & EFER_NX;
	if (!(st->cr4 & CR4_PAE)) {
		*f = (struct paging_format){ 2, 10, 4, 0, false };
		return;
	}
	f->index_bits = 9;
	f->entry_size = 8;
	f->reserved = phys_bits < 52 ? MASK(51, phys_bits) : 0;
	if (!f->has_nx)
		f->reserved |= PTE_NX;
	if (st->efer & EFER_LMA) {
		f->top = st->cr4 & CR4_LA57 ? 5 : 4;
	} else {
		f->top = 2;
		f->reserved |= MASK(62, 52);
	}
}

static void walk_step(struct walk *w, unsigned level, uint64_t gpa,
		      uint64_t entry)
{
	if (w->r->nr_steps < ARRAY_SIZE(w->r->step))
		w->r->step[w->r->nr_steps++] =
			(struct paging_step){ level_names[level], gpa, entry };
}

/* Read the entry at (gpa). Where there is no memory, all ones answer. */
static uint64_t walk_read(struct walk *w, unsigned level, uint64_t gpa)
{
	uint8_t *slot = w->ops->entry(w->ops->opaque, gpa & ~7ULL);
	uint64_t entry = ~0ULL;

	if (slot) {
		slot += gpa & 7;
		if (w->f.entry_size == 8)
			entry = atomic_load_explicit(
				(_Atomic uint64_t *)(void *)slot,
				memory_order_relaxed);
		else
			entry = atomic_load_explicit(
				(_Atomic uint32_t *)(void *)slot,
				memory_order_relaxed);
	}
	w->slot[level] = slot;
	w->entry[level] = entry;
	walk_step(w, level, gpa, entry);
	return entry;
}

/* Does (entry) at (level) map a page? SDM 4.3 to 4.5: 4 MiB, 2 MiB, 1 GiB. */
static bool is_leaf(const struct walk *w, unsigned level, uint64_t entry)
{
	if (level == 1)
		return true;
	if (!(entry & PTE_PS) || level > 3)
		return false;
	return w->f.entry_size == 8 || (w->st->cr4 & CR4_PSE);
}

/* The bits that must be zero in (entry) at (level). */
static uint64_t reserved_bits(const struct walk *w, unsigned level, bool leaf)
{
	if (level > 3)
		return w->f.reserved | PTE_PS;
	if (!leaf || level == 1)
		return w->f.reserved;
	if (w->f.entry_size == 4)
		return BIT(21);
	return w->f.reserved | (level == 3 ? MASK(29, 13) : MASK(20, 13));
}

/* The address in (entry): of the next table, or of a page of (size_log2). */
static uint64_t entry_addr(const struct walk *w, uint64_t entry,
			   unsigned size_log2)
{
	if (w->f.entry_size == 8)
		return entry & PTE_ADDR & ~(BIT(size_log2) - 1);
	entry &= 0xffffffff;
	if (size_log2 == 22) /* PSE-36 */
		return (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32;
	return entry & 0xfffff000;
}

/* Go down to the page of (gva). Returns the error code's cause, or -1. */
static int walk_down(struct walk *w, uint64_t gva)
{
	struct paging_result *r = w->r;
	unsigned level = w->f.top;
	uint64_t table = w->f.entry_size == 8 ? w->st->cr3 & PTE_ADDR
					      : w->st->cr3 & 0xfffff000;

	r->can_write = r->can_user = r->can_exec = true;
	if (w->f.entry_size == 8 && level == 2) {
		uint64_t pdpte = w->st->pdpte[gva >> 30 & 3];

		walk_step(w, 3, (w->st->cr3 & 0xffffffe0) + (gva >> 30 & 3) * 8,
			  pdpte);
		if (!(pdpte & PTE_P))
			return 0;
		table = pdpte & PTE_ADDR;
	}
	for (;; level--) {
		unsigned shift = 12 + w->f.index_bits * (level - 1);
		uint64_t index = bits_get(gva, shift, w->f.index_bits);
		uint64_t e =
			walk_read(w, level, table + index * w->f.entry_size);
		bool leaf = is_leaf(w, level, e);

		if (!(e & PTE_P))
			return 0;
		if (e & reserved_bits(w, level, leaf))
			return PFERR_P | PFERR_RSVD;
		r->can_write &= !!(e & PTE_W);
		r->can_user &= !!(e & PTE_U);
		r->can_exec &= !(w->f.has_nx && (e & PTE_NX));
		if (leaf) {
			w->leaf = level;
			r->size_log2 = (uint8_t)shift;
			r->gpa = entry_addr(w, e, shift) |
				 (gva & (BIT(shift) - 1));
			return -1;
		}
		table = entry_addr(w, e, 12);
	}
}

/* SDM 4.6: may the access use a page with these rights? */
static bool is_allowed(const struct x86_state *st, struct paging_access a,
		       const struct paging_result *r)
{
	if (a.is_user) {
		if (!r->can_user)
			return false;
		return a.is_fetch ? r->can_exec : !a.is_write || r->can_write;
	}
	if (a.is_fetch)
		return r->can_exec && !(r->can_user && (st->cr4 & CR4_SMEP));
	if (r->can_user && (st->cr4 & CR4_SMAP) &&
	    (a.is_implicit || !(st->rflags & FLAG_AC)))
		return false;
	return !a.is_write || r->can_write || !(st->cr0 & CR0_WP);
}

static bool set_bits(const struct walk *w, unsigned level, uint64_t bits)
{
	uint64_t old = w->entry[level];
	uint32_t old32 = (uint32_t)old;

	if ((old & bits) == bits || !w->slot[level])
		return true;
	if (w->f.entry_size == 8)
		return atomic_compare_exchange_strong(
			(_Atomic uint64_t *)w->slot[level], &old, old | bits);
	return atomic_compare_exchange_strong(
		(_Atomic uint32_t *)w->slot[level], &old32,
		old32 | (uint32_t)bits);
}

/* Set A on the way and D on the page. False if an entry changed meanwhile. */
static bool set_accessed(const struct walk *w, bool is_write)
{
	for (unsigned level = w->f.top; level > w->leaf; level--)
		if (!set_bits(w, level, PTE_A))
			return false;
	return set_bits(w, w->leaf, PTE_A | (is_write ? PTE_D : 0));
}

static uint32_t error_code(const struct x86_state *st, struct paging_access a,
			   int cause)
{
	bool tells_fetch = (st->cr4 & CR4_SMEP) ||
			   ((st->cr4 & CR4_PAE) && (st->efer & EFER_NX));

	return (uint32_t)cause | (a.is_write ? PFERR_W : 0) |
	       (a.is_user ? PFERR_U : 0) |
	       (a.is_fetch && tells_fetch ? PFERR_I : 0);
}

bool paging_walk(const struct x86_state *st, const struct paging_ops *ops,
		 uint64_t gva, struct paging_access access,
		 struct paging_result *r)
{
	struct walk w = { .st = st, .ops = ops, .r = r };
	int cause;

	r->nr_steps = 0;
	r->error = 0;
	r->is_global = false;
	if (!(st->cr0 & CR0_PG)) {
		r->gpa = gva;
		r->size_log2 = 12;
		r->can_write = r->can_user = r->can_exec = true;
		r->is_dirty = true;
		return true;
	}
	walk_format(&w);
	do {
		r->nr_steps = 0;
		cause = walk_down(&w, gva);
		if (cause < 0 && !is_allowed(st, access, r))
			cause = PFERR_P;
		if (cause >= 0) {
			r->error = error_code(st, access, cause);
			return false;
		}
	} while (!access.no_ad && !set_accessed(&w, access.is_write));
	r->is_dirty =
		(w.entry[w.leaf] & PTE_D) || (access.is_write && !access.no_ad);
	r->is_global = (w.entry[w.leaf] & PTE_G) && (st->cr4 & CR4_PGE);
	return true;
}
