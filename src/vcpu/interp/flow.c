/*
 * Near branches and the stack. Far transfers are in seg.c and event.c.
 *
 * A target outside the code segment, or non-canonical, is #GP(0) at the branch.
 * In 64-bit mode the targets of direct branches are known when a block is
 * made; they go through flow_lower()'s handlers.
 */
#include "vcpu/interp/mmu.h"
#include "vcpu/interp/uop.h"

static bool target_is_bad(const struct cpu *cpu, uint64_t target)
{
	if (cpu->mode == MODE_64)
		return !is_canonical(target, cpu->s.cr4 & CR4_LA57 ? 57 : 48);
	return target > cpu->s.seg[SEG_CS].limit;
}

/* Where a branch to (target) with operand size (size) leads; raises. */
static uint64_t branch_target(struct cpu *cpu, unsigned size, uint64_t target)
{
	if (cpu->mode != MODE_64)
		target &= size_mask(size);
	if (unlikely(target_is_bad(cpu, target)))
		cpu_raise(cpu, EXC_GP, 0);
	return target;
}

/* ---- The stack ---------------------------------------------------------------- */

static uint64_t stack_mask(const struct cpu *cpu)
{
	if (cpu->stack64)
		return ~0ULL;
	return cpu->stack32 ? 0xffffffff : 0xffff;
}

static unsigned stack_width(const struct cpu *cpu)
{
	return cpu->stack64 ? 8 : cpu->stack32 ? 4 : 2;
}

static uint64_t stack_linear(struct cpu *cpu, uint64_t offset, unsigned size,
			     bool is_write)
{
	return mem_linear(cpu, SEG_SS, offset & stack_mask(cpu), size,
			  is_write);
}

void stack_push(struct cpu *cpu, unsigned size, uint64_t value)
{
	uint64_t rsp = (cpu->s.gpr[RSP] - size) & stack_mask(cpu);

	mem_store(cpu, stack_linear(cpu, rsp, size, true), size, value);
	reg_write(cpu, RSP, stack_width(cpu), rsp);
}

/* Read the item (skip) bytes above the top of the stack. */
static uint64_t stack_peek(struct cpu *cpu, unsigned size, unsigned skip)
{
	uint64_t rsp = cpu->s.gpr[RSP] + skip;

	return mem_load(cpu, stack_linear(cpu, rsp, size, false), size);
}

uint64_t stack_pop(struct cpu *cpu, unsigned size)
{
	uint64_t value = stack_peek(cpu, size, 0);

	reg_write(cpu, RSP, stack_width(cpu), cpu->s.gpr[RSP] + size);
	return value;
}

static void push(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;

	stack_push(cpu, size,
		   insn->form == FORM_IMM ? (uint64_t)insn->imm
					  : insn_rm(cpu, insn, size));
}

static void pop(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t value = stack_peek(cpu, size, 0), old = cpu->s.gpr[RSP];
	uint64_t ea;

	if (!(insn->flags & INSN_MEM)) {
		reg_write(cpu, RSP, stack_width(cpu), old + size);
		insn_rm_write(cpu, insn, size, value);
		return;
	}
	/* An address by RSP uses its value after the pop (SDM, POP). */
	reg_write(cpu, RSP, stack_width(cpu), old + size);
	ea = mem_effective(cpu, insn);
	cpu->s.gpr[RSP] = old;
	mem_store(cpu, mem_linear(cpu, insn->seg, ea, size, true), size, value);
	reg_write(cpu, RSP, stack_width(cpu), old + size);
}

static void pusha(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t rsp = cpu->s.gpr[RSP];

	/* All of it first, so that a fault changes nothing. */
	for (unsigned i = 1; i <= 8; i++)
		mem_probe(cpu, stack_linear(cpu, rsp - i * size, size, true),
			  size, true);
	for (unsigned i = 0; i < 8; i++)
		mem_store(cpu,
			  stack_linear(cpu, rsp - (i + 1) * size, size, true),
			  size, cpu->s.gpr[i]);
	reg_write(cpu, RSP, stack_width(cpu), rsp - 8 * size);
}

static void popa(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t value[8];

	for (unsigned i = 0; i < 8; i++)
		value[i] = stack_peek(cpu, size, i * size);
	for (unsigned i = 0; i < 8; i++)
		if (7 - i != RSP)
			reg_write(cpu, 7 - i, size, value[i]);
	reg_write(cpu, RSP, stack_width(cpu), cpu->s.gpr[RSP] + 8 * size);
}

static bool is_vm86(const struct cpu *cpu)
{
	return cpu->s.rflags & FLAG_VM;
}

static unsigned iopl(const struct cpu *cpu)
{
	return cpu->s.rflags >> 12 & 3;
}

static void pushf(struct cpu *cpu, const struct insn *insn)
{
	cpu->trap_counts[insn->op]++;
	if (is_vm86(cpu) && iopl(cpu) < 3)
		cpu_raise(cpu, EXC_GP, 0);
	stack_push(cpu, insn->opsize, cpu->s.rflags & ~(FLAG_VM | FLAG_RF));
}

