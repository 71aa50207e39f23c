/*
 * Integer instructions without a handler for their exact form: multiplication
 * and division, decimal adjustment, exchanges, single flags.
 */
#include "vcpu/interp/uop.h"

/* ---- MUL IMUL DIV IDIV ---------------------------------------------------------- */

/* AX = AL * r/m8, and the like of DX:AX. */
#define MULTIPLY(op, S, T)                                           \
	static void op##_##S(struct cpu *cpu, uint64_t from)         \
	{                                                            \
		uint64_t lo = cpu->s.gpr[RAX], hi = cpu->s.gpr[RDX]; \
		uint32_t ax = flags_get(cpu);                        \
                                                                     \
		/* The flags come and go by CX, AX being in use. */  \
		__asm__("xchg %%rax, %%rcx\n\t" FLAGS_IN             \
			"xchg %%rax, %%rcx\n\t" #op #S " %[b]\n\t"   \
			"xchg %%rax, %%rcx" FLAGS_OUT "\n\t"         \
			"xchg %%rax, %%rcx"                          \
			: "+a"(lo), "+d"(hi), "+c"(ax)               \
			: [b] "r"((T)from)                           \
			: "cc");                                     \
		flags_put(cpu, ax);                                  \
		cpu->s.gpr[RAX] = lo;                                \
		cpu->s.gpr[RDX] = hi;                                \
	}

MULTIPLY(mul, b, uint8_t)
MULTIPLY(mul, w, uint16_t)
MULTIPLY(mul, l, uint32_t)
MULTIPLY(mul, q, uint64_t)
MULTIPLY(imul, b, uint8_t)
MULTIPLY(imul, w, uint16_t)
MULTIPLY(imul, l, uint32_t)
MULTIPLY(imul, q, uint64_t)
MULTIPLY(div, b, uint8_t)
MULTIPLY(div, w, uint16_t)
MULTIPLY(div, l, uint32_t)
MULTIPLY(div, q, uint64_t)
MULTIPLY(idiv, b, uint8_t)
MULTIPLY(idiv, w, uint16_t)
MULTIPLY(idiv, l, uint32_t)
MULTIPLY(idiv, q, uint64_t)

typedef void (*multiply_fn)(struct cpu *cpu, uint64_t from);

static void multiply(struct cpu *cpu, const struct insn *insn)
{
	static const multiply_fn fns[2][4] = {
		{ mul_b, mul_w, mul_l, mul_q },
		{ imul_b, imul_w, imul_l, imul_q },
	};

	fns[insn->op == OP_IMUL1][__builtin_ctz(insn->opsize)](
		cpu, insn_rm(cpu, insn, insn->opsize));
}

/* Would the host's instruction raise #DE? */
static bool quotient_fits(unsigned __int128 dividend, uint64_t divisor,
			  unsigned bits, bool is_signed)
{
	unsigned __int128 a = dividend;
	uint64_t b = divisor, limit, q;
	bool negative = false;

	if (is_signed) {
		unsigned shift = 128 - 2 * bits;
		__int128 sa = (__int128)(dividend << shift) >> shift;
		int64_t sb = sign_extend(divisor, bits);

		negative = (sa < 0) != (sb < 0);
		a = sa < 0 ? -(unsigned __int128)sa : (unsigned __int128)sa;
		b = sb < 0 ? -(uint64_t)sb : (uint64_t)sb;
	}
	if (!b || (uint64_t)(a >> 64) >= b)
		return false;
	/* By the host: libgcc's division is not ours to call. */
	__asm__("divq %[b]"
		: "=a"(q)
		: "0"((uint64_t)a), "d"((uint64_t)(a >> 64)), [b] "r"(b)
		: "cc");
	limit = is_signed ? BIT(bits - 1) - !negative : size_mask(bits / 8);
	return q <= limit;
}

static void divide(struct cpu *cpu, const struct insn *insn)
{
	static const multiply_fn fns[2][4] = {
		{ div_b, div_w, div_l, div_q },
		{ idiv_b, idiv_w, idiv_l, idiv_q },
	};
	unsigned size = insn->opsize, bits = size * 8;
	uint64_t divisor = insn_rm(cpu, insn, size);
	uint64_t lo = cpu->s.gpr[RAX], hi = cpu->s.gpr[RDX];
	unsigned __int128 dividend;

	if (size == 1)
		dividend = (uint16_t)lo;
	else
		dividend = (unsigned __int128)(hi & size_mask(size)) << bits |
			   (lo & size_mask(size));
	if (!quotient_fits(dividend, divisor, bits, insn->op == OP_IDIV))
		cpu_raise(cpu, EXC_DE, 0);
	fns[insn->op == OP_IDIV][__builtin_ctz(size)](cpu, divisor);
}

