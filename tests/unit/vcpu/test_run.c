/* Threads of virtual CPUs with an accelerator that only counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <unistd.h>

#include "vcpu/vcpu.h"

/* What the fake CPU does in run(). */
enum fake_mode { FAKE_SPIN, FAKE_HLT, FAKE_SHUTDOWN, FAKE_ERROR };

struct fake {
	enum fake_mode mode;
	int fail_cpu; /* vcpu_create fails for it */
	_Atomic unsigned live, runs, wakes;
	_Atomic int shutdowns;
	_Atomic enum exit_reason last;
};

static int fake_vm_create(struct vcpus *vs, struct err *err)
{
	return 0;
}

static void fake_vm_destroy(struct vcpus *vs)
{
}

static int fake_vcpu_create(struct vcpu *vcpu, struct err *err)
{
	struct fake *f = vcpu->set->accel;

	if ((int)vcpu->index == f->fail_cpu)
		return err_set(err, EMFILE, NULL, "no CPU %u:", vcpu->index);
	atomic_fetch_add(&f->live, 1);
	return 0;
}

static void fake_vcpu_destroy(struct vcpu *vcpu)
{
	struct fake *f = vcpu->set->accel;

	atomic_fetch_sub(&f->live, 1);
}

static int fake_run(struct vcpu *vcpu, struct exit *exit)
{
	struct fake *f = vcpu->set->accel;

	atomic_fetch_add(&f->runs, 1);
	switch (f->mode) {
	case FAKE_SPIN:
		while (!atomic_load(&vcpu->requests))
			;
		atomic_fetch_add(&f->wakes,
				 !!vcpu_take_requests(vcpu, VCPU_REQ_WAKE));
		exit->reason = EXIT_KICK;
		return 0;
	case FAKE_HLT:
		atomic_fetch_add(&f->wakes,
				 !!vcpu_take_requests(vcpu, VCPU_REQ_WAKE));
		exit->reason = EXIT_HLT;
		return 0;
	case FAKE_SHUTDOWN:
		exit->reason = EXIT_SHUTDOWN;
		return 0;
	default:
		return -EIO;
	}
}

static void fake_kick(struct vcpu *vcpu)
{
}

static int fake_get_state(struct vcpu *vcpu, struct x86_state *st)
{
	return 0;
}

static int fake_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	return 0;
}

static const struct accel_ops fake_ops = {
	.name = "fake",
	.vm_create = fake_vm_create,
	.vm_destroy = fake_vm_destroy,
	.vcpu_create = fake_vcpu_create,
	.vcpu_destroy = fake_vcpu_destroy,
	.run = fake_run,
	.kick = fake_kick,
	.get_state = fake_get_state,
	.set_state = fake_set_state,
};

static void on_shutdown(void *opaque, struct vcpu *vcpu,
			const struct exit *exit)
{
	struct fake *f = opaque;

	f->last = exit->reason;
	atomic_fetch_add(&f->shutdowns, 1);
}

static void make(struct vcpus *vs, struct fake *f, struct stats *stats,
		 enum fake_mode mode)
{
	memset(vs, 0, sizeof(*vs));
	memset(f, 0, sizeof(*f));
	f->mode = mode;
	f->fail_cpu = -1;
	stats_init(stats);
	vs->ops = &fake_ops;
	vs->accel = f;
	vs->stats = stats;
	vs->events.shutdown = on_shutdown;
	vs->events.opaque = f;
}

static void a35_pause_resume_and_stop(void **state)
{
	struct stats stats;
	struct vcpus vs;
	struct fake f;
	unsigned runs;

	make(&vs, &f, &stats, FAKE_SPIN);
	assert_int_equal(vcpus_create(&vs, 3, NULL), 0);
	assert_int_equal(atomic_load(&f.live), 3);
	assert_int_equal(atomic_load(&f.runs), 0);
	for (int i = 0; i < 200; i++) {
		vcpus_resume(&vs);
		if (i % 3)
			vcpu_request(&vs.vcpu[i % 3], VCPU_REQ_WAKE);
		vcpus_pause(&vs);
		runs = atomic_load(&f.runs);
		for (unsigned c = 0; c < 3; c++)
			assert_true(vs.vcpu[c].is_parked);
		assert_int_equal(atomic_load(&f.runs), runs);
	}
	vcpus_pause(&vs); /* twice is once */
	vcpus_destroy(&vs);
	assert_int_equal(atomic_load(&f.live), 0);
	assert_true(list_is_empty(&stats.groups));
}

/* Each wake-up of a halted CPU is answered by a run: none is lost. */
static void c14_no_wake_up_is_lost(void **state)
{
	struct stats stats;
	struct vcpus vs;
	struct fake f;
	unsigned waited = 0;

	make(&vs, &f, &stats, FAKE_HLT);
	assert_int_equal(vcpus_create(&vs, 1, NULL), 0);
	vcpus_resume(&vs);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned before = atomic_load(&f.wakes);

		vcpu_request(&vs.vcpu[0], VCPU_REQ_WAKE);
		for (waited = 0; atomic_load(&f.wakes) == before; waited++) {
			assert_true(waited < 2000000);
			sched_yield();
		}
	}
	vcpus_destroy(&vs);
}

static void a15_a_shut_down_cpu_tells_once_and_waits(void **state)
{
	struct stats stats;
	struct vcpus vs;
	struct fake f;

	make(&vs, &f, &stats, FAKE_SHUTDOWN);
	assert_int_equal(vcpus_create(&vs, 2, NULL), 0);
	vcpus_resume(&vs);
	while (atomic_load(&f.shutdowns) < 2)
		usleep(100);
	vcpu_request(&vs.vcpu[0], VCPU_REQ_WAKE);
	vcpus_pause(&vs);
	assert_int_equal(atomic_load(&f.shutdowns), 2);
	assert_int_equal(f.last, EXIT_SHUTDOWN);
	/* A new state brings it back to life. */
	f.mode = FAKE_HLT;
	vcpu_set_state(&vs.vcpu[0], NULL);
	assert_false(vs.vcpu[0].is_dead);
	vcpus_resume(&vs);
	vcpus_destroy(&vs);
}

static void host_failure_ends_the_machine(void **state)
{
	struct stats stats;
	struct vcpus vs;
	struct fake f;

	make(&vs, &f, &stats, FAKE_ERROR);
	assert_int_equal(vcpus_create(&vs, 1, NULL), 0);
	vcpus_resume(&vs);
	while (!atomic_load(&f.shutdowns))
		usleep(100);
	assert_int_equal(f.last, EXIT_ERROR);
	vcpus_destroy(&vs);
}

static void a_cpu_that_cannot_be_made_leaves_nothing(void **state)
{
	struct err err = { "", "" };
	struct stats stats;
	struct vcpus vs;
	struct fake f;

	make(&vs, &f, &stats, FAKE_SPIN);
	f.fail_cpu = 2;
	assert_int_equal(vcpus_create(&vs, 4, &err), -EMFILE);
	assert_non_null(strstr(err.what, "no CPU 2"));
	assert_int_equal(atomic_load(&f.live), 0);
	assert_null(vs.vcpu);
	assert_true(list_is_empty(&stats.groups));
	vcpus_destroy(&vs);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a35_pause_resume_and_stop),
		cmocka_unit_test(c14_no_wake_up_is_lost),
		cmocka_unit_test(a15_a_shut_down_cpu_tells_once_and_waits),
		cmocka_unit_test(host_failure_ends_the_machine),
		cmocka_unit_test(a_cpu_that_cannot_be_made_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