static void popf(struct cpu *cpu, const struct insn *insn)
{
	uint64_t may =
		FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
	uint64_t old = cpu->s.rflags, value, changed;

	cpu->trap_counts[insn->op]++;
	if (is_vm86(cpu) && iopl(cpu) < 3)
		cpu_raise(cpu, EXC_GP, 0);
	if (!cpu->cpl)
		may |= FLAG_IOPL;
	if (cpu->cpl <= iopl(cpu))
		may |= FLAG_IF;
	may &= size_mask(insn->opsize);
	value = stack_pop(cpu, insn->opsize);
	cpu->s.rflags = (old & ~(may | FLAG_RF)) | (value & may);
	changed = cpu->s.rflags ^ old;
	if (changed & FLAG_TF)
		cpu_update_mode(cpu);
	else if (changed & FLAG_AC)
		cpu_update_access(cpu);
	if (changed & cpu->s.rflags & FLAG_IF)
		cpu->exit_block = true;
}

/* In the order of the SDM's pseudo-code: a fault may leave something below the
 * stack, but no register changed. */
static void enter(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, level = insn->imm2 & 31;
	uint64_t rbp = cpu->s.gpr[RBP], rsp = cpu->s.gpr[RSP] - size;
	uint64_t frame = rsp, value;

	mem_store(cpu, stack_linear(cpu, rsp, size, true), size, rbp);
	for (unsigned i = 1; i <= level; i++) {
		value = frame;
		if (i < level)
			value = mem_load(
				cpu,
				stack_linear(cpu, rbp - i * size, size, false),
				size);
		rsp -= size;
		mem_store(cpu, stack_linear(cpu, rsp, size, true), size, value);
	}
	rsp -= (uint16_t)insn->imm;
	mem_probe(cpu, stack_linear(cpu, rsp, size, true), size, true);
	reg_write(cpu, RBP, size, frame);
	reg_write(cpu, RSP, stack_width(cpu), rsp);
}

static void leave(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t rbp = cpu->s.gpr[RBP], value;

	value = mem_load(cpu, stack_linear(cpu, rbp, size, false), size);
	reg_write(cpu, RSP, stack_width(cpu), rbp + size);
	reg_write(cpu, RBP, size, value);
}

/* ---- Branches ------------------------------------------------------------------ */

static uint64_t relative(const struct cpu *cpu, const struct insn *insn)
{
	return cpu->next_rip + (uint64_t)insn->imm;
}

static void jmp(struct cpu *cpu, const struct insn *insn)
{
	cpu->next_rip = branch_target(cpu, insn->opsize, relative(cpu, insn));
}

static void jcc(struct cpu *cpu, const struct insn *insn)
{
	if (cond_test(cpu->s.rflags, insn->cond))
		jmp(cpu, insn);
}

/* JCXZ, LOOP and the like: the counter is as wide as addresses are. */
static void jcxz(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->s.gpr[RCX] & size_mask(insn->addrsize)))
		jmp(cpu, insn);
}

static void loop(struct cpu *cpu, const struct insn *insn)
{
	uint64_t rcx = (cpu->s.gpr[RCX] - 1) & size_mask(insn->addrsize);
	bool zf = cpu->s.rflags & FLAG_ZF;

	if (rcx && (insn->op == OP_LOOP || (insn->op == OP_LOOPE) == zf))
		jmp(cpu, insn);
	reg_write(cpu, RCX, insn->addrsize, rcx);
}

static void jmp_ind(struct cpu *cpu, const struct insn *insn)
{
	cpu->next_rip = branch_target(cpu, insn->opsize,
				      insn_rm(cpu, insn, insn->opsize));
}

/* The return address is stored before the target is found bad. */
static void call_to(struct cpu *cpu, unsigned size, uint64_t target)
{
	uint64_t rsp = cpu->s.gpr[RSP];

	stack_push(cpu, size, cpu->next_rip);
	if (unlikely(target_is_bad(cpu, cpu->mode == MODE_64
						? target
						: target & size_mask(size))))
		cpu->s.gpr[RSP] = rsp;
	cpu->next_rip = branch_target(cpu, size, target);
}

static void call(struct cpu *cpu, const struct insn *insn)
{
	call_to(cpu, insn->opsize, relative(cpu, insn));
}

static void call_ind(struct cpu *cpu, const struct insn *insn)
{
	call_to(cpu, insn->opsize, insn_rm(cpu, insn, insn->opsize));
}

static void ret(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t target = branch_target(cpu, size, stack_peek(cpu, size, 0));
	uint64_t drop = insn->form == FORM_IMM ? (uint16_t)insn->imm : 0;

	reg_write(cpu, RSP, stack_width(cpu), cpu->s.gpr[RSP] + size + drop);
	cpu->next_rip = target;
}