/* ---- Decimal adjustment (SDM volume 2A) ------------------------------------------ */

/* SF, ZF and PF of (value), with those in (more) and no others. */
static void flags_result(struct cpu *cpu, uint8_t value, uint64_t more)
{
	uint64_t f = more;

	if (!value)
		f |= FLAG_ZF;
	if (value & 0x80)
		f |= FLAG_SF;
	if (!(__builtin_popcount(value) & 1))
		f |= FLAG_PF;
	cpu->s.rflags = (cpu->s.rflags & ~FLAGS_STATUS) | f;
}

static void daa_das(struct cpu *cpu, const struct insn *insn)
{
	uint8_t al = (uint8_t)cpu->s.gpr[RAX], old = al;
	uint64_t f = 0;
	int sign = insn->op == OP_DAA ? 1 : -1;

	if ((al & 15) > 9 || (cpu->s.rflags & FLAG_AF)) {
		f |= FLAG_AF;
		if (sign < 0 && old < 6)
			f |= FLAG_CF;
		al = (uint8_t)(al + 6 * sign);
	}
	if (old > 0x99 || (cpu->s.rflags & FLAG_CF)) {
		al = (uint8_t)(al + 0x60 * sign);
		f |= FLAG_CF;
	}
	reg_write(cpu, RAX, 1, al);
	flags_result(cpu, al, f);
}

static void aaa_aas(struct cpu *cpu, const struct insn *insn)
{
	uint16_t ax = (uint16_t)cpu->s.gpr[RAX];
	uint64_t f = 0;

	if ((ax & 15) > 9 || (cpu->s.rflags & FLAG_AF)) {
		ax = (uint16_t)(insn->op == OP_AAA ? ax + 0x106 : ax - 0x106);
		f = FLAG_AF | FLAG_CF;
	}
	ax &= 0xff0f;
	reg_write(cpu, RAX, 2, ax);
	flags_result(cpu, (uint8_t)ax, f);
}

static void aam(struct cpu *cpu, const struct insn *insn)
{
	uint8_t al = (uint8_t)cpu->s.gpr[RAX], base = (uint8_t)insn->imm;

	if (!base)
		cpu_raise(cpu, EXC_DE, 0);
	reg_write(cpu, RAX, 2, (uint64_t)(al / base) << 8 | al % base);
	flags_result(cpu, al % base, 0);
}

static void aad(struct cpu *cpu, const struct insn *insn)
{
	uint16_t old = (uint16_t)cpu->s.gpr[RAX];
	uint8_t al = (uint8_t)old, more = (uint8_t)((old >> 8) * insn->imm);
	uint32_t ax;

	/* The flags are those of the addition, undefined ones too. */
	__asm__("addb %[b], %[a]" FLAGS_OUT
		: [a] "+r"(al), "=&a"(ax)
		: [b] "r"(more)
		: "cc");
	flags_put(cpu, ax);
	reg_write(cpu, RAX, 2, al);
}

static void salc(struct cpu *cpu, const struct insn *insn)
{
	reg_write(cpu, RAX, 1, cpu->s.rflags & FLAG_CF ? 0xff : 0);
}

/* ---- Widening, flags ---------------------------------------------------------------- */

/* CBW, CWDE, CDQE. */
static void cbw(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;

	reg_write(cpu, RAX, size,
		  (uint64_t)sign_extend(cpu->s.gpr[RAX], size * 4));
}

/* CWD, CDQ, CQO. */
static void cwd(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;

	reg_write(cpu, RDX, size,
		  (uint64_t)(sign_extend(cpu->s.gpr[RAX], size * 8) >> 63));
}

static void lahf(struct cpu *cpu, const struct insn *insn)
{
	UOP_FIELD(cpu, uint8_t, 1) = (uint8_t)cpu->s.rflags;
}

static void sahf(struct cpu *cpu, const struct insn *insn)
{
	uint64_t mask = FLAGS_STATUS & 0xff;

	cpu->s.rflags = (cpu->s.rflags & ~mask) | (cpu->s.gpr[RAX] >> 8 & mask);
}

static void flag_op(struct cpu *cpu, const struct insn *insn)
{
	switch (insn->op) {
	case OP_CLC:
		cpu->s.rflags &= ~FLAG_CF;
		break;
	case OP_STC:
		cpu->s.rflags |= FLAG_CF;
		break;
	case OP_CMC:
		cpu->s.rflags ^= FLAG_CF;
		break;
	case OP_CLD:
		cpu->s.rflags &= ~FLAG_DF;
		break;
	default:
		cpu->s.rflags |= FLAG_DF;
	}
}

/* ---- Exchanges ------------------------------------------------------------------------ */

