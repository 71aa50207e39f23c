/* The life of a machine, with a processor made of letters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "host/thread.h"
#include "machine/vm.h"
#include "toy.h"

#define COUNTER 0x100000 /* where '+' counts */
#define ADDR(a) \
	(char)(a), (char)((a) >> 8), (char)((a) >> 16), (char)((a) >> 24)

static const char count_forever[] = { '+', ADDR(COUNTER) };
static const char loop_forever[] = { 'L' };

struct fixture {
	struct vm *vm;
	struct vm_config config;
	int fd;
	char path[32];
	pthread_t thread;
	struct vm_outcome outcome;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fd = -1;
	f->config = (struct vm_config){
		.mem_size = 16 * MiB,
		.kernel = f->path,
		.accel_ops = &accel_toy,
	};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vm_destroy(f->vm);
	if (f->fd >= 0)
		close(f->fd);
	free(f);
	return 0;
}

static void make(struct fixture *f, const void *program, size_t len)
{
	struct err err = { .what = "" };

	f->fd = toy_kernel(f->path, program, len);
	if (vm_create(&f->vm, &f->config, &err))
		fail_msg("%s", err.what);
	assert_int_equal(vm_status(f->vm), VM_CREATED);
}

/* Run (program) until it ends by itself. */
static struct vm_outcome run(struct fixture *f, const void *program, size_t len)
{
	make(f, program, len);
	return vm_run(f->vm, false);
}

static void *run_thread(void *opaque)
{
	struct fixture *f = opaque;

	f->outcome = vm_run(f->vm, false);
	return NULL;
}

static void run_in_thread(struct fixture *f, const void *program, size_t len)
{
	make(f, program, len);
	assert_int_equal(pthread_create(&f->thread, NULL, run_thread, f), 0);
}

static void join(struct fixture *f)
{
	assert_int_equal(pthread_join(f->thread, NULL), 0);
	assert_int_equal(vm_status(f->vm), VM_ENDED);
}

static uint64_t executed(struct fixture *f)
{
	return __atomic_load_n(&f->vm->cpus.vcpu[0].stats.instructions,
			       __ATOMIC_RELAXED);
}

/* Wait until the CPU has done more than (than) letters. */
static void wait_for(struct fixture *f, uint64_t than)
{
	for (int i = 0; i < 5000 && executed(f) <= than; i++)
		usleep(1000);
	assert_true(executed(f) > than);
}

/*
 * Ends
 */

static void a35_power_off_ends_with_0(void **state)
{
	static const char program[] = { 'O', 0x05, 0x06, 0x20, 'L' };
	struct vm_outcome o = run(*state, program, sizeof(program));

	assert_int_equal(o.end, VM_END_POWEROFF);
	assert_int_equal(o.code, 0);
}

static void a35_debug_exit_chooses_the_code(void **state)
{
	static const char program[] = { 'O', 0x01, 0x05, 5, 'L' };
	static const char *const devices[] = { "isa-debug-exit" };
	struct fixture *f = *state;
	struct vm_outcome o;

	f->config.devices = devices;
	f->config.nr_devices = 1;
	o = run(f, program, sizeof(program));

	assert_int_equal(o.end, VM_END_EXIT);
	assert_int_equal(o.code, 11);
}

static void a35_panic_ends_with_110(void **state)
{
	static const char program[] = { 'O', 0x05, 0x05, 1, 'L' };
	struct vm_outcome o = run(*state, program, sizeof(program));

	assert_int_equal(o.end, VM_END_PANIC);
	assert_int_equal(o.code, 110);
	assert_true(o.text[0]);
}

static void a15_triple_fault_ends_with_111(void **state)
{
	struct vm_outcome o = run(*state, "T", 1);

	assert_int_equal(o.end, VM_END_TRIPLE_FAULT);
	assert_int_equal(o.code, 111);
	assert_string_equal(o.text, "CPU 0: triple fault");
}

static void b9_unmapped_ends_with_the_address(void **state)
{
	struct vm_outcome o = run(*state, "U", 1);

	assert_int_equal(o.end, VM_END_ERROR);
	assert_int_equal(o.code, 125);
	assert_non_null(strstr(o.text, "0xfd000000"));
}

static void a35_accelerator_error_ends_with_125(void **state)
{
	struct vm_outcome o = run(*state, "E", 1);

	assert_int_equal(o.end, VM_END_ERROR);
	assert_int_equal(o.code, 125);
	assert_non_null(strstr(o.text, "bad letter"));
}

