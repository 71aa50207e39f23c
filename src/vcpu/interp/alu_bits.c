/*
 * Shifts and rotates, by exact form; bit tests, double shifts, bit scans.
 * As in alu.c, the host's instruction computes result and flags; all flags are
 * set before it to what they were, so that those it leaves alone stay.
 */
#include "vcpu/interp/uop.h"

#define REG(offset, T) UOP_FIELD(cpu, T, offset)

/* ---- ROL ROR RCL RCR SHL SHR SAR -------------------------------------------- */

/*
 * What they leave in OF, undefined for more than one bit, is not the same for
 * counts in CL and in the instruction, nor for registers and memory. So the
 * host runs the very form. For counts in the instruction there are rows of
 * code pieces, one for each count, eight bytes apart, that shift what is in
 * RDX or what it points to.
 */
#define SHIFT_ROWS(op)                                                         \
	extern const uint8_t op##_b_rows[], op##_w_rows[], op##_l_rows[],      \
		op##_q_rows[], op##_bm_rows[], op##_wm_rows[], op##_lm_rows[], \
		op##_qm_rows[];                                                \
	__asm__(".pushsection .text\n"                                         \
		".macro shift_row name, size, operand, counts\n"               \
		".balign 8\n" #op "_\\name\\()_rows:\n"                        \
		".set count, 0\n"                                              \
		".rept \\counts\n"                                             \
		".balign 8\n" #op "\\size $count, \\operand\n"                 \
		"ret\n"                                                        \
		".set count, count + 1\n"                                      \
		".endr\n"                                                      \
		".endm\n"                                                      \
		"shift_row b, b, %dl, 32\n"                                    \
		"shift_row w, w, %dx, 32\n"                                    \
		"shift_row l, l, %edx, 32\n"                                   \
		"shift_row q, q, %rdx, 64\n"                                   \
		"shift_row bm, b, (%rdx), 32\n"                                \
		"shift_row wm, w, (%rdx), 32\n"                                \
		"shift_row lm, l, (%rdx), 32\n"                                \
		"shift_row qm, q, (%rdx), 64\n"                                \
		".purgem shift_row\n"                                          \
		".popsection");

#define SHIFT_PIECE(rows, T) \
	((rows) + 8 * ((uint8_t)u->imm & (sizeof(T) == 8 ? 63 : 31)))

