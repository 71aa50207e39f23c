/*
 * KVM's paths with tiny real-mode guests, which run even where /dev/kvm has no
 * hardware behind it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/endian.h"
#include "host/clock.h"
#include "vcpu/vcpu.h"

#define CODE     0x1000 /* where guest code goes */
#define COUNT    0x600  /* where a guest counts */
#define END_PORT 0x10
#define ROM      0xe0000
#define DOORBELL 0xd0000
#define PVCLOCK  0x2000 /* the guest's clock page */

/* The guests: 16-bit code, copied to CODE. */
__asm__(".pushsection .rodata\n"
	".code16\n"
	"guest_ports: .globl guest_ports\n"
	"	mov $0x5a, %al\n"
	"	out %al, $0x80\n"
	"	in $0x81, %al\n"
	"	mov %al, 0x600\n"
	"	mov $0x700, %si\n"
	"	movl $0x44332211, (%si)\n"
	"	mov $4, %cx\n"
	"	mov $0x82, %dx\n"
	"	cld\n"
	"	rep outsb\n"
	"	out %al, $0x10\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"guest_doorbell: .globl guest_doorbell\n"
	"	mov $0xd000, %ax\n"
	"	mov %ax, %ds\n"
	"	mov $1000, %cx\n"
	"1:	movw $7, 0\n"
	"	loop 1b\n"
	"	out %al, $0x10\n"
	"2:	hlt\n"
	"	jmp 2b\n"
	"guest_rom: .globl guest_rom\n"
	"	mov $0xe000, %ax\n"
	"	mov %ax, %ds\n"
	"	movb $0x99, 5\n"
	"	movb 5, %al\n"
	"	out %al, $0x10\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"guest_irq: .globl guest_irq\n"
	"	cli\n"
	"	movw $(guest_isr - guest_irq + 0x1000), 0x40 * 4\n"
	"	movw $0, 0x40 * 4 + 2\n"
	"	mov $0x1b, %ecx\n"
	"	rdmsr\n"
	"	or $0xc00, %eax\n" /* x2APIC */
	"	wrmsr\n"
	"	mov $0x80f, %ecx\n"
	"	mov $0x1ff, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	out %al, $0x10\n"
	"	sti\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"guest_isr:\n"
	"	incl 0x600\n"
	"	mov $0x80b, %ecx\n"
	"	xor %eax, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	iret\n"
	"guest_spin: .globl guest_spin\n"
	"	incl 0x600\n"
	"	jmp guest_spin\n"
	"guest_hole: .globl guest_hole\n"
	"	mov $0xc000, %ax\n"
	"	mov %ax, %ds\n"
	"	mov 0, %ax\n"
	"	out %al, $0x10\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"guest_clock: .globl guest_clock\n"
	"	mov $0x4b564d01, %ecx\n"
	"	mov $0x2001, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"1:	incl 0x600\n"
	"	jmp 1b\n"
	"guest_end: .globl guest_end\n"
	".code64\n"
	".popsection\n");
extern const uint8_t guest_ports[], guest_doorbell[], guest_rom[], guest_irq[],
	guest_spin[], guest_hole[], guest_clock[], guest_end[];

/* A machine of one CPU, memory, and one device on all the ports. */
struct rig {
	struct gmem mem;
	struct vcpus vs;
	struct stats stats;
	_Atomic int ended, shutdowns;
	enum exit_reason reason;
	uint8_t end_value, written[8];
	unsigned nr_written;
};

static uint64_t rig_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	return 0xa5;
}

static void rig_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct rig *rig = dev;

	if (offset == END_PORT) {
		rig->end_value = (uint8_t)value;
		atomic_fetch_add(&rig->ended, 1);
	} else if (rig->nr_written < sizeof(rig->written)) {
		rig->written[rig->nr_written++] = (uint8_t)value;
	}
}

static const struct bus_ops rig_ops = { .read = rig_read, .write = rig_write };

static void rig_shutdown(void *opaque, struct vcpu *vcpu,
			 const struct exit *exit)
{
	struct rig *rig = opaque;

	rig->reason = exit->reason;
	atomic_fetch_add(&rig->shutdowns, 1);
}