/* A guest that asked for its end does not go on. */
static void a35_nothing_runs_behind_power_off(void **state)
{
	static const char program[] = { 'O',  0x05, 0x06,
					0x20, '+',  ADDR(COUNTER) };
	struct fixture *f = *state;

	f->config.cpus.cores = 2;
	run(f, program, sizeof(program));
	assert_int_equal(*(uint8_t *)gmem_at(&f->vm->mem, COUNTER, 1), 0);
}

struct late_resume {
	struct vm *vm;
	struct loop_work work;
	int paused, resumed;
};

/* On the main loop, which therefore does not hear of the power-off before. */
static void power_off_and_resume(void *opaque)
{
	struct late_resume *late = opaque;
	struct vm *vm = late->vm;
	const struct x86_state *st = vm->cpus.vcpu[0].accel;
	uint32_t events = 0;

	*(uint8_t *)gmem_at(&vm->mem, st->rip, 1) = 'O';
	for (int i = 0; i < 5000 && !(events & BIT(MACHINE_POWEROFF)); i++) {
		usleep(1000);
		pthread_mutex_lock(&vm->event_lock);
		events = vm->events;
		pthread_mutex_unlock(&vm->event_lock);
	}
	late->paused = vm_pause(vm);
	late->resumed = vm_resume(vm);
}

static void a35_nothing_is_resumed_behind_power_off(void **state)
{
	/* The L becomes an O. */
	static const char program[] = { 'L',  0x05, 0x06,
					0x20, '+',  ADDR(COUNTER) };
	struct fixture *f = *state;
	struct late_resume late = {
		.work = { .fn = power_off_and_resume, .opaque = &late },
	};

	run_in_thread(f, program, sizeof(program));
	wait_for(f, 0);
	late.vm = f->vm;
	loop_post(f->vm->loop, &late.work);
	join(f);
	assert_int_equal(f->outcome.end, VM_END_POWEROFF);
	assert_int_equal(late.paused, 0);
	assert_int_equal(late.resumed, -EINVAL);
	assert_int_equal(*(uint8_t *)gmem_at(&f->vm->mem, COUNTER, 1), 0);
}

/*
 * Reset
 */

static void a35_reset_while_running(void **state)
{
	struct fixture *f = *state;

	run_in_thread(f, count_forever, sizeof(count_forever));
	for (int i = 0; i < 3; i++) {
		struct err err = { .what = "" };

		wait_for(f, executed(f) + 100);
		assert_int_equal(vm_reset(f->vm, &err), 0);
		assert_int_equal(vm_status(f->vm), VM_RUNNING);
	}
	wait_for(f, executed(f) + 100);
	assert_int_equal(f->vm->nr_resets, 3);
	vm_quit(f->vm, 7);
	join(f);
	assert_int_equal(f->outcome.code, 7);
	assert_int_equal(f->outcome.end, VM_END_QUIT);
}

/* The program destroys a part of itself, which it needs and a reset restores,
 * and resets the machine, again and again. */
static void a35_reset_reloads_the_kernel(void **state)
{
	static const char program[] = {
		/* 200: */ '?', ADDR(0x200240), 'k',
		/* 206: */ '=', ADDR(0x200240), 'X',
		/* 20c: */ '=', ADDR(0x200300), 'T',
		/* 212: */ 'O', (char)0xf9,     0x0c, 0x06,
		/* 216: */ 'L', [0x40] = 'k',
	};
	struct fixture *f = *state;

	run_in_thread(f, program, sizeof(program));
	while (__atomic_load_n(&f->vm->nr_resets, __ATOMIC_RELAXED) < 5)
		usleep(1000);
	vm_quit(f->vm, 0);
	join(f);
	/* A triple fault would have been "k" not being there. */
	assert_int_equal(f->outcome.end, VM_END_QUIT);
}

static void a35_reset_can_end_the_machine(void **state)
{
	static const char program[] = { 'O', (char)0xf9, 0x0c, 0x06, 'L' };
	struct fixture *f = *state;
	struct vm_outcome o;

	f->config.end_on_reset = true;
	o = run(f, program, sizeof(program));
	assert_int_equal(o.end, VM_END_RESET);
	assert_int_equal(o.code, 111);
}

static void a35_keyboard_controller_resets(void **state)
{
	static const char program[] = { 'O', 0x64, 0x00, (char)0xfe, 'L' };
	struct fixture *f = *state;

	f->config.end_on_reset = true;
	assert_int_equal(run(f, program, sizeof(program)).end, VM_END_RESET);
}

