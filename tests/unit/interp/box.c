#include "box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/endian.h"

/* ---- What the CPU is connected to ---------------------------------------- */

static int64_t host_now(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void host_arm(void *opaque, int64_t ns)
{
}

static uint64_t host_tsc(void *opaque)
{
	return __builtin_ia32_rdtsc();
}

static int intc_pending(void *dev)
{
	struct box *b = dev;

	return b->irq;
}

static int intc_acknowledge(void *dev)
{
	struct box *b = dev;
	int irq = b->irq;

	b->irq = -1;
	b->acks++;
	return irq;
}

static uint8_t intc_get_tpr(void *dev)
{
	return ((struct box *)dev)->tpr;
}

static void intc_set_tpr(void *dev, uint8_t cr8)
{
	((struct box *)dev)->tpr = cr8;
}

static int intc_read_msr(void *dev, uint32_t msr, uint64_t *value)
{
	struct box *b = dev;

	*value = msr == MSR_TSC_DEADLINE ? b->deadline : b->apic_base;
	return msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST ? 0 : -1;
}

static int intc_write_msr(void *dev, uint32_t msr, uint64_t value)
{
	struct box *b = dev;

	if (msr == MSR_TSC_DEADLINE)
		b->deadline = value;
	else
		b->apic_base = value;
	return 0;
}

static void intc_eoi(void *dev)
{
	((struct box *)dev)->eois++;
}

static void intc_send_ipi(void *dev, uint32_t dest, uint32_t icr)
{
	struct box *b = dev;

	b->ipi_dest[b->ipis++ % 8] = dest;
	b->ipi_icr = icr;
}

static void intc_reset(void *dev)
{
}

static const struct intc_ops intc_ops = {
	.pending = intc_pending,
	.acknowledge = intc_acknowledge,
	.get_tpr = intc_get_tpr,
	.set_tpr = intc_set_tpr,
	.read_msr = intc_read_msr,
	.write_msr = intc_write_msr,
	.eoi = intc_eoi,
	.send_ipi = intc_send_ipi,
	.reset = intc_reset,
};

static uint64_t port_read(void *dev, unsigned cpu, uint64_t off, unsigned size)
{
	struct box *b = dev;
	uint64_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)(uint8_t)b->port_next++ << (8 * i);
	return v;
}

static void port_write(void *dev, unsigned cpu, uint64_t off, unsigned size,
		       uint64_t value)
{
	struct box *b = dev;

	if (b->nr_out + size <= sizeof(b->port_out))
		memcpy(b->port_out + b->nr_out, &value, size);
	b->nr_out += size;
}

static const struct bus_ops port_ops = { .read = port_read,
					 .write = port_write };

/* ---- Tables -------------------------------------------------------------- */

void box_write(struct box *b, uint64_t gpa, const void *p, unsigned len)
{
	assert_true(gpa + len <= BOX_RAM);
	memcpy(b->ram + gpa, p, len);
	gmem_mark_written(&b->mem, gpa, len);
}

uint64_t box_peek(struct box *b, uint64_t gpa, unsigned size)
{
	assert_true(gpa + size <= BOX_RAM);
	return load_le(b->ram + gpa, size);
}

void box_poke(struct box *b, uint64_t gpa, unsigned size, uint64_t value)
{
	box_write(b, gpa, &value, size);
}