static struct rig *rig_make_clocked(const struct accel_ops *ops,
				    const uint8_t *guest,
				    enum unmapped_policy unmapped,
				    struct vclock *clock)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct cpuid_config config = {
		.topology = { 1, 1, 1 },
		.tsc_khz = 1000000,
		.phys_bits = 40,
		.pv = true,
	};
	static const uint8_t rom_byte = 0x77;
	struct x86_state *st = aligned_alloc(64, sizeof(*st));
	struct err err = { "", "" };

	assert_non_null(rig);
	gmem_init(&rig->mem);
	stats_init(&rig->stats);
	assert_int_equal(gmem_add(&rig->mem, "ram", 0, 64 * KiB, 0, &err), 0);
	assert_int_equal(gmem_add(&rig->mem, "rom", ROM, 4096, GMEM_RO, &err),
			 0);
	gmem_load(&rig->mem, ROM + 5, &rom_byte, 1);
	gmem_load(&rig->mem, CODE, guest, (uint64_t)(guest_end - guest));
	rig->vs.ops = ops;
	rig->vs.mem = &rig->mem;
	rig->vs.clock = clock;
	rig->vs.pio = bus_create("pio", true);
	rig->vs.mmio = bus_create("mmio", false);
	rig->vs.stats = &rig->stats;
	rig->vs.unmapped = unmapped;
	rig->vs.events.shutdown = rig_shutdown;
	rig->vs.events.opaque = rig;
	cpuid_policy_init(&rig->vs.cpuid, &config);
	assert_int_equal(
		bus_map(rig->vs.pio, 0, 0x100, "rig", &rig_ops, rig, NULL), 0);
	if (vcpus_create(&rig->vs, 1, &err)) {
		fail_msg("%s", err.what);
	}
	if (ops->doorbell) {
		bus_set_doorbell_ops(rig->vs.pio, ops->doorbell, rig->vs.accel);
		bus_set_doorbell_ops(rig->vs.mmio, ops->doorbell,
				     rig->vs.accel);
	}
	x86_state_reset(st, true);
	st->rip = CODE;
	st->seg[SEG_CS].sel = 0;
	st->seg[SEG_CS].base = 0;
	st->gpr[RSP] = 0xf000;
	assert_int_equal(vcpu_set_state(&rig->vs.vcpu[0], st), 0);
	free(st);
	return rig;
}

static struct rig *rig_make(const struct accel_ops *ops, const uint8_t *guest,
			    enum unmapped_policy unmapped)
{
	return rig_make_clocked(ops, guest, unmapped, NULL);
}

static void rig_free(struct rig *rig)
{
	vcpus_destroy(&rig->vs);
	bus_destroy(rig->vs.pio);
	bus_destroy(rig->vs.mmio);
	gmem_finish(&rig->mem);
	free(rig);
}

static void wait_for(_Atomic int *what)
{
	for (int i = 0; !atomic_load(what); i++) {
		assert_true(i < 200000);
		usleep(50);
	}
}

static uint32_t count(struct rig *rig)
{
	return load_le32(gmem_at(&rig->mem, COUNT, 4));
}

static void check_ports(const struct accel_ops *ops)
{
	static const uint8_t want[] = { 0x5a, 0x11, 0x22, 0x33, 0x44 };
	struct rig *rig = rig_make(ops, guest_ports, UNMAPPED_IGNORE);

	vcpus_resume(&rig->vs);
	wait_for(&rig->ended);
	vcpus_pause(&rig->vs);
	assert_int_equal(rig->nr_written, sizeof(want));
	assert_memory_equal(rig->written, want, sizeof(want));
	assert_int_equal(count(rig) & 0xff, 0xa5);
	rig_free(rig);
}

static void c1_ports_and_string_io(void **state)
{
	check_ports(&accel_kvm);
}

static void c1_ports_with_user_space_chips(void **state)
{
	check_ports(&accel_kvm_user);
}

static void c15_doorbells_do_not_leave_the_kernel(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_doorbell, UNMAPPED_IGNORE);
	struct doorbell d = { .addr = DOORBELL,
			      .size = 2,
			      .fd = eventfd(0, EFD_NONBLOCK) };
	uint64_t n = 0;

	assert_int_equal(bus_doorbell(rig->vs.mmio, &d, true), 0);
	vcpus_resume(&rig->vs);
	wait_for(&rig->ended);
	vcpus_pause(&rig->vs);
	assert_int_equal(read(d.fd, &n, sizeof(n)), sizeof(n));
	assert_int_equal(n, 1000);
	assert_int_equal(rig->vs.vcpu[0].stats.exits[EXIT_MMIO], 0);
	assert_int_equal(bus_doorbell(rig->vs.mmio, &d, false), 0);
	close(d.fd);
	rig_free(rig);
}

static void c16_an_eventfd_raises_the_interrupt(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_irq, UNMAPPED_IGNORE);
	struct msi_msg msg = { .addr = 0xfee00000, .data = 0x40 };
	const struct irqchip_ops *chip = accel_kvm.irqchip;
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t one = 1, exits;

	assert_int_equal(chip->route_msi(rig->vs.accel, fd, &msg), 0);
	vcpus_resume(&rig->vs);
	wait_for(&rig->ended);
	exits = rig->vs.vcpu[0].stats.exits[EXIT_PIO];
	for (uint32_t i = 1; i <= 100; i++) {
		assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
		for (int t = 0; count(rig) < i; t++) {
			assert_true(t < 200000);
			usleep(20);
		}
	}
	/* The CPU's thread never came to user space for any of them. */
	assert_int_equal(rig->vs.vcpu[0].stats.exits[EXIT_PIO], exits);
	assert_int_equal(rig->vs.vcpu[0].stats.exits[EXIT_HLT], 0);
	assert_int_equal(chip->route_msi(rig->vs.accel, fd, NULL), 0);
	chip->send_msi(rig->vs.accel, &msg);
	for (int t = 0; count(rig) < 101; t++) {
		assert_true(t < 200000);
		usleep(20);
	}
	vcpus_pause(&rig->vs);
	close(fd);
	rig_free(rig);
}