/* The file went bad meanwhile: the reset says so and the machine ends. */
static void a35_reset_without_a_kernel_ends(void **state)
{
	struct fixture *f = *state;
	struct err err = { .what = "" };

	run_in_thread(f, loop_forever, 1);
	wait_for(f, 0);
	assert_int_equal(ftruncate(f->fd, 100), 0);
	assert_true(vm_reset(f->vm, &err) < 0);
	assert_non_null(strstr(err.what, "truncated"));
	join(f);
	assert_int_equal(f->outcome.end, VM_END_ERROR);
	assert_int_equal(f->outcome.code, 125);
}

/*
 * Pause
 */

static void f7_pause_stops_cpus_and_time(void **state)
{
	struct fixture *f = *state;
	int64_t now;
	uint64_t done;

	f->config.cpus.cores = 4;
	run_in_thread(f, count_forever, sizeof(count_forever));
	for (int i = 0; i < 20; i++) {
		wait_for(f, executed(f));
		assert_int_equal(vm_pause(f->vm), 0);
		assert_int_equal(vm_status(f->vm), VM_PAUSED);
		assert_int_equal(vm_pause(f->vm), 0);
		now = vclock_now(f->vm->clock);
		done = executed(f);
		usleep(2000);
		assert_int_equal(vclock_now(f->vm->clock), now);
		assert_int_equal(executed(f), done);
		assert_int_equal(vm_powerbutton(f->vm), -EINVAL);
		assert_int_equal(vm_resume(f->vm), 0);
		assert_int_equal(vm_resume(f->vm), 0);
		assert_int_equal(vm_status(f->vm), VM_RUNNING);
		/* Without catching up, the pause never was. */
		assert_true(vclock_now(f->vm->clock) - now < NSEC_PER_SEC);
	}
	assert_int_equal(vm_powerbutton(f->vm), 0);
	vm_quit(f->vm, 0);
	join(f);
	assert_int_equal(vm_pause(f->vm), -EINVAL);
	assert_int_equal(vm_resume(f->vm), -EINVAL);
	assert_int_equal(vm_reset(f->vm, NULL), -EINVAL);
	assert_int_equal(vm_powerbutton(f->vm), -EINVAL);
}

static void *start_paused(void *opaque)
{
	struct fixture *f = opaque;

	f->outcome = vm_run(f->vm, true);
	return NULL;
}

static void a35_starts_paused(void **state)
{
	struct fixture *f = *state;

	make(f, loop_forever, 1);
	assert_int_equal(pthread_create(&f->thread, NULL, start_paused, f), 0);
	while (vm_status(f->vm) != VM_PAUSED)
		usleep(100);
	usleep(5000);
	assert_int_equal(executed(f), 0);
	assert_int_equal(vm_resume(f->vm), 0);
	wait_for(f, 0);
	/* A reset keeps a paused machine paused. */
	assert_int_equal(vm_pause(f->vm), 0);
	assert_int_equal(vm_reset(f->vm, NULL), 0);
	assert_int_equal(vm_status(f->vm), VM_PAUSED);
	vm_quit(f->vm, 3);
	join(f);
	assert_int_equal(f->outcome.code, 3);
}

/* Many threads want different things; the machine survives it. */
static void *pester(void *opaque)
{
	struct fixture *f = opaque;
	unsigned seed = (unsigned)(uintptr_t)&seed;

	for (int i = 0; i < 60; i++) {
		switch (rand_r(&seed) % 4) {
		case 0:
			vm_pause(f->vm);
			break;
		case 1:
			vm_reset(f->vm, NULL);
			break;
		case 2:
			vm_powerbutton(f->vm);
			break;
		default:
			vm_resume(f->vm);
		}
	}
	return NULL;
}

static void a35_commands_from_many_threads(void **state)
{
	/* Resets itself all the time, too. */
	static const char program[] = { '=',        ADDR(COUNTER), 1,    'O',
					(char)0xf9, 0x0c,          0x06, 'L' };
	struct fixture *f = *state;
	pthread_t thread[4];

	f->config.cpus.cores = 2;
	run_in_thread(f, program, sizeof(program));
	wait_for(f, 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, pester, f),
				 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	vm_quit(f->vm, 0);
	join(f);
	assert_int_equal(f->outcome.end, VM_END_QUIT);
}

static void a35_quit_before_it_runs(void **state)
{
	struct fixture *f = *state;

	make(f, loop_forever, 1);
	vm_quit(f->vm, 9);
	assert_int_equal(vm_run(f->vm, false).code, 9);
	assert_int_equal(vm_run(f->vm, false).code, 9);
}

