/*
 * Instructions as the run loop executes them: a decoded instruction lowered to
 * 32 bytes, with its operands as offsets in struct cpu, for a handler that
 * does exactly its operation, size and form. What has no such handler runs by
 * its insn_fn, through uop.slow.
 */
#ifndef VCPU_INTERP_UOP_H
#define VCPU_INTERP_UOP_H

#include "vcpu/interp/mem.h"

struct uop;
/** Executes one of them, as an insn_fn does. */
typedef void (*uop_fn)(struct cpu *cpu, const struct uop *u);

/** An instruction in full, for handlers of the general kind. */
struct slow_insn {
	insn_fn fn;
	const struct native_stub *stub; /* OP_NATIVE: cached native_get() */
	unsigned generation;
	struct insn insn;
};

/** What (insn), as handlers get it, is part of. */
static inline struct slow_insn *slow_of(const struct insn *insn)
{
	return (struct slow_insn *)((uintptr_t)insn -
				    offsetof(struct slow_insn, insn));
}

/** How the effective address becomes a linear one. */
enum uop_ea {
	EA_FLAT,   /* 64-bit: add the segment base, nothing else */
	EA_ADDR32, /* 64-bit with a 32-bit effective address */
	EA_SEG32,  /* segment with a limit, 32- or 16-bit effective address */
	EA_SEG16,
};

/** A lowered instruction. */
struct uop {
	uop_fn fn;
	union {
		struct {
			int32_t disp, imm;
		};
		int64_t imm64;   /* MOV of an immediate */
		uint64_t target; /* branches in 64-bit mode */
		struct slow_insn *slow;
	};
	/* Memory operand: offsets in struct cpu of base, index, segment base;
	 * (zero) where there is none. */
	uint16_t base, index, seg_base;
	uint8_t scale; /* 1, 2, 4, 8 */
	uint8_t len;   /* of the instruction */
	/* Register operands: byte offsets in s.gpr. */
	uint8_t reg, rm;
	uint8_t ea;  /* enum uop_ea */
	uint8_t seg; /* enum seg */
	uint8_t cond;
	bool is_ss; /* a bad address is #SS */
	uint8_t spare[2];
};

_Static_assert(sizeof(struct uop) == 32, "two of them in a cache line");

#define UOP_FIELD(cpu, type, offset) \
	(*(type *)(void *)((char *)(cpu) + (offset)))

/** 1, 2, 4, 8 to 0, 1, 2, 3, for tables by operand size. */
static inline unsigned size_index(unsigned size)
{
	return (unsigned)__builtin_ctz(size | 16) & 3;
}

/** The offset of a register operand in s.gpr. */
static inline uint8_t gpr_offset(unsigned reg, bool is_high8)
{
	return (uint8_t)(is_high8 ? (reg & 3) * 8 + 1 : reg * 8);
}

/** Write a general register at (offset): 4 bytes clear the upper half. */
static inline void gpr_write(struct cpu *cpu, unsigned offset, unsigned size,
			     uint64_t value)
{
	if (size == 8 || size == 4)
		UOP_FIELD(cpu, uint64_t, offset) =
			size == 4 ? (uint32_t)value : value;
	else if (size == 2)
		UOP_FIELD(cpu, uint16_t, offset) = (uint16_t)value;
	else
		UOP_FIELD(cpu, uint8_t, offset) = (uint8_t)value;
}

static inline uint64_t gpr_read(const struct cpu *cpu, unsigned offset,
				unsigned size)
{
	return host_load((const char *)cpu + offset, size);
}

/** The linear address of an operand that is not EA_FLAT. */
uint64_t uop_ea_slow(struct cpu *cpu, const struct uop *u, uint64_t ea,
		     unsigned size, bool is_write);

/** The sum of base, index and displacement. */
static inline uint64_t uop_effective(struct cpu *cpu, const struct uop *u)
{
	return UOP_FIELD(cpu, uint64_t, u->base) +
	       UOP_FIELD(cpu, uint64_t, u->index) * u->scale +
	       (uint64_t)(int64_t)u->disp;
}

/** The linear address of the memory operand of (size) bytes. */
static inline uint64_t uop_ea(struct cpu *cpu, const struct uop *u,
			      unsigned size, bool is_write)
{
	uint64_t ea = uop_effective(cpu, u);

	if (unlikely(u->ea != EA_FLAT))
		return uop_ea_slow(cpu, u, ea, size, is_write);
	return ea + UOP_FIELD(cpu, uint64_t, u->seg_base);
}

static inline uint64_t uop_load(struct cpu *cpu, const struct uop *u,
				unsigned size)
{
	uint64_t gva = uop_ea(cpu, u, size, false);
	void *hva = tlb_read(cpu, gva, size);

	if (likely(hva))
		return host_load(hva, size);
	return mem_load_slow(cpu, gva, size | (u->is_ss ? MEM_SS : 0));
}

static inline void uop_store(struct cpu *cpu, const struct uop *u,
			     unsigned size, uint64_t value)
{
	uint64_t gva = uop_ea(cpu, u, size, true);
	void *hva = tlb_write(cpu, gva, size);

	if (likely(hva))
		host_store(hva, size, value);
	else
		mem_store_slow(cpu, gva, size | (u->is_ss ? MEM_SS : 0), value);
}

