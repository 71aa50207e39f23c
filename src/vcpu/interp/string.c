/*
 * MOVS, CMPS, STOS, LODS, SCAS, with and without REP.
 *
 * The elements that lie in one page at the source and in one page at the
 * destination are done at once by the host's own string instruction on host
 * addresses: overlaps then come out as they do on the guest's. RSI, RDI and
 * RCX advance after each such run, so a fault in the next one finds them as
 * the architecture wants, and requests of other threads wait no longer than
 * for one page. Flags are set at the end.
 *
 * Elements over a page's end, of devices, with a breakpoint or an alignment
 * check on, go one by one.
 */
#include "vcpu/interp/mmu.h"
#include "vcpu/interp/uop.h"

/** One string instruction under way. */
struct string {
	unsigned size, addrsize;
	bool is_rep, is_down;
	unsigned seg;   /* of the source */
	uint64_t count; /* elements left, this run included */
};

/* Begin (insn). In 64-bit mode with 32-bit addresses, REP clears the upper
 * halves of RCX, (reg1) and (reg2) even if the first access faults. */
static struct string string_begin(struct cpu *cpu, const struct insn *insn,
				  unsigned reg1, unsigned reg2)
{
	struct string s = {
		.size = insn->opsize,
		.addrsize = insn->addrsize,
		.is_rep = insn->prefixes & (PREFIX_F2 | PREFIX_F3),
		.is_down = cpu->s.rflags & FLAG_DF,
		.seg = insn->seg,
		.count = 1,
	};

	if (!s.is_rep)
		return s;
	s.count = cpu->s.gpr[RCX] & size_mask(s.addrsize);
	if (s.addrsize == 4) {
		reg_write(cpu, RCX, 4, s.count);
		reg_write(cpu, reg1, 4, cpu->s.gpr[reg1]);
		reg_write(cpu, reg2, 4, cpu->s.gpr[reg2]);
	}
	return s;
}

static uint64_t pointer(const struct cpu *cpu, const struct string *s,
			unsigned reg)
{
	return cpu->s.gpr[reg] & size_mask(s->addrsize);
}

static uint64_t string_linear(struct cpu *cpu, const struct string *s,
			      unsigned reg, bool is_write)
{
	return mem_linear(cpu, reg == RDI ? (unsigned)SEG_ES : s->seg,
			  pointer(cpu, s, reg), s->size, is_write);
}

/* How many elements from (reg) on, of which the first may be accessed, are in
 * its page, its segment, and below the point where its register wraps. 0: the
 * first one is not in one page. */
static uint64_t run_length(const struct cpu *cpu, const struct string *s,
			   unsigned reg, uint64_t gva)
{
	const struct x86_seg *seg =
		&cpu->s.seg[reg == RDI ? (unsigned)SEG_ES : s->seg];
	uint64_t offset = gva & (PAGE_SIZE - 1), at = pointer(cpu, s, reg), n;

	if (offset + s->size > PAGE_SIZE)
		return 0;
	if (unlikely(cpu->watch || cpu->align_check || cpu->single_step))
		return 0;
	if (s->is_down) {
		n = offset / s->size + 1;
		if (s->addrsize < 8)
			n = MIN(n, at / s->size + 1);
	} else {
		n = (PAGE_SIZE - offset) / s->size;
		if (s->addrsize < 8)
			n = MIN(n, (size_mask(s->addrsize) - at + 1) / s->size);
	}
	if (cpu->mode == MODE_64)
		return n;
	/* Expand-down segments are rare enough to go slowly. */
	if (!(seg->attr & ATTR_CODE) && (seg->attr & ATTR_CE) &&
	    (cpu->s.cr0 & CR0_PE))
		return 0;
	if (!s->is_down && seg->limit != 0xffffffff)
		n = MIN(n, ((uint64_t)seg->limit - at + 1) / s->size);
	return n;
}

static void pointer_advance(struct cpu *cpu, const struct string *s,
			    unsigned reg, uint64_t n)
{
	uint64_t delta = n * s->size;

	reg_write(cpu, reg, s->addrsize,
		  cpu->s.gpr[reg] + (s->is_down ? -delta : delta));
}

/* (n) elements are done. False: leave the instruction, for good or for now. */
static bool count_advance(struct cpu *cpu, struct string *s, uint64_t n)
{
	s->count -= n;
	if (!s->is_rep)
		return false;
	reg_write(cpu, RCX, s->addrsize, s->count);
	if (!s->count)
		return false;
	if (cpu_has_request(cpu) || cpu->exit_block || cpu->single_step) {
		cpu_repeat(cpu);
		return false;
	}
	return true;
}