#define EXCHANGE(S, T)                                                         \
	static uint64_t xchg_##S(struct cpu *cpu, void *p, uint64_t value,     \
				 bool is_locked)                               \
	{                                                                      \
		T old = (T)value;                                              \
                                                                               \
		__asm__ volatile("xchg" #S " %[b], %[a]"                       \
				 : [a] "+m"(*(T *)p), [b] "+r"(old)            \
				 :                                             \
				 : "memory");                                  \
		return old;                                                    \
	}                                                                      \
	static uint64_t xadd_##S(struct cpu *cpu, void *p, uint64_t value,     \
				 bool is_locked)                               \
	{                                                                      \
		T old = (T)value;                                              \
		uint32_t ax;                                                   \
                                                                               \
		if (is_locked)                                                 \
			__asm__ volatile(                                      \
				"lock xadd" #S " %[b], %[a]" FLAGS_OUT         \
				: [a] "+m"(*(T *)p), [b] "+r"(old), "=&a"(ax)  \
				:                                              \
				: "cc", "memory");                             \
		else                                                           \
			__asm__ volatile("xadd" #S " %[b], %[a]" FLAGS_OUT     \
					 : [a] "+m"(*(T *)p), [b] "+r"(old),   \
					   "=&a"(ax)                           \
					 :                                     \
					 : "cc", "memory");                    \
		flags_put(cpu, ax);                                            \
		return old;                                                    \
	}                                                                      \
	/* Returns what the accumulator is to be; ZF says whether it was. */   \
	static uint64_t cmpxchg_##S(struct cpu *cpu, void *p, uint64_t value,  \
				    bool is_locked)                            \
	{                                                                      \
		T old = (T)cpu->s.gpr[RAX];                                    \
		uint8_t low, overflow;                                         \
                                                                               \
		if (is_locked)                                                 \
			__asm__ volatile("lock cmpxchg" #S " %[b], %[a]\n\t"   \
					 "seto %[o]\n\tmov %%rax, %%rdx\n\t"   \
					 "lahf\n\tmov %%ah, %[f]\n\t"          \
					 "mov %%rdx, %%rax"                    \
					 : [a] "+m"(*(T *)p), "+a"(old),       \
					   [o] "=&c"(overflow), [f] "=&b"(low) \
					 : [b] "r"((T)value)                   \
					 : "cc", "memory", "rdx");             \
		else                                                           \
			__asm__ volatile("cmpxchg" #S " %[b], %[a]\n\t"        \
					 "seto %[o]\n\tmov %%rax, %%rdx\n\t"   \
					 "lahf\n\tmov %%ah, %[f]\n\t"          \
					 "mov %%rdx, %%rax"                    \
					 : [a] "+m"(*(T *)p), "+a"(old),       \
					   [o] "=&c"(overflow), [f] "=&b"(low) \
					 : [b] "r"((T)value)                   \
					 : "cc", "memory", "rdx");             \
		flags_put(cpu, (uint32_t)low << 8 | overflow);                 \
		return old;                                                    \
	}

EXCHANGE(b, uint8_t)
EXCHANGE(w, uint16_t)
EXCHANGE(l, uint32_t)
EXCHANGE(q, uint64_t)

typedef uint64_t (*exchange_fn)(struct cpu *cpu, void *p, uint64_t value,
				bool is_locked);

static void exchange(struct cpu *cpu, const struct insn *insn)
{
	static const exchange_fn xchgs[4] = { xchg_b, xchg_w, xchg_l, xchg_q };
	static const exchange_fn xadds[4] = { xadd_b, xadd_w, xadd_l, xadd_q };
	unsigned size = insn->opsize;
	exchange_fn fn =
		(insn->op == OP_XCHG ? xchgs : xadds)[__builtin_ctz(size)];
	uint64_t value = insn_reg(cpu, insn, size), old, sum;
	bool is_locked = insn->op == OP_XCHG || (insn->flags & INSN_LOCK);
	struct rmw m;
	void *p;

	if (insn->flags & INSN_MEM) {
		p = insn_rmw_begin(cpu, insn, &m, size, is_locked);
		old = fn(cpu, p, value, is_locked);
		rmw_end(cpu, &m, p);
		insn_reg_write(cpu, insn, size, old);
	} else {
		sum = insn_rm(cpu, insn, size);
		old = fn(cpu, &sum, value, false);
		/* In this order: XADD of a register with itself doubles it. */
		insn_reg_write(cpu, insn, size, old);
		insn_rm_write(cpu, insn, size, sum);
	}
}