/**
 * A read-modify-write access to memory that has no single host address goes to
 * a copy in (tmp), to be stored by rmw_end(). A locked one holds the machine's
 * lock meanwhile.
 */
struct rmw {
	uint64_t gva;
	unsigned size;
	bool is_locked;
	uint64_t tmp[2];
};

/** Behind a TLB miss: the host address to work on; (size) may have MEM_SS. */
void *rmw_begin_slow(struct cpu *cpu, struct rmw *m, uint64_t gva,
		     unsigned size, bool is_locked);
void rmw_end_slow(struct cpu *cpu, struct rmw *m);

static inline void *rmw_begin(struct cpu *cpu, const struct uop *u,
			      struct rmw *m, unsigned size, bool is_locked)
{
	uint64_t gva = uop_ea(cpu, u, size, true);
	void *hva = tlb_write(cpu, gva, size);

	if (likely(hva))
		return hva;
	return rmw_begin_slow(cpu, m, gva, size | (u->is_ss ? MEM_SS : 0),
			      is_locked);
}

/** The same for the general handlers. */
static inline void *insn_rmw_begin(struct cpu *cpu, const struct insn *insn,
				   struct rmw *m, unsigned size, bool is_locked)
{
	uint64_t gva = mem_operand(cpu, insn, size, true);
	void *hva = tlb_write(cpu, gva, size);

	return likely(hva) ? hva : rmw_begin_slow(cpu, m, gva, size, is_locked);
}

static inline void rmw_end(struct cpu *cpu, struct rmw *m, const void *hva)
{
	if (unlikely(hva == m->tmp))
		rmw_end_slow(cpu, m);
}

/* ---- Flags --------------------------------------------------------------- */

/* After an instruction under test: AH and AL are its flags, for flags_put();
 * before it: set them all from what flags_get() returned in EAX. */
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"

static inline void flags_put(struct cpu *cpu, uint32_t ax)
{
	cpu->s.rflags = (cpu->s.rflags & ~FLAGS_STATUS) |
			(ax >> 8 & (FLAGS_STATUS & 0xff)) | (ax & 0xff) << 11;
}

static inline uint32_t flags_get(const struct cpu *cpu)
{
	uint32_t flags = (uint32_t)cpu->s.rflags;

	return (flags & 0xff) << 8 | (flags >> 11 & 1);
}

/** Does condition (cond) of Jcc hold? */
static inline bool cond_test(uint64_t rflags, unsigned cond)
{
	/* Bit 15 of RFLAGS, always zero, stands for SF != OF. */
	static const uint16_t masks[] = {
		FLAG_OF, FLAG_CF, FLAG_ZF, FLAG_CF | FLAG_ZF,
		FLAG_SF, FLAG_PF, BIT(15), BIT(15) | FLAG_ZF,
	};
	uint32_t f = (uint32_t)rflags;

	f |= ((f >> 4 ^ f) & FLAG_SF) << 8;
	return !!(f & masks[cond >> 1]) ^ (cond & 1);
}

/* ---- Lowering: fill (u->fn) for a form that has its own handler ----------- */

/** (u)'s operands are filled in. False: (insn) runs by its insn_fn. */
bool alu_lower(const struct insn *insn, struct uop *u);
bool shift_lower(const struct insn *insn, struct uop *u);
bool move_lower(const struct insn *insn, struct uop *u);
bool flow_lower(const struct insn *insn, struct uop *u, uint64_t next_rip);

/** Is (insn) one of a CPU such as the guest's is? */
bool cpu_has_insn(const struct cpu *cpu, const struct insn *insn);
/** Lower (insn) to (u); what handlers of the general kind need goes to (slow).
 * (next_rip) is NULL for code that may run at several addresses. */
void uop_make(struct cpu *cpu, struct uop *u, const struct insn *insn,
	      struct slow_insn *slow, const uint64_t *next_rip);

/** One that raises (vector). */
void uop_make_raise(struct uop *u, uint8_t vector);

/** OP_NATIVE, with its stub cached. */
void native_uop(struct cpu *cpu, const struct uop *u);

/** Is (u->slow) what it runs by? */
bool uop_is_slow(const struct uop *u);

/* ---- Operands of the general handlers ------------------------------------- */

static inline uint64_t insn_reg(const struct cpu *cpu, const struct insn *insn,
				unsigned size)
{
	return gpr_read(cpu, gpr_offset(insn->reg, insn->high8 & 1), size);
}

static inline void insn_reg_write(struct cpu *cpu, const struct insn *insn,
				  unsigned size, uint64_t value)
{
	gpr_write(cpu, gpr_offset(insn->reg, insn->high8 & 1), size, value);
}

/** Read the operand (rm), register or memory. */
static inline uint64_t insn_rm(struct cpu *cpu, const struct insn *insn,
			       unsigned size)
{
	if (insn->flags & INSN_MEM)
		return mem_load(cpu, mem_operand(cpu, insn, size, false), size);
	return gpr_read(cpu, gpr_offset(insn->rm, insn->high8 & 2), size);
}

static inline void insn_rm_write(struct cpu *cpu, const struct insn *insn,
				 unsigned size, uint64_t value)
{
	if (insn->flags & INSN_MEM)
		mem_store(cpu, mem_operand(cpu, insn, size, true), size, value);
	else
		gpr_write(cpu, gpr_offset(insn->rm, insn->high8 & 2), size,
			  value);
}

#endif
