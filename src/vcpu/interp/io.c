/*
 * IN, OUT, INS, OUTS.
 *
 * String I/O goes to the bus in chunks: as many items as lie in one page and
 * before the address wraps. A chunk is one step: permission, the pages that
 * memory needs, the device, memory, registers, in that order, so that a fault
 * leaves the device untouched. What is left of a REP is done by running the
 * instruction again, after the loop has looked for interrupts.
 *
 * SDM volume 1, chapter 19 (IOPL and the permission bitmap); volume 2, IN,
 * INS, OUT, OUTS.
 */
#include "vcpu/interp/desc.h"

#define MAX_CHUNK   512 /* bytes */
#define TSS_IO_BASE 0x66
#define TSS_MIN     0x67

/* #GP(0) unless the bitmap of the current TSS lets (size) ports through. */
static void check_bitmap(struct cpu *cpu, uint16_t port, unsigned size)
{
	const struct x86_seg *tr = &cpu->s.tr;
	uint64_t wrap = cpu->is_long ? ~0ULL : 0xffffffff, base, byte, bits;

	if (!(tr->attr & 8) || tr->limit < TSS_MIN)
		cpu_raise(cpu, EXC_GP, 0);
	base = mem_load_sys(cpu, (tr->base + TSS_IO_BASE) & wrap, 2);
	byte = base + port / 8;
	if (byte + 1 > tr->limit)
		cpu_raise(cpu, EXC_GP, 0);
	bits = mem_load_sys(cpu, (tr->base + byte) & wrap, 2) >> (port & 7);
	if (bits & (BIT(size) - 1))
		cpu_raise(cpu, EXC_GP, 0);
}

static void check_port(struct cpu *cpu, uint16_t port, unsigned size)
{
	if (!(cpu->s.cr0 & CR0_PE))
		return;
	if (cpu->cpl > cpu_iopl(cpu) || (cpu->s.rflags & FLAG_VM))
		check_bitmap(cpu, port, size);
}

static void port_access(struct cpu *cpu, uint16_t port, unsigned size,
			bool is_write, void *data, uint32_t count)
{
	struct access a = {
		.addr = port,
		.size = (uint8_t)size,
		.is_write = is_write,
		.count = count,
		.data = data,
	};

	cpu_fpu_save(cpu);
	vcpu_pio(cpu->vcpu, &a);
	/* The device may have raised an interrupt. */
	cpu->irq_check = cpu->exit_block = true;
}

static uint16_t port_of(const struct cpu *cpu, const struct insn *insn)
{
	return insn->form == FORM_RM_IMM ? (uint8_t)insn->imm
					 : (uint16_t)cpu->s.gpr[RDX];
}

static void do_in(struct cpu *cpu, const struct insn *insn)
{
	uint16_t port = port_of(cpu, insn);
	uint64_t value = 0;

	count_trap(cpu, insn);
	check_port(cpu, port, insn->opsize);
	port_access(cpu, port, insn->opsize, false, &value, 1);
	reg_write(cpu, RAX, insn->opsize, value);
}

static void do_out(struct cpu *cpu, const struct insn *insn)
{
	uint16_t port = port_of(cpu, insn);
	uint64_t value = reg_read(cpu, RAX, insn->opsize);

	count_trap(cpu, insn);
	check_port(cpu, port, insn->opsize);
	port_access(cpu, port, insn->opsize, true, &value, 1);
}

/* How many items the next chunk at (gva), offset (off) takes. */
static uint32_t chunk_items(const struct cpu *cpu, const struct insn *insn,
			    uint64_t left, uint64_t off, uint64_t gva)
{
	unsigned size = insn->opsize;
	uint64_t room = size_mask(insn->addrsize) - off;
	uint64_t page = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
	uint64_t items = MIN(MIN(page, room), (uint64_t)MAX_CHUNK) / size;
	const struct x86_seg *seg =
		&cpu->s.seg[insn->op == OP_INS ? SEG_ES : insn->seg];

	/* One by one: backwards, across a page or a wrap, single-stepping. */
	if ((cpu->s.rflags & FLAG_DF) || cpu->single_step || cpu->watch)
		return 1;
	items = MIN(items, left);
	if (items == 0 || (cpu->mode != MODE_64 &&
			   !seg_holds(seg, off, (unsigned)items * size)))
		return 1;
	return (uint32_t)items;
}

static void do_string(struct cpu *cpu, const struct insn *insn)
{
	bool is_in = insn->op == OP_INS;
	bool is_rep = insn->prefixes & (PREFIX_F2 | PREFIX_F3);
	unsigned size = insn->opsize, asize = insn->addrsize;
	enum gpr index = is_in ? RDI : RSI;
	uint64_t off = reg_read(cpu, index, asize), gva, step;
	uint64_t left = is_rep ? reg_read(cpu, RCX, asize) : 1;
	uint16_t port = (uint16_t)cpu->s.gpr[RDX];
	uint8_t buf[MAX_CHUNK];
	uint32_t n;

	count_trap(cpu, insn);
	if (!left)
		return;
	check_port(cpu, port, size);
	gva = mem_linear(cpu, is_in ? SEG_ES : insn->seg, off, size, is_in);
	n = chunk_items(cpu, insn, left, off, gva);
	if (is_in) {
		mem_probe(cpu, gva, size * n, true);
		port_access(cpu, port, size, false, buf, n);
		mem_store_bytes(cpu, gva, buf, size * n);
	} else {
		mem_load_bytes(cpu, gva, buf, size * n);
		port_access(cpu, port, size, true, buf, n);
	}
	step = (uint64_t)size * n;
	if (cpu->s.rflags & FLAG_DF)
		step = -step;
	reg_write(cpu, index, asize, off + step);
	if (!is_rep)
		return;
	reg_write(cpu, RCX, asize, left - n);
	if (left > n)
		cpu_repeat(cpu);
}

const insn_fn io_handlers[NR_OPS] = {
	[OP_IN] = do_in,
	[OP_OUT] = do_out,
	[OP_INS] = do_string,
	[OP_OUTS] = do_string,
};
