/*
 * What the files that translate share: a translation in progress and what
 * writes its parts. Lower layers come first; translate.c drives all of them.
 */
#ifndef VCPU_BT_TRANSLATE_H
#define VCPU_BT_TRANSLATE_H

#include "vcpu/bt/bt.h"
#include "vcpu/bt/emit.h"

#define MAX_INSNS 64
#define MAX_ALTS  8
#define MAX_PADS  6
#define MAX_EXITS 32

/** A miss of a lookup, to be written behind what is near. */
struct pad {
	uint8_t *jrcxz; /* its displacement */
	uint32_t back;
	uint16_t off;   /* of the instruction, in the page */
	enum gate gate; /* NR_GATES: the alternative (alt) */
	unsigned alt;
};

/** A branch to be completed at the end of the block. */
struct way_out {
	uint32_t site; /* of its rel32 */
	int32_t to;    /* offset from the page's start */
};

/** Instructions that share a lookup, while they are translated. */
struct run {
	bool is_active, is_write;
	uint8_t base;
	unsigned last;  /* number of the last one that is part of it */
	int32_t lo, hi; /* what they access, from the base at its start */
	int32_t moved;  /* by which the base has changed since */
};

/** The other way through the instructions of a run. */
struct alt {
	uint32_t site; /* rel32 of the jump there */
	unsigned first, last;
};

/** A translation in progress. */
struct tr {
	struct bt *bt;
	struct code *code;
	struct code_page *page;
	struct emit e;
	struct insn i;
	uint16_t off;       /* of it, in the page */
	struct insn *insns; /* all of the block */
	unsigned nr, at;    /* how many, and which is (i) */
	bool has_runs;      /* not in an alternative way */
	struct run run;
	struct alt alts[MAX_ALTS];
	unsigned nr_alts;
	uint32_t host[MAX_INSNS + 1]; /* where each starts */
	int pad_reach;                /* how far behind pads may be left */
	bool failed;
	bool no_kick;         /* before the next instruction */
	uint32_t block_start; /* for direct links to itself */
	uint16_t block_off;
	unsigned nr_insns, nr_pads, nr_ways, nr_links;
	struct side *side; /* of (i) */
	struct pad pads[MAX_PADS];
	struct way_out ways[MAX_EXITS];
};

/** How an operand is kept within its page. */
enum span_check { CHECK_NONE, CHECK_ALIGNED, CHECK_PAGE };

/* ---- operand.c ----------------------------------------------------------- */

/** Where a guest register lives; INSN_NONE: in memory. */
extern const uint8_t tr_homes[NR_GPR];

/** Where the state has guest register (reg). */
static inline struct hmem tr_gpr_memory(unsigned reg)
{
	return hmem_state(BT_OFF(cpu.s.gpr) + (int)reg * 8);
}

/** Get a guest register into a host register: its own, or (scratch). */
unsigned tr_reg_in(struct tr *t, unsigned reg, unsigned scratch);
/** Guest register (reg) = host register (from). */
void tr_reg_out(struct tr *t, unsigned reg, unsigned from);
/** Host register (reg) = the gva of (off) in the page, or beyond it. */
void tr_page_address(struct tr *t, unsigned reg, int32_t off);
/** Give r11 its meaning back after it was used as scratch. */
void tr_table_back(struct tr *t);
/** From here on the instruction changes what the guest can see. */
void tr_commit(struct tr *t);

/** Jump to a pad if rcx is 0; it leads to (gate), or for NR_GATES elsewhere. */
void tr_pad_add(struct tr *t, enum gate gate);
/** Write pads that will soon be out of reach, and jump over them. */
void tr_pads_settle(struct tr *t);
/** Write all pads. */
void tr_pads_write(struct tr *t);

