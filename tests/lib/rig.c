#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HANDLER_SIZE 16

static int64_t rig_now(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void rig_arm(void *opaque, int64_t host_ns)
{
}

static uint64_t rig_tsc(void *opaque)
{
	return __builtin_ia32_rdtsc();
}

static const struct vclock_host rig_clock = { .now = rig_now,
					      .arm = rig_arm,
					      .tsc = rig_tsc };

uint64_t rig_read(struct rig *rig, uint64_t gpa, unsigned size)
{
	uint64_t value = 0;

	vm_assert(!gmem_read(&rig->mem, gpa, &value, size));
	return value;
}

void rig_write(struct rig *rig, uint64_t gpa, unsigned size, uint64_t value)
{
	vm_assert(!gmem_load(&rig->mem, gpa, &value, size));
}

static uint64_t descriptor(uint16_t attr)
{
	return 0x0000ffffULL | (uint64_t)(attr & 0xff) << 40 | 0xfULL << 48 |
	       (uint64_t)(attr >> 12) << 52;
}

#define CODE (ATTR_P | ATTR_S | ATTR_CODE | ATTR_RW | ATTR_ACCESSED | ATTR_G)
#define DATA (ATTR_P | ATTR_S | ATTR_RW | ATTR_ACCESSED | ATTR_G)
#define DPL3 (3 << 5)

static uint16_t selector_attr(unsigned sel)
{
	switch (sel & ~3U) {
	case RIG_CS64:
		return CODE | ATTR_L;
	case RIG_CS32:
		return CODE | ATTR_DB;
	case RIG_CS16:
		return CODE;
	case RIG_DS:
		return DATA | ATTR_DB;
	case RIG_DS16:
		return DATA;
	case RIG_UCS64:
		return CODE | ATTR_L | DPL3;
	case RIG_UCS32:
		return CODE | ATTR_DB | DPL3;
	default:
		return DATA | ATTR_DB | DPL3;
	}
}

static struct x86_seg segment(uint16_t sel)
{
	return (struct x86_seg){ .limit = 0xffffffff,
				 .attr = selector_attr(sel),
				 .sel = sel };
}

/* The IDT and TSS for the mode, made anew each time. */
static void make_idt(struct rig *rig, bool is_long)
{
	for (unsigned v = 0; v < 32; v++) {
		uint64_t at = RIG_HANDLERS + v * HANDLER_SIZE;
		uint64_t gate = (at & 0xffff) | (at >> 16 & 0xffff) << 48 |
				0xeeULL << 40;

		rig_write(rig, at, 1, 0xf4);
		rig_write(rig, RIG_IVT + v * 4, 4, at);
		if (is_long) {
			rig_write(rig, RIG_IDT + v * 16, 8,
				  gate | RIG_CS64 << 16);
			rig_write(rig, RIG_IDT + v * 16 + 8, 8, 0);
		} else {
			rig_write(rig, RIG_IDT + v * 8, 8,
				  gate | RIG_CS32 << 16);
		}
	}
	if (is_long) {
		rig_write(rig, RIG_TSS + 4, 8, RIG_STACK0);
	} else {
		rig_write(rig, RIG_TSS + 4, 4, RIG_STACK0);
		rig_write(rig, RIG_TSS + 8, 4, RIG_DS);
	}
}

static void make_tables(struct rig *rig)
{
	const uint64_t rights = PTE_P | PTE_W | PTE_U;

	for (unsigned sel = 8; sel < 0x50; sel += 8)
		rig_write(rig, RIG_GDT + sel, 8,
			  descriptor(selector_attr(sel)));
	rig_write(rig, RIG_GDT + RIG_TR, 8,
		  0x67 | (uint64_t)RIG_TSS << 16 | 0x89ULL << 40);
	rig_write(rig, RIG_GDT + RIG_TR + 8, 8, 0);
	rig_write(rig, RIG_PML4, 8, RIG_PDPT | rights);
	rig_write(rig, RIG_PDPT, 8, RIG_PD | rights);
	rig_write(rig, RIG_PD, 8, RIG_PT | rights);
	for (unsigned i = 1; i < 512; i++)
		rig_write(rig, RIG_PD + i * 8, 8,
			  i * 2 * MiB | rights | PTE_PS);
	for (unsigned i = 0; i < 512; i++)
		rig_write(rig, RIG_PT + i * 8, 8, i * PAGE_SIZE | rights);
	for (unsigned i = 0; i < 256; i++)
		rig_write(rig, RIG_PD32 + i * 4, 4,
			  i * 4 * MiB | rights | PTE_PS);
}

static const int rig_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

/* Put the handlers back that were there when the CPUs were made. */
static void handlers_restore(const struct rig *rig)
{
	struct sigaction now;

	sigaction(SIGSEGV, NULL, &now);
	/* cmocka's take no information; those that do pass on what is not
	 * theirs. */
	if (now.sa_flags & SA_SIGINFO)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(rig_signals); i++)
		sigaction(rig_signals[i], &rig->handlers[i], NULL);
}