static void b10_rom_ignores_writes(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_rom, UNMAPPED_KILL);

	vcpus_resume(&rig->vs);
	wait_for(&rig->ended);
	vcpus_pause(&rig->vs);
	assert_int_equal(rig->end_value, 0x77);
	rig_free(rig);
}

static void b9_unmapped_access_kills_when_told_to(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_hole, UNMAPPED_KILL);

	vcpus_resume(&rig->vs);
	wait_for(&rig->shutdowns);
	assert_int_equal(rig->reason, EXIT_UNMAPPED);
	rig_free(rig);
}

static void f7_a_spinning_guest_pauses_and_resumes(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_spin, UNMAPPED_IGNORE);
	uint32_t before;

	for (int i = 0; i < 20; i++) {
		before = count(rig);
		vcpus_resume(&rig->vs);
		while (count(rig) == before)
			usleep(50);
		vcpus_pause(&rig->vs);
		before = count(rig);
		usleep(200);
		assert_int_equal(count(rig), before);
	}
	rig_free(rig);
}

static void g17_state_set_is_state_got(void **state)
{
	struct rig *rig = rig_make(&accel_kvm, guest_spin, UNMAPPED_IGNORE);
	struct x86_state *a = aligned_alloc(64, sizeof(*a));
	struct x86_state *b = aligned_alloc(64, sizeof(*b));
	struct vcpu *vcpu = &rig->vs.vcpu[0];

	assert_int_equal(vcpu_get_state(vcpu, a), 0);
	assert_int_equal(a->rip, CODE);
	for (unsigned i = 0; i < NR_GPR; i++)
		a->gpr[i] = 0x1111111111111111ULL * i;
	a->rip = 0x1234;
	a->rflags = 0x246;
	a->lstar = 0xffffffff81000000;
	a->star = 0x23001000000000;
	a->kernel_gs_base = 0xffff888000000000;
	a->cr2 = 0x5678;
	a->dr[0] = 0x9abc;
	a->shadow_sti = true;
	store_le32(a->xsave + 24, 0x1f00); /* MXCSR */
	assert_int_equal(vcpu_set_state(vcpu, a), 0);
	assert_int_equal(vcpu_get_state(vcpu, b), 0);
	assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
	assert_int_equal(a->rip, b->rip);
	assert_int_equal(a->rflags, b->rflags);
	assert_memory_equal(a->seg, b->seg, sizeof(a->seg));
	assert_int_equal(a->lstar, b->lstar);
	assert_int_equal(a->star, b->star);
	assert_int_equal(a->kernel_gs_base, b->kernel_gs_base);
	assert_int_equal(a->cr2, b->cr2);
	assert_int_equal(a->dr[0], b->dr[0]);
	assert_int_equal(a->efer, b->efer);
	assert_true(b->shadow_sti);
	free(a);
	free(b);
	rig_free(rig);
}

/* ---- clocks ------------------------------------------------------------- */

static int64_t host_now(void *opaque)
{
	return clock_now_ns();
}

static uint64_t host_tsc(void *opaque)
{
	return clock_tsc();
}

static void host_arm(void *opaque, int64_t host_ns)
{
}

static const struct vclock_host real_host = { .now = host_now,
					      .arm = host_arm,
					      .tsc = host_tsc };