const insn_fn flow_handlers[NR_OPS] = {
	[OP_JMP] = jmp,           [OP_JMP_IND] = jmp_ind, [OP_CALL] = call,
	[OP_CALL_IND] = call_ind, [OP_RET] = ret,         [OP_JCC] = jcc,
	[OP_JCXZ] = jcxz,         [OP_LOOP] = loop,       [OP_LOOPE] = loop,
	[OP_LOOPNE] = loop,       [OP_PUSH] = push,       [OP_POP] = pop,
	[OP_PUSHA] = pusha,       [OP_POPA] = popa,       [OP_PUSHF] = pushf,
	[OP_POPF] = popf,         [OP_ENTER] = enter,     [OP_LEAVE] = leave,
};

/* ---- 64-bit mode, by exact form --------------------------------------------------- */

static void jmp64(struct cpu *cpu, const struct uop *u)
{
	cpu->next_rip = u->target;
}

#define JCC(name, condition)                                   \
	static void name(struct cpu *cpu, const struct uop *u) \
	{                                                      \
		uint32_t f = (uint32_t)cpu->s.rflags;          \
                                                               \
		if (condition)                                 \
			cpu->next_rip = u->target;             \
	}
#define SF_NE_OF ((f >> 4 ^ f) & FLAG_SF)

JCC(jo, f &FLAG_OF)
JCC(jno, !(f & FLAG_OF))
JCC(jb, f &FLAG_CF)
JCC(jae, !(f & FLAG_CF))
JCC(je, f &FLAG_ZF)
JCC(jne, !(f & FLAG_ZF))
JCC(jbe, f &(FLAG_CF | FLAG_ZF))
JCC(ja, !(f & (FLAG_CF | FLAG_ZF)))
JCC(js, f &FLAG_SF)
JCC(jns, !(f & FLAG_SF))
JCC(jp, f &FLAG_PF)
JCC(jnp, !(f & FLAG_PF))
JCC(jl, SF_NE_OF)
JCC(jge, !SF_NE_OF)
JCC(jle, SF_NE_OF || (f & FLAG_ZF))
JCC(jg, !SF_NE_OF && !(f & FLAG_ZF))

static void call64(struct cpu *cpu, const struct uop *u)
{
	uint64_t rsp = cpu->s.gpr[RSP] - 8;

	mem_store_fast(cpu, rsp, 8, MEM_SS, cpu->next_rip);
	cpu->s.gpr[RSP] = rsp;
	cpu->next_rip = u->target;
}

static uint64_t canonical_target(struct cpu *cpu, uint64_t target)
{
	if (unlikely(!is_canonical(target, 48)) && target_is_bad(cpu, target))
		cpu_raise(cpu, EXC_GP, 0);
	return target;
}

static void ret64(struct cpu *cpu, const struct uop *u)
{
	uint64_t target = mem_load_fast(cpu, cpu->s.gpr[RSP], 8, MEM_SS);

	cpu->next_rip = canonical_target(cpu, target);
	cpu->s.gpr[RSP] += 8;
}

static void jmp64_r(struct cpu *cpu, const struct uop *u)
{
	cpu->next_rip = canonical_target(cpu, UOP_FIELD(cpu, uint64_t, u->rm));
}

static void jmp64_m(struct cpu *cpu, const struct uop *u)
{
	cpu->next_rip = canonical_target(cpu, uop_load(cpu, u, 8));
}

static void call64_to(struct cpu *cpu, uint64_t target)
{
	uint64_t rsp = cpu->s.gpr[RSP] - 8;

	mem_store_fast(cpu, rsp, 8, MEM_SS, cpu->next_rip);
	cpu->next_rip = canonical_target(cpu, target);
	cpu->s.gpr[RSP] = rsp;
}

static void call64_r(struct cpu *cpu, const struct uop *u)
{
	call64_to(cpu, UOP_FIELD(cpu, uint64_t, u->rm));
}

static void call64_m(struct cpu *cpu, const struct uop *u)
{
	call64_to(cpu, uop_load(cpu, u, 8));
}

bool flow_lower(const struct insn *insn, struct uop *u, uint64_t next_rip)
{
	static const uop_fn jccs[16] = { jo, jno, jb, jae, je, jne, jbe, ja,
					 js, jns, jp, jnp, jl, jge, jle, jg };
	bool mem = insn->flags & INSN_MEM;
	uint64_t target = next_rip + (uint64_t)insn->imm;

	if (insn->mode != MODE_64 || insn->opsize != 8)
		return false;
	switch (insn->op) {
	case OP_JMP:
		u->fn = jmp64;
		break;
	case OP_JCC:
		u->fn = jccs[insn->cond & 15];
		break;
	case OP_CALL:
		u->fn = call64;
		break;
	case OP_RET:
		if (insn->form == FORM_IMM)
			return false;
		u->fn = ret64;
		return true;
	case OP_JMP_IND:
		u->fn = mem ? jmp64_m : jmp64_r;
		return true;
	case OP_CALL_IND:
		u->fn = mem ? call64_m : call64_r;
		return true;
	default:
		return false;
	}
	/* A target that may have to fault goes the general way. */
	if (!is_canonical(target, 48))
		return false;
	u->target = target;
	return true;
}