void rig_create(struct rig *rig, const struct accel_ops *ops, unsigned nr,
		uint64_t ram)
{
	struct err err = { .what = "" };

	memset(rig, 0, sizeof(*rig));
	gmem_init(&rig->mem);
	vm_assert(!gmem_add(&rig->mem, "ram", 0, ram, 0, &err));
	stats_init(&rig->stats);
	rig->vs.ops = ops;
	rig->vs.mem = &rig->mem;
	rig->vs.pio = bus_create("pio", true);
	rig->vs.mmio = bus_create("mmio", false);
	rig->vs.clock = vclock_create(&rig_clock, 1000000);
	rig->vs.stats = &rig->stats;
	rig->vs.vcpu = rig->vcpu;
	rig->vs.nr = nr;
	cpuid_policy_init(&rig->vs.cpuid,
			  &(struct cpuid_config){ .topology = { 1, nr, 1 },
						  .is_software = true,
						  .tsc_khz = 1000000,
						  .phys_bits = 40 });
	vm_assert(!ops->vm_create(&rig->vs, &err));
	for (unsigned i = 0; i < nr; i++) {
		rig->vcpu[i].index = i;
		rig->vcpu[i].set = &rig->vs;
		vm_assert(!ops->vcpu_create(&rig->vcpu[i], &err));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(rig_signals); i++)
		sigaction(rig_signals[i], NULL, &rig->handlers[i]);
	make_tables(rig);
}

void rig_destroy(struct rig *rig)
{
	for (unsigned i = 0; i < rig->vs.nr; i++)
		rig->vs.ops->vcpu_destroy(&rig->vcpu[i]);
	rig->vs.ops->vm_destroy(&rig->vs);
	vclock_destroy(rig->vs.clock);
	bus_destroy(rig->vs.mmio);
	bus_destroy(rig->vs.pio);
	gmem_finish(&rig->mem);
}

static void set_segments(struct x86_state *st, uint16_t cs, uint16_t ds,
			 unsigned cpl)
{
	for (unsigned i = 0; i < NR_SEG; i++)
		st->seg[i] = segment((uint16_t)(ds | cpl));
	st->seg[SEG_CS] = segment((uint16_t)(cs | cpl));
	/* SS.DPL is the privilege level. */
	st->seg[SEG_SS].attr =
		(uint16_t)((st->seg[SEG_SS].attr & ~DPL3) | cpl << 5);
	st->gdtr = (struct x86_dtr){ RIG_GDT, 0x5f };
	st->idtr = (struct x86_dtr){ RIG_IDT, 0xfff };
	st->tr = (struct x86_seg){ .base = RIG_TSS,
				   .limit = 0x67,
				   .attr = ATTR_P | SYS_TSS_BUSY,
				   .sel = RIG_TR };
	st->cr0 |= CR0_PE;
}