#define SHIFT(op, S, T)                                                        \
	static void op##_##S##_r_i(struct cpu *cpu, const struct uop *u)       \
	{                                                                      \
		uint32_t ax = flags_get(cpu);                                  \
		T value = REG(u->rm, T);                                       \
                                                                               \
		__asm__(FLAGS_IN "call *%[code]" FLAGS_OUT                     \
			: [a] "+d"(value), "+a"(ax)                            \
			: [code] "r"(SHIFT_PIECE(op##_##S##_rows, T))          \
			: "cc");                                               \
		flags_put(cpu, ax);                                            \
		gpr_write(cpu, u->rm, sizeof(T), value);                       \
	}                                                                      \
	static void op##_##S##_r_cl(struct cpu *cpu, const struct uop *u)      \
	{                                                                      \
		uint32_t ax = flags_get(cpu);                                  \
		T value = REG(u->rm, T);                                       \
                                                                               \
		__asm__(FLAGS_IN #op #S " %%cl, %[a]" FLAGS_OUT                \
			: [a] "+r"(value), "+a"(ax)                            \
			: "c"((uint8_t)cpu->s.gpr[RCX])                        \
			: "cc");                                               \
		flags_put(cpu, ax);                                            \
		gpr_write(cpu, u->rm, sizeof(T), value);                       \
	}                                                                      \
	static void op##_##S##_m_i(struct cpu *cpu, const struct uop *u)       \
	{                                                                      \
		struct rmw m;                                                  \
		void *p = rmw_begin(cpu, u, &m, sizeof(T), false);             \
		uint32_t ax = flags_get(cpu);                                  \
                                                                               \
		__asm__ volatile(                                              \
			FLAGS_IN "call *%[code]" FLAGS_OUT                     \
			: "+a"(ax)                                             \
			: "d"(p), [code] "r"(SHIFT_PIECE(op##_##S##m_rows, T)) \
			: "cc", "memory");                                     \
		flags_put(cpu, ax);                                            \
		rmw_end(cpu, &m, p);                                           \
	}                                                                      \
	static void op##_##S##_m_cl(struct cpu *cpu, const struct uop *u)      \
	{                                                                      \
		struct rmw m;                                                  \
		T *p = rmw_begin(cpu, u, &m, sizeof(T), false);                \
		uint32_t ax = flags_get(cpu);                                  \
                                                                               \
		__asm__ volatile(FLAGS_IN #op #S " %%cl, %[a]" FLAGS_OUT       \
				 : [a] "+m"(*p), "+a"(ax)                      \
				 : "c"((uint8_t)cpu->s.gpr[RCX])               \
				 : "cc", "memory");                            \
		flags_put(cpu, ax);                                            \
		rmw_end(cpu, &m, p);                                           \
	}

#define SHIFT_SIZES(op)        \
	SHIFT_ROWS(op)         \
	SHIFT(op, b, uint8_t)  \
	SHIFT(op, w, uint16_t) \
	SHIFT(op, l, uint32_t) \
	SHIFT(op, q, uint64_t)

SHIFT_SIZES(rol)
SHIFT_SIZES(ror)
SHIFT_SIZES(rcl)
SHIFT_SIZES(rcr)
SHIFT_SIZES(shl)
SHIFT_SIZES(shr)
SHIFT_SIZES(sar)

#define SHIFT_FORMS(op, S)                                       \
	{                                                        \
		op##_##S##_r_i, op##_##S##_r_cl, op##_##S##_m_i, \
			op##_##S##_m_cl                          \
	}
#define SHIFT_ROW(op)                                                       \
	{                                                                   \
		SHIFT_FORMS(op, b), SHIFT_FORMS(op, w), SHIFT_FORMS(op, l), \
			SHIFT_FORMS(op, q)                                  \
	}

/* From OP_ROL to OP_SAR, by size: register, memory, each by an immediate or by
 * CL. */
static const uop_fn shifts[][4][4] = {
	SHIFT_ROW(rol), SHIFT_ROW(ror), SHIFT_ROW(rcl), SHIFT_ROW(rcr),
	SHIFT_ROW(shl), SHIFT_ROW(shr), SHIFT_ROW(sar),
};

_Static_assert(OP_SAR - OP_ROL + 1 == ARRAY_SIZE(shifts), "order of ops.h");

bool shift_lower(const struct insn *insn, struct uop *u)
{
	unsigned form = insn->form == FORM_RM_CL;

	if (insn->op < OP_ROL || insn->op > OP_SAR)
		return false;
	if (insn->flags & INSN_MEM)
		form += 2;
	u->fn = shifts[insn->op - OP_ROL][size_index(insn->opsize)][form];
	return true;
}

/* ---- SHLD SHRD ---------------------------------------------------------------- */

#define DOUBLE_SHIFT(op, S, T)                                                 \
	static void op##_##S(struct cpu *cpu, void *p, uint64_t from,          \
			     uint8_t count)                                    \
	{                                                                      \
		uint32_t ax = flags_get(cpu);                                  \
                                                                               \
		__asm__ volatile(FLAGS_IN #op #S " %%cl, %[b], %[a]" FLAGS_OUT \
				 : [a] "+m"(*(T *)p), "+a"(ax)                 \
				 : [b] "r"((T)from), "c"(count)                \
				 : "cc");                                      \
		flags_put(cpu, ax);                                            \
	}

DOUBLE_SHIFT(shld, w, uint16_t)
DOUBLE_SHIFT(shld, l, uint32_t)
DOUBLE_SHIFT(shld, q, uint64_t)
DOUBLE_SHIFT(shrd, w, uint16_t)
DOUBLE_SHIFT(shrd, l, uint32_t)
DOUBLE_SHIFT(shrd, q, uint64_t)

static void double_shift(struct cpu *cpu, const struct insn *insn)
{
	static void (*const fns[2][4])(struct cpu *, void *, uint64_t,
				       uint8_t) = {
		{ NULL, shld_w, shld_l, shld_q },
		{ NULL, shrd_w, shrd_l, shrd_q },
	};
	unsigned size = insn->opsize;
	uint64_t from = insn_reg(cpu, insn, size), value = 0;
	uint8_t count =
		(uint8_t)(insn->form == FORM_RM_REG_CL ? cpu->s.gpr[RCX]
						       : (uint64_t)insn->imm);
	struct rmw m;
	void *p = &value;

	if (insn->flags & INSN_MEM)
		p = insn_rmw_begin(cpu, insn, &m, size, false);
	else
		value = insn_rm(cpu, insn, size);
	fns[insn->op == OP_SHRD][__builtin_ctz(size)](cpu, p, from, count);
	if (insn->flags & INSN_MEM)
		rmw_end(cpu, &m, p);
	else
		insn_rm_write(cpu, insn, size, value);
}

/* ---- BT BTS BTR BTC ------------------------------------------------------------ */

#define BIT_OP(name, op, S, T)                                          \
	static void name(struct cpu *cpu, void *p, uint64_t n)          \
	{                                                               \
		uint32_t ax = flags_get(cpu);                           \
                                                                        \
		__asm__ volatile(FLAGS_IN op #S " %[n], %[a]" FLAGS_OUT \
				 : [a] "+m"(*(T *)p), "+a"(ax)          \
				 : [n] "r"((T)n)                        \
				 : "cc", "memory");                     \
		flags_put(cpu, ax);                                     \
	}

#define BIT_OP_SIZES(name, op)            \
	BIT_OP(name##_w, op, w, uint16_t) \
	BIT_OP(name##_l, op, l, uint32_t) \
	BIT_OP(name##_q, op, q, uint64_t)

BIT_OP_SIZES(bt, "bt")
BIT_OP_SIZES(bts, "bts")
BIT_OP_SIZES(btr, "btr")
BIT_OP_SIZES(btc, "btc")
BIT_OP_SIZES(lock_bts, "lock bts")
BIT_OP_SIZES(lock_btr, "lock btr")
BIT_OP_SIZES(lock_btc, "lock btc")

typedef void (*bit_fn)(struct cpu *cpu, void *p, uint64_t n);

/* The address of the word with bit (n), which may be far from the operand. */
static uint64_t bit_address(struct cpu *cpu, const struct insn *insn, int64_t n)
{
	unsigned size = insn->opsize;
	int64_t words = n >> (3 + __builtin_ctz(size));
	uint64_t ea = mem_effective(cpu, insn) + (uint64_t)words * size;

	return mem_linear(cpu, insn->seg, ea & size_mask(insn->addrsize), size,
			  insn->op != OP_BT);
}

static void bit_test(struct cpu *cpu, const struct insn *insn)
{
	static const bit_fn fns[][3] = {
		{ bt_w, bt_l, bt_q },
		{ bts_w, bts_l, bts_q },
		{ btr_w, btr_l, btr_q },
		{ btc_w, btc_l, btc_q },
	};
	static const bit_fn locked[][3] = {
		{ NULL },
		{ lock_bts_w, lock_bts_l, lock_bts_q },
		{ lock_btr_w, lock_btr_l, lock_btr_q },
		{ lock_btc_w, lock_btc_l, lock_btc_q },
	};
	unsigned size = insn->opsize, row = insn->op - OP_BT;
	unsigned column = (unsigned)__builtin_ctz(size) - 1;
	bool is_locked = insn->flags & INSN_LOCK;
	uint64_t n, value, gva;
	struct rmw m;
	void *p;

	n = insn->form == FORM_RM_IMM
		    ? (uint64_t)insn->imm & (size * 8 - 1)
		    : (uint64_t)sign_extend(insn_reg(cpu, insn, size),
					    size * 8);
	if (!(insn->flags & INSN_MEM)) {
		value = insn_rm(cpu, insn, size);
		fns[row][column](cpu, &value, n & (size * 8 - 1));
		if (insn->op != OP_BT)
			insn_rm_write(cpu, insn, size, value);
		return;
	}
	gva = bit_address(cpu, insn, (int64_t)n);
	n &= size * 8 - 1;
	if (insn->op == OP_BT) {
		value = mem_load(cpu, gva, size);
		bt_q(cpu, &value, n);
		return;
	}
	p = tlb_write(cpu, gva, size);
	if (unlikely(!p))
		p = rmw_begin_slow(cpu, &m, gva, size, is_locked);
	(is_locked ? locked : fns)[row][column](cpu, p, n);
	rmw_end(cpu, &m, p);
}

/* ---- BSF BSR BSWAP -------------------------------------------------------------- */

/* A zero source leaves the destination as the host's CPU leaves it. */
#define BIT_SCAN(op, S, MOD)                                                  \
	static uint64_t op##_##S(struct cpu *cpu, uint64_t to, uint64_t from) \
	{                                                                     \
		uint32_t ax = flags_get(cpu);                                 \
                                                                              \
		__asm__(FLAGS_IN #op #S " %" #MOD "[b], %" #MOD               \
					"[a]" FLAGS_OUT                       \
			: [a] "+r"(to), "+a"(ax)                              \
			: [b] "r"(from)                                       \
			: "cc");                                              \
		flags_put(cpu, ax);                                           \
		return to;                                                    \
	}

BIT_SCAN(bsf, w, w)
BIT_SCAN(bsf, l, k)
BIT_SCAN(bsf, q, q)
BIT_SCAN(bsr, w, w)
BIT_SCAN(bsr, l, k)
BIT_SCAN(bsr, q, q)

static void bit_scan(struct cpu *cpu, const struct insn *insn)
{
	static uint64_t (*const fns[2][4])(struct cpu *, uint64_t, uint64_t) = {
		{ NULL, bsf_w, bsf_l, bsf_q },
		{ NULL, bsr_w, bsr_l, bsr_q },
	};
	unsigned size = insn->opsize;
	uint64_t from = insn_rm(cpu, insn, size);

	cpu->s.gpr[insn->reg] = fns[insn->op == OP_BSR][__builtin_ctz(size)](
		cpu, cpu->s.gpr[insn->reg], from);
}

/* With 16 bits, undefined in the manual, the host's result. */
static void bswap(struct cpu *cpu, const struct insn *insn)
{
	uint64_t *reg = &cpu->s.gpr[insn->rm];

	if (insn->opsize == 8)
		*reg = __builtin_bswap64(*reg);
	else if (insn->opsize == 4)
		*reg = __builtin_bswap32((uint32_t)*reg);
	else
		__asm__(".byte 0x66; bswap %k0" : "+r"(*(uint32_t *)reg));
}

/* Of the handlers of integer instructions, those here. */
const insn_fn bits_handlers[NR_OPS] = {
	[OP_SHLD] = double_shift, [OP_SHRD] = double_shift, [OP_BT] = bit_test,
	[OP_BTS] = bit_test,      [OP_BTR] = bit_test,      [OP_BTC] = bit_test,
	[OP_BSF] = bit_scan,      [OP_BSR] = bit_scan,      [OP_BSWAP] = bswap,
};