/* The host's instructions count up with DF clear, as C wants it, or down. */
#define HOST_STRING(down, text, ...)                             \
	do {                                                     \
		if (down)                                        \
			__asm__ volatile("std\n\t" text          \
					 "\n\tcld" __VA_ARGS__); \
		else                                             \
			__asm__ volatile(text __VA_ARGS__);      \
	} while (0)

/* ---- MOVS STOS LODS ------------------------------------------------------------- */

static void host_movs(void *to, const void *from, uint64_t n, unsigned size,
		      bool down)
{
#define OPERANDS : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc"
	switch (size) {
	case 1:
		HOST_STRING(down, "rep movsb", OPERANDS);
		break;
	case 2:
		HOST_STRING(down, "rep movsw", OPERANDS);
		break;
	case 4:
		HOST_STRING(down, "rep movsl", OPERANDS);
		break;
	default:
		HOST_STRING(down, "rep movsq", OPERANDS);
	}
#undef OPERANDS
}

static void movs(struct cpu *cpu, const struct insn *insn)
{
	struct string s = string_begin(cpu, insn, RSI, RDI);
	uint64_t from, to, n, n_to;
	void *src, *dst;

	if (!s.count)
		return;
	do {
		from = string_linear(cpu, &s, RSI, false);
		to = string_linear(cpu, &s, RDI, true);
		n = run_length(cpu, &s, RSI, from);
		n_to = run_length(cpu, &s, RDI, to);
		n = MIN(MIN(n, n_to), s.count);
		src = n ? mem_host(cpu, from, s.size, false) : NULL;
		dst = src ? mem_host(cpu, to, s.size, true) : NULL;
		if (likely(dst)) {
			host_movs(dst, src, n, s.size, s.is_down);
		} else {
			n = 1;
			mem_store(cpu, to, s.size, mem_load(cpu, from, s.size));
		}
		pointer_advance(cpu, &s, RSI, n);
		pointer_advance(cpu, &s, RDI, n);
	} while (count_advance(cpu, &s, n));
}

static void host_stos(void *to, uint64_t value, uint64_t n, unsigned size,
		      bool down)
{
#define OPERANDS : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc"
	switch (size) {
	case 1:
		HOST_STRING(down, "rep stosb", OPERANDS);
		break;
	case 2:
		HOST_STRING(down, "rep stosw", OPERANDS);
		break;
	case 4:
		HOST_STRING(down, "rep stosl", OPERANDS);
		break;
	default:
		HOST_STRING(down, "rep stosq", OPERANDS);
	}
#undef OPERANDS
}

static void stos(struct cpu *cpu, const struct insn *insn)
{
	struct string s = string_begin(cpu, insn, RDI, RDI);
	uint64_t to, n;
	void *dst;

	if (!s.count)
		return;
	do {
		to = string_linear(cpu, &s, RDI, true);
		n = MIN(run_length(cpu, &s, RDI, to), s.count);
		dst = n ? mem_host(cpu, to, s.size, true) : NULL;
		if (likely(dst)) {
			host_stos(dst, cpu->s.gpr[RAX], n, s.size, s.is_down);
		} else {
			n = 1;
			mem_store(cpu, to, s.size, cpu->s.gpr[RAX]);
		}
		pointer_advance(cpu, &s, RDI, n);
	} while (count_advance(cpu, &s, n));
}

static void lods(struct cpu *cpu, const struct insn *insn)
{
	struct string s = string_begin(cpu, insn, RCX, RCX);
	uint64_t value;

	if (!s.count)
		return;
	do {
		value = mem_load(cpu, string_linear(cpu, &s, RSI, false),
				 s.size);
		reg_write(cpu, RAX, s.size, value);
		pointer_advance(cpu, &s, RSI, 1);
	} while (count_advance(cpu, &s, 1));
}

/* ---- CMPS SCAS ------------------------------------------------------------------- */

/* Both return how many elements they left of (n), with the flags of the last
 * one in (ax). */
#define HOST_CMPS(name, text)                                          \
	static uint64_t name(const void *a, const void *b, uint64_t n, \
			     bool down, uint32_t *ax)                  \
	{                                                              \
		HOST_STRING(down, text FLAGS_OUT,                      \
			    : "+S"(a), "+D"(b), "+c"(n), "=a"(*ax)     \
			    :                                          \
			    : "memory", "cc");                         \
		return n;                                              \
	}

HOST_CMPS(repe_cmps_b, "repe cmpsb")
HOST_CMPS(repe_cmps_w, "repe cmpsw")
HOST_CMPS(repe_cmps_l, "repe cmpsl")
HOST_CMPS(repe_cmps_q, "repe cmpsq")
HOST_CMPS(repne_cmps_b, "repne cmpsb")
HOST_CMPS(repne_cmps_w, "repne cmpsw")
HOST_CMPS(repne_cmps_l, "repne cmpsl")
HOST_CMPS(repne_cmps_q, "repne cmpsq")