void rig_mode(struct rig *rig, unsigned n, enum rig_mode mode, unsigned cpl)
{
	struct x86_state *st = &rig->st[n];
	bool is_user = cpl == 3;

	x86_state_reset(st, true);
	st->activity = ACT_RUNNING;
	st->cr0 |= CR0_NE | CR0_MP;
	st->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
	switch (mode) {
	case RIG_REAL:
		for (unsigned i = 0; i < NR_SEG; i++)
			st->seg[i] = (struct x86_seg){ .limit = 0xffff,
						       .attr = DATA & ~ATTR_G };
		st->seg[SEG_CS].attr = CODE & ~ATTR_G;
		st->seg[SEG_CS].sel = RIG_CODE >> 4;
		st->seg[SEG_CS].base = RIG_CODE;
		st->seg[SEG_SS].sel = 0x5000;
		st->seg[SEG_SS].base = 0x50000;
		break;
	case RIG_PROT16:
		set_segments(st, RIG_CS16, RIG_DS16, 0);
		st->seg[SEG_CS].base = RIG_CODE;
		break;
	case RIG_PROT32:
		set_segments(st, is_user ? RIG_UCS32 : RIG_CS32,
			     is_user ? RIG_UDS : RIG_DS, cpl);
		break;
	case RIG_COMPAT32:
	case RIG_LONG:
		if (mode == RIG_LONG)
			set_segments(st, is_user ? RIG_UCS64 : RIG_CS64,
				     is_user ? RIG_UDS : RIG_DS, cpl);
		else
			set_segments(st, is_user ? RIG_UCS32 : RIG_CS32,
				     is_user ? RIG_UDS : RIG_DS, cpl);
		st->cr0 |= CR0_PG | CR0_WP;
		st->cr3 = RIG_PML4;
		st->cr4 |= CR4_PAE | CR4_OSXSAVE;
		st->efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
		st->xcr0 = cpuid_xcr0_mask(&rig->vs.cpuid);
		break;
	}
	make_idt(rig, mode == RIG_LONG || mode == RIG_COMPAT32);
	if (mode == RIG_REAL)
		st->idtr = (struct x86_dtr){ RIG_IVT, 0x3ff };
	st->rip = mode == RIG_REAL || mode == RIG_PROT16 ? 0 : RIG_CODE;
	st->rflags = FLAG_ONE;
	memset(st->gpr, 0, sizeof(st->gpr));
	st->gpr[RSP] = mode == RIG_REAL ? 0xf000 : RIG_STACK;
}

void rig_code(struct rig *rig, const void *code, unsigned len)
{
	static const uint8_t hlt = 0xf4;

	gmem_load(&rig->mem, RIG_CODE, code, len);
	gmem_load(&rig->mem, RIG_CODE + len, &hlt, 1);
}

static bool vector_has_error(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* What is on the stack of the handler that the CPU stopped in. */
static struct rig_exception read_frame(struct rig *rig, struct x86_state *st,
				       unsigned vector)
{
	unsigned size = st->efer & EFER_LMA ? 8 : st->cr0 & CR0_PE ? 4 : 2;
	uint64_t sp = st->gpr[RSP];
	struct rig_exception e = { .vector = (int)vector };

	if (size == 2)
		sp = (sp & 0xffff) + st->seg[SEG_SS].base;
	if (size > 2 && vector_has_error(vector)) {
		e.has_error = true;
		e.error = rig_read(rig, sp, size);
		sp += size;
	}
	e.rip = rig_read(rig, sp, size);
	e.cs = (uint16_t)rig_read(rig, sp + size, 2);
	e.rflags = rig_read(rig, sp + 2 * size, size);
	e.rsp = rig_read(rig, sp + 3 * size, size);
	return e;
}

struct rig_exception rig_continue(struct rig *rig, unsigned n)
{
	struct x86_state *st = &rig->st[n];
	struct exit exit = { .reason = EXIT_ERROR };
	uint64_t linear;

	handlers_restore(rig);
	vm_assert(!rig->vs.ops->run(&rig->vcpu[n], &exit));
	vm_assert(!rig->vs.ops->get_state(&rig->vcpu[n], st));
	if (exit.reason != EXIT_HLT)
		return (struct rig_exception){ .vector =
						       -2 - (int)exit.reason };
	linear = st->rip + (st->efer & EFER_LMA ? 0 : st->seg[SEG_CS].base) - 1;
	if (linear - RIG_HANDLERS < 32 * HANDLER_SIZE)
		return read_frame(rig, st,
				  (unsigned)(linear - RIG_HANDLERS) /
					  HANDLER_SIZE);
	return (struct rig_exception){ .vector = -1 };
}

struct rig_exception rig_run(struct rig *rig, unsigned n)
{
	rig->st[n].activity = ACT_RUNNING;
	vm_assert(!rig->vs.ops->set_state(&rig->vcpu[n], &rig->st[n]));
	return rig_continue(rig, n);
}