void box_segment(struct box *b, uint16_t sel, uint32_t base, uint32_t limit,
		 uint8_t access, uint8_t flags)
{
	uint64_t d = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
		     (uint64_t)access << 40 |
		     (uint64_t)(limit >> 16 & 15) << 48 |
		     (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;

	box_poke(b, BOX_GDT + (sel & 0xfff8u), 8, d);
}

void box_call_gate(struct box *b, uint16_t sel, uint16_t cs, uint32_t offset,
		   uint8_t access, unsigned params)
{
	uint64_t d = (offset & 0xffff) | (uint64_t)cs << 16 |
		     (uint64_t)params << 32 | (uint64_t)access << 40 |
		     (uint64_t)(offset >> 16) << 48;

	box_poke(b, BOX_GDT + (sel & 0xfff8u), 8, d);
}

void box_gate(struct box *b, unsigned vector, uint16_t cs, uint64_t offset,
	      uint8_t access, unsigned ist)
{
	unsigned size = b->st.efer & EFER_LMA ? 16 : 8;
	uint64_t gpa = BOX_IDT + vector * size;
	uint64_t d = (offset & 0xffff) | (uint64_t)cs << 16 |
		     (uint64_t)ist << 32 | (uint64_t)access << 40 |
		     (offset & 0xffff0000) << 32;

	box_poke(b, gpa, 8, d);
	if (size == 16)
		box_poke(b, gpa + 8, 8, offset >> 32);
}

static void make_gdt(struct box *b)
{
	box_segment(b, CODE0, 0, 0xfffff, 0x9a, 0xc);
	box_segment(b, DATA0, 0, 0xfffff, 0x92, 0xc);
	box_segment(b, CODE3, 0, 0xfffff, 0xfa, 0xc);
	box_segment(b, DATA3, 0, 0xfffff, 0xf2, 0xc);
	box_segment(b, CODE3_64, 0, 0xfffff, 0xfa, 0xa);
	box_segment(b, 0x30, 0, 0xfffff, 0xf2, 0xc);
	box_segment(b, CODE0_64, 0, 0xfffff, 0x9a, 0xa);
	box_segment(b, 0x40, 0, 0xfffff, 0x92, 0xc);
	box_segment(b, CODE1, 0, 0xfffff, 0xba, 0xc);
	box_segment(b, DATA1, 0, 0xfffff, 0xb2, 0xc);
	box_segment(b, CODE2, 0, 0xfffff, 0xda, 0xc);
	box_segment(b, DATA2, 0, 0xfffff, 0xd2, 0xc);
	box_segment(b, CONFORMING, 0, 0xfffff, 0x9e, 0xc);
	box_segment(b, DATA_NP, 0, 0xfffff, 0x12, 0xc);
	box_segment(b, CODE_NP, 0, 0xfffff, 0x1a, 0xc);
	box_segment(b, TSS, BOX_TSS, 0x2ff, 0x89, 0);
	box_segment(b, LDT, BOX_LDT, 0xff, 0x82, 0);
	box_segment(b, SEL_TSS2, BOX_TSS2, 0x67, 0x89, 0);
	box_call_gate(b, TASK_GATE_SEL, SEL_TSS2, 0, 0xe5, 0);
	box_segment(b, SEL_TSS16, BOX_TSS16, 0x2b, 0x81, 0);
	box_segment(b, DATA_RO, 0, 0xfffff, 0x90, 0xc);
	box_segment(b, CODE_XO, 0, 0xfffff, 0x98, 0xc);
	box_segment(b, DATA_DOWN, 0, 0xf, 0x96, 0x4);
	box_segment(b, DATA16_3, 0, 0xffff, 0xf2, 0);
}

static void load_seg(struct box *b, struct x86_seg *seg, uint16_t sel)
{
	uint64_t raw = box_peek(b, BOX_GDT + (sel & 0xfff8u), 8);
	struct descriptor d = { .raw = raw | (raw & BIT(44) ? BIT(40) : 0) };

	desc_to_seg(&d, sel, seg);
}

static void load_segs(struct box *b, uint16_t cs, uint16_t data)
{
	for (unsigned i = 0; i < NR_SEG; i++)
		load_seg(b, &b->st.seg[i], i == SEG_CS ? cs : data);
}

static void make_tss(struct box *b, bool is_long)
{
	static const uint32_t stacks[] = { BOX_STACK0, BOX_STACK1, BOX_STACK2 };
	static const uint16_t ss[] = { DATA0, DATA1, DATA2 };

	memset(b->ram + BOX_TSS, 0, 0x800);
	for (unsigned i = 0; i < 3; i++) {
		box_poke(b, BOX_TSS + 4 + 8 * i, is_long ? 8 : 4, stacks[i]);
		if (!is_long)
			box_poke(b, BOX_TSS + 8 + 8 * i, 2, ss[i]);
	}
	for (unsigned i = 0; is_long && i < 7; i++)
		box_poke(b, BOX_TSS + 36 + 8 * i, 8, BOX_IST + 0x100 * i);
	box_poke(b, BOX_TSS + 0x66, 2, 0x68);
	memset(b->ram + BOX_TSS + 0x68, 0xff, 0x200);
	load_seg(b, &b->st.tr, TSS);
	b->st.tr.attr |= ATTR_RW;
	b->ram[BOX_GDT + TSS + 5] |= 2;
}

static void make_idt(struct box *b)
{
	bool is_long = b->st.efer & EFER_LMA;

	for (unsigned v = 0; v < 256; v++) {
		bool is_user = v == 3 || v == 4 || v == 0x80;

		box_gate(b, v, is_long ? CODE0_64 : CODE0,
			 BOX_HANDLERS + 16 * v, is_user ? 0xee : 0x8e, 0);
		box_poke(b, BOX_HANDLERS + 16 * v, 1, 0xf4);
	}
	b->st.idtr = (struct x86_dtr){ BOX_IDT, 0xfff };
	b->st.gdtr = (struct x86_dtr){ BOX_GDT, BOX_GDT_LIMIT };
}

/* ---- Modes --------------------------------------------------------------- */

static void start(struct box *b)
{
	x86_state_reset(&b->st, true);
	b->st.rip = BOX_CODE;
	b->st.gpr[RSP] = BOX_STACK0 - 0x800;
	make_gdt(b);
}

void box_real(struct box *b)
{
	start(b);
	for (unsigned v = 0; v < 256; v++) {
		box_poke(b, 4 * v, 4, (BOX_HANDLERS / 16 + v) << 16);
		box_poke(b, BOX_HANDLERS + 16 * v, 1, 0xf4);
	}
	b->st.idtr = (struct x86_dtr){ 0, 0x3ff };
	b->st.seg[SEG_CS].sel = BOX_CODE / 16;
	b->st.seg[SEG_CS].base = BOX_CODE;
	b->st.seg[SEG_SS].sel = BOX_STACK0 / 16 - 0x100;
	b->st.seg[SEG_SS].base = BOX_STACK0 - 0x1000;
	b->st.gpr[RSP] = 0x800;
	b->st.rip = 0;
}

void box_protected(struct box *b)
{
	start(b);
	b->st.cr0 = CR0_PE | CR0_ET | CR0_NE;
	make_idt(b);
	make_tss(b, false);
	load_segs(b, CODE0, DATA0);
}

void box_long(struct box *b)
{
	start(b);
	b->st.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
	b->st.cr3 = BOX_PML4;
	b->st.cr4 = CR4_PAE | CR4_PGE | CR4_FSGSBASE | CR4_OSFXSR;
	b->st.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
	box_poke(b, BOX_PML4, 8, BOX_PDPT | 7);
	box_poke(b, BOX_PDPT, 8, BOX_PD | 7);
	box_poke(b, BOX_PD, 8, BOX_PT | 7);
	for (unsigned i = 0; i < 512; i++)
		box_poke(b, BOX_PT + 8 * i, 8, i * 0x1000 | 7);
	for (unsigned i = 1; i < 4; i++)
		box_poke(b, BOX_PD + 8 * i, 8, i * 0x200000 | 0x87);
	make_idt(b);
	make_tss(b, true);
	load_segs(b, CODE0_64, DATA0);
}

void box_level(struct box *b, unsigned cpl, bool is_64)
{
	static const uint16_t code[] = { CODE0, CODE1, CODE2, CODE3 };
	static const uint16_t data[] = { DATA0, DATA1, DATA2, DATA3 };
	static const uint32_t stack[] = { BOX_STACK0, BOX_STACK1, BOX_STACK2,
					  BOX_STACK3 };

	load_segs(b, is_64 ? CODE3_64 : code[cpl], data[cpl]);
	b->st.rip = BOX_USER;
	b->st.gpr[RSP] = stack[cpl] - 0x800;
}

void box_v86(struct box *b)
{
	for (unsigned i = 0; i < NR_SEG; i++) {
		uint16_t sel = i == SEG_CS   ? BOX_USER / 16
			       : i == SEG_SS ? BOX_STACK3 / 16
					     : BOX_DATA / 16;

		b->st.seg[i] = (struct x86_seg){ .sel = sel,
						 .base = sel * 16u,
						 .limit = 0xffff,
						 .attr = 0xf3 };
	}
	b->st.rflags |= FLAG_VM;
	b->st.rip = 0;
	b->st.gpr[RSP] = 0x100;
}

/* ---- Running ------------------------------------------------------------- */

int box_run(struct box *b)
{
	uint64_t at;
	int r;

	memset(&b->exit, 0, sizeof(b->exit));
	assert_int_equal(ACCEL.set_state(&b->vcpu, &b->st), 0);
	r = ACCEL.run(&b->vcpu, &b->exit);
	assert_int_equal(r, 0);
	assert_int_equal(ACCEL.get_state(&b->vcpu, &b->st), 0);
	if (b->exit.reason == EXIT_SHUTDOWN)
		return -2;
	if (b->exit.reason != EXIT_HLT)
		return -3;
	b->st.activity = ACT_RUNNING;
	at = b->st.rip - 1;
	if (!x86_is_long64(&b->st))
		at += b->st.seg[SEG_CS].base;
	if (at < BOX_HANDLERS || at >= BOX_HANDLERS + 0x1000)
		return -1;
	return (int)((at - BOX_HANDLERS) / 16);
}

uint64_t box_stack(struct box *b, unsigned n, unsigned size)
{
	uint64_t at = b->st.gpr[RSP] + n * size;

	if (!x86_is_long64(&b->st))
		at += b->st.seg[SEG_SS].base;
	return box_peek(b, at, size);
}

struct box *box_create(bool pv)
{
	static const struct vclock_host host = { host_now, host_arm, host_tsc,
						 NULL };
	struct cpuid_config config = {
		.topology = { 1, 1, 1 },
		.pv = pv,
		.is_software = true,
		.tsc_khz = 2600000,
	};
	struct box *b = aligned_alloc(64, ALIGN_UP(sizeof(*b), 64));

	assert_non_null(b);
	memset(b, 0, sizeof(*b));
	b->irq = -1;
	gmem_init(&b->mem);
	assert_int_equal(gmem_add(&b->mem, "ram", 0, BOX_RAM, 0, NULL), 0);
	b->ram = gmem_at(&b->mem, 0, BOX_RAM);
	b->vs.mem = &b->mem;
	b->vs.ops = &ACCEL;
	b->vs.pio = bus_create("pio", true);
	b->vs.mmio = bus_create("mmio", false);
	b->vs.clock = vclock_create(&host, config.tsc_khz);
	b->vs.nr = 1;
	b->vs.vcpu = &b->vcpu;
	cpuid_policy_init(&b->vs.cpuid, &config);
	assert_int_equal(
		bus_map(b->vs.pio, 0x100, 8, "test", &port_ops, b, NULL), 0);
	b->vcpu.set = &b->vs;
	b->vcpu.intc = (struct intc){ &intc_ops, b };
	vclock_start(b->vs.clock, false);
	assert_int_equal(ACCEL.vm_create(&b->vs, NULL), 0);
	assert_int_equal(ACCEL.vcpu_create(&b->vcpu, NULL), 0);
	b->cpu = cpu_of(&b->vcpu);
	return b;
}

void box_destroy(struct box *b)
{
	ACCEL.vcpu_destroy(&b->vcpu);
	ACCEL.vm_destroy(&b->vs);
	vclock_destroy(b->vs.clock);
	bus_destroy(b->vs.pio);
	bus_destroy(b->vs.mmio);
	gmem_finish(&b->mem);
	free(b);
}