#define HOST_SCAS(name, text)                                           \
	static uint64_t name(const void *b, uint64_t value, uint64_t n, \
			     bool down, uint32_t *ax)                   \
	{                                                               \
		HOST_STRING(down, text FLAGS_OUT,                       \
			    : "+D"(b), "+c"(n), "+a"(value)             \
			    :                                           \
			    : "memory", "cc");                          \
		*ax = (uint32_t)value;                                  \
		return n;                                               \
	}

HOST_SCAS(repe_scas_b, "repe scasb")
HOST_SCAS(repe_scas_w, "repe scasw")
HOST_SCAS(repe_scas_l, "repe scasl")
HOST_SCAS(repe_scas_q, "repe scasq")
HOST_SCAS(repne_scas_b, "repne scasb")
HOST_SCAS(repne_scas_w, "repne scasw")
HOST_SCAS(repne_scas_l, "repne scasl")
HOST_SCAS(repne_scas_q, "repne scasq")

/* Do the flags of the last comparison end a REPE, or with (is_ne) a REPNE? */
static bool compare_ends(uint32_t ax, bool is_ne)
{
	return !!(ax & FLAG_ZF << 8) == is_ne;
}

static void cmps(struct cpu *cpu, const struct insn *insn)
{
	static uint64_t (*const fns[2][4])(const void *, const void *, uint64_t,
					   bool, uint32_t *) = {
		{ repe_cmps_b, repe_cmps_w, repe_cmps_l, repe_cmps_q },
		{ repne_cmps_b, repne_cmps_w, repne_cmps_l, repne_cmps_q },
	};
	struct string s = string_begin(cpu, insn, RCX, RCX);
	bool is_ne = insn->prefixes & PREFIX_F2, more;
	uint64_t from, to, n, n_to, v1, v2;
	unsigned size_log2 = (unsigned)__builtin_ctz(s.size);
	const void *a, *b;
	uint32_t ax = 0;

	if (!s.count)
		return;
	do {
		from = string_linear(cpu, &s, RSI, false);
		to = string_linear(cpu, &s, RDI, false);
		n = run_length(cpu, &s, RSI, from);
		n_to = run_length(cpu, &s, RDI, to);
		n = MIN(MIN(n, n_to), s.count);
		b = n ? mem_host(cpu, to, s.size, false) : NULL;
		a = b ? mem_host(cpu, from, s.size, false) : NULL;
		if (unlikely(!a)) {
			n = 1;
			v2 = mem_load(cpu, to, s.size);
			v1 = mem_load(cpu, from, s.size);
			a = &v1;
			b = &v2;
		}
		n -= fns[is_ne][size_log2](a, b, n, s.is_down, &ax);
		pointer_advance(cpu, &s, RSI, n);
		pointer_advance(cpu, &s, RDI, n);
		more = !s.is_rep || !compare_ends(ax, is_ne);
		if (!more)
			reg_write(cpu, RCX, s.addrsize, s.count - n);
	} while (more && count_advance(cpu, &s, n));
	flags_put(cpu, ax);
}

static void scas(struct cpu *cpu, const struct insn *insn)
{
	static uint64_t (*const fns[2][4])(const void *, uint64_t, uint64_t,
					   bool, uint32_t *) = {
		{ repe_scas_b, repe_scas_w, repe_scas_l, repe_scas_q },
		{ repne_scas_b, repne_scas_w, repne_scas_l, repne_scas_q },
	};
	struct string s = string_begin(cpu, insn, RCX, RCX);
	bool is_ne = insn->prefixes & PREFIX_F2, more;
	unsigned size_log2 = (unsigned)__builtin_ctz(s.size);
	uint64_t to, n, value;
	const void *b;
	uint32_t ax = 0;

	if (!s.count)
		return;
	do {
		to = string_linear(cpu, &s, RDI, false);
		n = MIN(run_length(cpu, &s, RDI, to), s.count);
		b = n ? mem_host(cpu, to, s.size, false) : NULL;
		if (unlikely(!b)) {
			n = 1;
			value = mem_load(cpu, to, s.size);
			b = &value;
		}
		n -= fns[is_ne][size_log2](b, cpu->s.gpr[RAX], n, s.is_down,
					   &ax);
		pointer_advance(cpu, &s, RDI, n);
		more = !s.is_rep || !compare_ends(ax, is_ne);
		if (!more)
			reg_write(cpu, RCX, s.addrsize, s.count - n);
	} while (more && count_advance(cpu, &s, n));
	flags_put(cpu, ax);
}

const insn_fn string_handlers[NR_OPS] = {
	[OP_MOVS] = movs, [OP_CMPS] = cmps, [OP_STOS] = stos,
	[OP_LODS] = lods, [OP_SCAS] = scas,
};