/** r8 = the linear address of the memory operand. */
void tr_address(struct tr *t);
/** rcx = hva - gva for the page of r8. */
void tr_lookup(struct tr *t, bool is_write);
/** Before the lookup: go to C unless (size) bytes from r8 are in one page. */
void tr_check_page(struct tr *t, enum span_check check, unsigned size);
/** Make r8 non-canonical unless it is a multiple of (size). */
void tr_check_operand(struct tr *t, enum span_check check, unsigned size);
/** Did the instruction fault for being misaligned? */
bool tr_is_misaligned(const struct tr *t);
/** r8 + rcx = the memory operand of (size) bytes, checked as returned. */
enum span_check tr_operand(struct tr *t, unsigned size, bool is_write);

/** r8 + rcx = what is to be pushed to, below RSP. */
void tr_push_lookup(struct tr *t);
/** RSP -= 8 */
void tr_push_done(struct tr *t);
/** Leave for interp if RSP is not a multiple of 8 now. */
void tr_check_rsp(struct tr *t);

/** Let interp do the instruction. False: the block ends with it. */
bool tr_callout(struct tr *t);
/** Raise what an instruction raises that insn_decode() has (error) for. */
void tr_callout_raise(struct tr *t, int error);

/* ---- copy.c -------------------------------------------------------------- */

/** Does the CPU have (i), and may the FPU be used as far as it needs it? */
bool tr_is_usable(const struct tr *t, const struct insn *i);
/** Can tr_copy() do (i)? */
bool tr_is_copied(const struct insn *i);
/** Does (i), which has (reg) as an operand, leave it as it is? */
bool tr_is_only_read(const struct insn *i, unsigned reg);
/** The instruction as it is, with other operands. */
bool tr_copy(struct tr *t);
/** LEA */
bool tr_lea(struct tr *t);
/** BT, BTS, BTR, BTC */
bool tr_bit_test(struct tr *t);

/* ---- run.c --------------------------------------------------------------- */

/** By how much does (i) move (reg)? False: not by a constant. */
bool tr_moves_gpr(const struct insn *i, unsigned reg, int32_t *by);
/** Does a run start at instruction (t->at)? */
bool tr_run_plan(struct tr *t);
/** r8 = the host's address of what is (lo) from the base. */
void tr_run_start(struct tr *t);

/** The operand at (disp) from the base of the run that is on. */
static inline struct hmem tr_run_operand(const struct tr *t, int32_t disp)
{
	return hmem_base(H_R8, disp + t->run.moved - t->run.lo);
}

/* ---- flow.c -------------------------------------------------------------- */

/** The rel32 at (site) leads to (to). */
void tr_patch(struct tr *t, uint32_t site, uint32_t to);
/** Complete the branches: to other pages by lookup, in this page by a link. */
void tr_ways_write(struct tr *t);
/** Jump to (to), an offset from the page's start. */
void tr_branch_to(struct tr *t, int32_t to);
/** PUSH of a register, memory or a constant */
bool tr_push(struct tr *t);
/** POP */
bool tr_pop(struct tr *t);
/** LEAVE */
bool tr_leave(struct tr *t);
/** JMP to a constant */
bool tr_jmp(struct tr *t);
/** Jcc */
bool tr_jcc(struct tr *t);
/** JCXZ, JECXZ, JRCXZ */
bool tr_jcxz(struct tr *t);
/** LOOP */
bool tr_loop(struct tr *t);
/** JMP to a register or memory */
bool tr_jmp_ind(struct tr *t);
/** CALL of a constant */
bool tr_call(struct tr *t);
/** CALL of a register or memory */
bool tr_call_ind(struct tr *t);
/** RET, near */
bool tr_ret(struct tr *t);

/* ---- system.c ------------------------------------------------------------ */

/** CLI */
bool tr_cli(struct tr *t);
/** STI */
bool tr_sti(struct tr *t);
/** STAC, CLAC */
bool tr_stac(struct tr *t);
/** PUSHF */
bool tr_pushf(struct tr *t);
/** MOV from a segment register */
bool tr_mov_from_seg(struct tr *t);
/** RDFSBASE, RDGSBASE */
bool tr_read_base(struct tr *t);
/** SWAPGS */
bool tr_swapgs(struct tr *t);
/** RDTSC, RDTSCP */
bool tr_rdtsc(struct tr *t);

#endif