/* struct pvclock_vcpu_time_info of asm/pvclock-abi.h. */
struct clock_page {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

/* What a guest reads from its page at its time (tsc). */
static int64_t page_time(const struct clock_page *page, uint64_t tsc)
{
	uint64_t ticks = tsc - page->tsc_timestamp;

	ticks = page->shift < 0 ? ticks >> -page->shift : ticks << page->shift;
	return (int64_t)(page->system_time +
			 (uint64_t)((unsigned __int128)ticks * page->mul >>
				    32));
}

/* Without hardware, the guest's TSC may be the host's, whatever is asked. */
static bool has_tsc_offset(void)
{
	struct rig *rig = rig_make(&accel_kvm, guest_spin, UNMAPPED_IGNORE);
	struct x86_state *st = aligned_alloc(64, sizeof(*st));
	const int64_t want = -1000000000000;
	bool is_near;

	assert_int_equal(vcpu_get_state(&rig->vs.vcpu[0], st), 0);
	st->tsc_offset = want;
	assert_int_equal(vcpu_set_state(&rig->vs.vcpu[0], st), 0);
	assert_int_equal(vcpu_get_state(&rig->vs.vcpu[0], st), 0);
	is_near = llabs(st->tsc_offset - want) < NSEC_PER_SEC;
	free(st);
	rig_free(rig);
	return is_near;
}

/* How far the guest's clock is from the machine's, at one moment. */
static int64_t clock_error(struct rig *rig, struct clock_page *page,
			   bool is_offset)
{
	struct clock_page *shared = gmem_at(&rig->mem, PVCLOCK, sizeof(*page));
	int64_t best = INT64_MAX, error = 0;

	for (int i = 0; i < 100; i++) {
		int64_t before = vclock_now(rig->vs.clock), after, guest;

		memcpy(page, shared, sizeof(*page));
		guest = page_time(page, is_offset ? vclock_tsc(rig->vs.clock)
						  : clock_tsc());
		after = vclock_now(rig->vs.clock);
		if (after - before < best) {
			best = after - before;
			error = guest - before;
		}
	}
	return error;
}

static void wait_for_count(struct rig *rig)
{
	uint32_t before = count(rig);

	for (int i = 0; count(rig) - before < 2; i++) {
		assert_true(i < 200000);
		usleep(50);
	}
}

/* Short pauses, too: KVM takes writes of the TSC that are less than a second
 * off for something else. Every other pause is caught up with. */
static void f2_kvm_clock_follows_the_machine_through_pauses(void **state)
{
	struct vclock *clock = vclock_create(&real_host, clock_tsc_khz());
	struct rig *rig = rig_make_clocked(&accel_kvm, guest_clock,
					   UNMAPPED_IGNORE, clock);
	struct clock_page page;
	int64_t error, worst = 0, stood;
	bool is_offset = has_tsc_offset();
	uint32_t version = 0;

	for (int i = 0; i < 12; i++) {
		vclock_start(clock, i % 2);
		vcpus_resume(&rig->vs);
		wait_for_count(rig);
		error = clock_error(rig, &page, is_offset);
		worst = MAX(worst, llabs(error));
		vcpus_pause(&rig->vs);
		assert_int_equal(page.version % 2, 0);
		assert_true(page.version > version || i % 2);
		version = page.version;
		vclock_stop(clock);
		stood = vclock_now(clock);
		usleep(20000);
		assert_int_equal(vclock_now(clock), stood);
	}
	print_message("# worst error: %lld ns, flags %#x\n", (long long)worst,
		      page.flags);
	assert_true(worst < NSEC_PER_MSEC);
	rig_free(rig);
	vclock_destroy(clock);
}

static void f1_the_tsc_does_not_jump(void **state)
{
	struct vclock *clock = vclock_create(&real_host, clock_tsc_khz());
	struct rig *rig = rig_make_clocked(&accel_kvm, guest_spin,
					   UNMAPPED_IGNORE, clock);
	struct x86_state *st = aligned_alloc(64, sizeof(*st));
	int64_t off, limit = (int64_t)clock_tsc_khz();
	bool is_offset = has_tsc_offset();

	if (!is_offset)
		print_message("# this KVM shows guests the host's TSC\n");
	for (int i = 0; i < 5; i++) {
		vclock_start(clock, false);
		vcpus_resume(&rig->vs);
		wait_for_count(rig);
		vcpus_pause(&rig->vs);
		assert_int_equal(vcpu_get_state(&rig->vs.vcpu[0], st), 0);
		off = st->tsc_offset - vclock_tsc_offset(clock);
		if (is_offset)
			assert_in_range(off + limit, 0, 2 * limit); /* 1 ms */
		vclock_stop(clock);
		usleep(100000);
	}
	free(st);
	rig_free(rig);
	vclock_destroy(clock);
}

static bool is_usable(void)
{
	struct err err = { "", "" };

	return accel_kvm.probe(&err) > 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(c1_ports_and_string_io),
		cmocka_unit_test(c1_ports_with_user_space_chips),
		cmocka_unit_test(c15_doorbells_do_not_leave_the_kernel),
		cmocka_unit_test(c16_an_eventfd_raises_the_interrupt),
		cmocka_unit_test(b10_rom_ignores_writes),
		cmocka_unit_test(b9_unmapped_access_kills_when_told_to),
		cmocka_unit_test(f7_a_spinning_guest_pauses_and_resumes),
		cmocka_unit_test(g17_state_set_is_state_got),
		cmocka_unit_test(
			f2_kvm_clock_follows_the_machine_through_pauses),
		cmocka_unit_test(f1_the_tsc_does_not_jump),
	};

	if (!is_usable()) {
		printf("1..0 # SKIP no usable /dev/kvm\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
