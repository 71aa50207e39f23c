/*
 * The page walk: guest-virtual to guest-physical, as the CPU does it (SDM
 * volume 3, chapter 4), for every paging mode.
 */
#ifndef ARCH_PAGING_H
#define ARCH_PAGING_H

#include "arch/regs.h"

/** What an access wants. */
struct paging_access {
	bool is_write, is_fetch;
	bool is_user;     /* CPL 3, or an implicit user access */
	bool is_implicit; /* supervisor access by the CPU itself (descriptor
			   * tables, TSS): SMAP applies whatever AC is */
	bool no_ad;       /* leave accessed and dirty bits alone (debugger) */
};

/** How the walker reads the tables. */
struct paging_ops {
	/* The host address of the 8-byte-aligned entry at (gpa), or NULL where
	 * there is no RAM. The walker updates A and D there, atomically. */
	void *(*entry)(void *opaque, uint64_t gpa);
	void *opaque;
	uint8_t phys_bits; /* width of physical addresses; 0: 52 */
};

/** One step, for people (xlate). */
struct paging_step {
	const char *level; /* "PML4", "PDPT", "PD", "PT" */
	uint64_t gpa, entry;
};

/** A translation, valid for the whole page of (1 << size_log2) bytes. */
struct paging_result {
	uint64_t gpa;                       /* of the byte asked for */
	uint8_t size_log2;                  /* 12, 21, 22 or 30 */
	bool can_write, can_user, can_exec; /* by the entries alone */
	bool is_dirty, is_global;
	uint32_t error; /* page fault error code when it failed */
	unsigned nr_steps;
	struct paging_step step[5];
};

/**
 * Translate (gva) for (access) in (st)'s mode (identity without CR0.PG).
 * Returns true, with A (and for writes D) set in the entries, or false with
 * (r->error). Reserved bits, NX, WP, SMEP and SMAP are honoured; canonicality
 * is the caller's (it is #GP or #SS, not #PF).
 */
bool paging_walk(const struct x86_state *st, const struct paging_ops *ops,
		 uint64_t gva, struct paging_access access,
		 struct paging_result *r);

#endif