static void a35_destroyed_without_a_run(void **state)
{
	make(*state, loop_forever, 1);
}

/*
 * Several, and failures
 */

static void a20_two_machines_in_one_process(void **state)
{
	static const char a[] = { '=', ADDR(0x1000), 'A', '+', ADDR(COUNTER) };
	static const char b[] = { '=', ADDR(0x1000), 'B', '+', ADDR(COUNTER) };
	struct fixture *f = *state, *g;
	void *second;

	setup(&second);
	g = second;
	run_in_thread(f, a, sizeof(a));
	run_in_thread(g, b, sizeof(b));
	wait_for(f, 100);
	wait_for(g, 100);
	vm_quit(f->vm, 1);
	join(f);
	wait_for(g, executed(g) + 100); /* it goes on */
	vm_quit(g->vm, 2);
	join(g);
	assert_int_equal(*(char *)gmem_at(&f->vm->mem, 0x1000, 1), 'A');
	assert_int_equal(*(char *)gmem_at(&g->vm->mem, 0x1000, 1), 'B');
	teardown(&second);
}

static void a35_what_cannot_be_built(void **state)
{
	static const char *const stdio[] = { "none", "none", "none", "none",
					     "none" };
	static const char *const device[] = { "virtio-blob" };
	static const char *const options[] = { "virtio-rng,colour=red" };
	static const struct blk_options disk = { .path = "/nonexistent/disk" };
	struct fixture *f = *state;
	struct vm_config good = f->config, c;
	struct err err;

#define FAILS(word)                                                     \
	do {                                                            \
		err = (struct err){ .what = "" };                       \
		assert_true(vm_create(&f->vm, &c, &err) < 0);           \
		assert_null(f->vm);                                     \
		if (!strstr(err.what, word))                            \
			fail_msg("'%s' is not in: %s", word, err.what); \
		c = good;                                               \
	} while (0)

	f->fd = toy_kernel(f->path, "L", 1);
	c = good;
	c.mem_size = 4095;
	FAILS("4095 bytes");
	c.cpus.sockets = 65;
	FAILS("more than 64 CPUs");
	c.cpus = (struct cpu_topology){ 1U << 31, 1U << 31, 4 };
	FAILS("more than 64 CPUs");
	c.kernel = NULL;
	FAILS("nothing to boot");
	c.kernel = "/etc/passwd";
	FAILS("/etc/passwd");
	c.serials = stdio;
	c.nr_serials = 5;
	FAILS("4 serial ports");
	c.devices = device;
	c.nr_devices = 1;
	FAILS("virtio-blob");
	c.devices = options;
	c.nr_devices = 1;
	FAILS("colour");
	c.disks = &disk;
	c.nr_disks = 1;
	FAILS("/nonexistent/disk");
	c.accel_ops = NULL;
	c.accel = "interp";
	c.accel_options.check = true;
	FAILS("for accelerator bt");
	c.accel_ops = NULL;
	c.accel = "tcg";
	FAILS("no accelerator 'tcg'");
}

/*
 * The recipe
 */

static void find_owner(void *opaque, const struct bus_range *r)
{
	if (r->base == MEM_VGA && r->len == MEM_VGA_SIZE)
		*(bool *)opaque = true;
}