static void cmpxchg(struct cpu *cpu, const struct insn *insn)
{
	static const exchange_fn fns[4] = { cmpxchg_b, cmpxchg_w, cmpxchg_l,
					    cmpxchg_q };
	unsigned size = insn->opsize;
	bool is_locked = insn->flags & INSN_LOCK,
	     is_mem = insn->flags & INSN_MEM;
	uint64_t value = insn_reg(cpu, insn, size), old, rm;
	struct rmw m;
	void *p = &rm;

	if (is_mem)
		p = insn_rmw_begin(cpu, insn, &m, size, is_locked);
	else
		rm = insn_rm(cpu, insn, size);
	old = fns[__builtin_ctz(size)](cpu, p, value, is_mem && is_locked);
	if (is_mem)
		rmw_end(cpu, &m, p);
	/* What is not changed is not written either: its upper half stays. */
	if (!(cpu->s.rflags & FLAG_ZF))
		reg_write(cpu, RAX, size, old);
	else if (!is_mem)
		insn_rm_write(cpu, insn, size, rm);
}

static void cmpxchg8b(struct cpu *cpu, const struct insn *insn)
{
	bool is_wide = insn->op == OP_CMPXCHG16B;
	unsigned size = is_wide ? 16 : 8;
	uint64_t gva = mem_operand(cpu, insn, size, true);
	uint64_t *gpr = cpu->s.gpr, lo = gpr[RAX], hi = gpr[RDX];
	struct rmw m;
	void *p;
	bool equal;

	if (is_wide && (gva & 15))
		cpu_raise(cpu, EXC_GP, 0);
	p = mem_host(cpu, gva, size, true);
	if (unlikely(!p))
		p = rmw_begin_slow(cpu, &m, gva, size, insn->flags & INSN_LOCK);
	/* Locked always: it is what the store of both halves needs. */
	if (is_wide)
		__asm__ volatile("lock cmpxchg16b %[a]"
				 : [a] "+m"(*(unsigned __int128 *)p), "+a"(lo),
				   "+d"(hi), "=@ccz"(equal)
				 : "b"(gpr[RBX]), "c"(gpr[RCX])
				 : "memory");
	else
		__asm__ volatile("lock cmpxchg8b %[a]"
				 : [a] "+m"(*(uint64_t *)p), "+a"(lo), "+d"(hi),
				   "=@ccz"(equal)
				 : "b"(gpr[RBX]), "c"(gpr[RCX])
				 : "memory");
	rmw_end(cpu, &m, p);
	cpu->s.rflags &= ~FLAG_ZF;
	if (equal) {
		cpu->s.rflags |= FLAG_ZF;
	} else {
		reg_write(cpu, RAX, size / 2, lo);
		reg_write(cpu, RDX, size / 2, hi);
	}
}

/* ---- The general form of what alu.c and alu_move.c have in fast ones --------------- */

/* Operands that those do not take: absolute 64-bit addresses. */
static void mov(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;

	if (insn->form == FORM_REG_RM)
		insn_reg_write(cpu, insn, size, insn_rm(cpu, insn, size));
	else
		insn_rm_write(cpu, insn, size, insn_reg(cpu, insn, size));
}

static void xlat(struct cpu *cpu, const struct insn *insn)
{
	uint64_t ea = (cpu->s.gpr[RBX] + (uint8_t)cpu->s.gpr[RAX]) &
		      size_mask(insn->addrsize);
	uint64_t gva = mem_linear(cpu, insn->seg, ea, 1, false);

	reg_write(cpu, RAX, 1, mem_load(cpu, gva, 1));
}

static void ud(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, EXC_UD, 0);
}

const insn_fn alu_handlers[NR_OPS] = {
	[OP_UD] = ud,
	[OP_MUL] = multiply,
	[OP_IMUL1] = multiply,
	[OP_DIV] = divide,
	[OP_IDIV] = divide,
	[OP_DAA] = daa_das,
	[OP_DAS] = daa_das,
	[OP_AAA] = aaa_aas,
	[OP_AAS] = aaa_aas,
	[OP_AAM] = aam,
	[OP_AAD] = aad,
	[OP_SALC] = salc,
	[OP_CBW] = cbw,
	[OP_CWD] = cwd,
	[OP_LAHF] = lahf,
	[OP_SAHF] = sahf,
	[OP_CLC] = flag_op,
	[OP_STC] = flag_op,
	[OP_CMC] = flag_op,
	[OP_CLD] = flag_op,
	[OP_STD] = flag_op,
	[OP_XCHG] = exchange,
	[OP_XADD] = exchange,
	[OP_CMPXCHG] = cmpxchg,
	[OP_CMPXCHG8B] = cmpxchg8b,
	[OP_CMPXCHG16B] = cmpxchg8b,
	[OP_MOV] = mov,
	[OP_XLAT] = xlat,
};