static void b15_ranges_have_owners(void **state)
{
	static const uint16_t ports[] = { 0x20,  0x21,  0x40,  0x43,  0x60,
					  0x64,  0x70,  0x71,  0xa0,  0xa1,
					  0x2e8, 0x2f8, 0x3e8, 0x3f8, 0x3ff,
					  0x4d0, 0x505, 0x510, 0x600, 0xcf8,
					  0xcfc };
	static const uint64_t gpas[] = { MEM_VGA, MEM_ECAM, MEM_IOAPIC,
					 MEM_HPET, MEM_LAPIC };
	struct fixture *f = *state;
	bool has_vga = false;

	make(f, loop_forever, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++)
		if (!bus_is_mapped(f->vm->pio, ports[i]))
			fail_msg("port 0x%x has no owner", ports[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(gpas); i++)
		assert_true(bus_is_mapped(f->vm->mmio, gpas[i]));
	assert_int_equal(bus_read(f->vm->mmio, 0, MEM_VGA + 7, 4), UINT32_MAX);
	assert_true(bus_write(f->vm->mmio, 0, MEM_VGA, 4, 1));
	bus_for_each(f->vm->mmio, find_owner, &has_vga);
	assert_true(has_vga);
}

static void f12_pci_functions(void **state)
{
	static const char *const devices[] = { "virtio-rng", "virtio-rng" };
	struct fixture *f = *state;
	struct pci_bus *pci;

	f->config.devices = devices;
	f->config.nr_devices = 2;
	make(f, loop_forever, 1);
	pci = f->vm->pci;
	assert_int_equal(pci_config_read(pci, 0, 0, 4), 0x29c08086);
	assert_int_equal(pci_config_read(pci, 31 << 3, 0, 4), 0x29188086);
	/* Root ports have been given their bus numbers. */
	assert_int_equal(pci_config_read(pci, 28 << 3, PCI_SECONDARY_BUS, 1),
			 1);
	assert_int_equal(
		pci_config_read(pci, (28 << 3) + 2, PCI_SECONDARY_BUS, 1), 3);
	for (uint16_t slot = 1; slot <= 2; slot++) {
		assert_int_equal(pci_config_read(pci, slot << 3, 0, 4),
				 0x10441af4);
		assert_true(pci_config_read(pci, slot << 3, PCI_COMMAND, 2) &
			    PCI_COMMAND_MEMORY);
	}
	assert_non_null(vm_find_device(f->vm, "virtio-rng"));
	assert_non_null(vm_find_device(f->vm, "virtio-rng-1"));
	assert_null(vm_find_device(f->vm, "virtio-rng-2"));
}

/*
 * The choice of an accelerator
 */

static int64_t probe_slow(struct err *err)
{
	return 2000000;
}

static int64_t probe_fast(struct err *err)
{
	return 81000000;
}

static int64_t probe_broken(struct err *err)
{
	return err_set(err, ENOENT, "load the module",
		       "broken: cannot open /dev/broken");
}

static void a13_auto_measures_and_says_why(void **state)
{
	static const struct accel_ops slow = { "slow", .probe = probe_slow },
				      fast = { "fast", .probe = probe_fast },
				      broken = { "broken",
						 .probe = probe_broken };
	const struct accel_ops *all[] = { &broken, &slow, &fast, NULL }, *ops;
	const struct accel_ops *none[] = { &broken, NULL };
	struct err err = { .what = "" };
	char why[200];

	assert_int_equal(accel_choose(&ops, NULL, all, why, sizeof(why), &err),
			 0);
	assert_ptr_equal(ops, &fast);
	assert_string_equal(why, "fast, 81 M instructions/s (broken: cannot "
				 "open /dev/broken; slow: 2.0 M "
				 "instructions/s)");
	assert_int_equal(
		accel_choose(&ops, "slow", all, why, sizeof(why), &err), 0);
	assert_ptr_equal(ops, &slow);
	assert_string_equal(why, "");
	assert_int_equal(
		accel_choose(&ops, "broken", all, why, sizeof(why), &err),
		-ENOENT);
	assert_string_equal(err.hint, "load the module");
	err.what[0] = 0;
	assert_int_equal(
		accel_choose(&ops, "auto", none, why, sizeof(why), &err),
		-ENODEV);
	assert_non_null(strstr(err.what, "/dev/broken"));
	err.what[0] = 0;
	assert_int_equal(accel_choose(&ops, "bt", all, why, sizeof(why), &err),
			 -EINVAL);
	assert_non_null(strstr(err.hint, "interp"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a35_power_off_ends_with_0),
		T(a35_debug_exit_chooses_the_code),
		T(a35_panic_ends_with_110),
		T(a15_triple_fault_ends_with_111),
		T(b9_unmapped_ends_with_the_address),
		T(a35_accelerator_error_ends_with_125),
		T(a35_nothing_runs_behind_power_off),
		T(a35_nothing_is_resumed_behind_power_off),
		T(a35_reset_while_running),
		T(a35_reset_reloads_the_kernel),
		T(a35_reset_can_end_the_machine),
		T(a35_keyboard_controller_resets),
		T(a35_reset_without_a_kernel_ends),
		T(f7_pause_stops_cpus_and_time),
		T(a35_starts_paused),
		T(a35_commands_from_many_threads),
		T(a35_quit_before_it_runs),
		T(a35_destroyed_without_a_run),
		T(a20_two_machines_in_one_process),
		T(a35_what_cannot_be_built),
		T(b15_ranges_have_owners),
		T(f12_pci_functions),
		cmocka_unit_test(a13_auto_measures_and_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
