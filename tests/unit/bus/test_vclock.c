#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bus/vclock.h"
#include "state/stream.h"

#define TSC_KHZ 2000000 /* two ticks a nanosecond */

/* A host whose time moves when told to. */
struct fake_host {
	int64_t ns;
	int64_t armed;
	unsigned nr_arms;
};

static int64_t fake_now(void *opaque)
{
	return ((struct fake_host *)opaque)->ns;
}

static uint64_t fake_tsc(void *opaque)
{
	return 5000 + 2 * (uint64_t)((struct fake_host *)opaque)->ns;
}

static void fake_arm(void *opaque, int64_t host_ns)
{
	struct fake_host *h = opaque;

	h->armed = host_ns;
	h->nr_arms++;
}

struct fixture {
	struct fake_host host;
	struct vclock *clock;
	unsigned nr_fired;
	int64_t fired_at;
	char order[16];
};

static struct vclock *new_clock(struct fake_host *host, int64_t ns)
{
	struct vclock_host ops = { fake_now, fake_arm, fake_tsc, host };

	host->ns = ns;
	host->armed = INT64_MAX;
	return vclock_create(&ops, TSC_KHZ);
}

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.clock = new_clock(&f.host, 1000000);
	*state = &f;
	return f.clock ? 0 : -1;
}

static int teardown(void **state)
{
	vclock_destroy(((struct fixture *)*state)->clock);
	return 0;
}

/* Let (ns) pass on the host, and its timer go off. */
static void pass(struct fixture *f, int64_t ns)
{
	int64_t until = f->host.ns + ns;

	while (f->host.armed <= until) {
		f->host.ns =
			f->host.armed > f->host.ns ? f->host.armed : f->host.ns;
		f->host.armed = INT64_MAX;
		vclock_expire(f->clock);
	}
	f->host.ns = until;
}

static void f1_stands_still_while_stopped(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vclock_now(f->clock), 0);
	pass(f, 500);
	assert_int_equal(vclock_now(f->clock), 0);
	assert_int_equal(vclock_tsc(f->clock), 0);
	vclock_start(f->clock, false);
	assert_true(vclock_is_running(f->clock));
	pass(f, 100);
	assert_int_equal(vclock_now(f->clock), 100);
	assert_int_equal(vclock_tsc(f->clock), 200);
	assert_int_equal(
		vclock_tsc_offset(f->clock) + (int64_t)fake_tsc(&f->host), 200);
	vclock_stop(f->clock);
	pass(f, 10 * NSEC_PER_SEC);
	assert_int_equal(vclock_now(f->clock), 100);
	assert_int_equal(vclock_tsc(f->clock), 200);
	vclock_start(f->clock, false);
	pass(f, 1);
	assert_int_equal(vclock_now(f->clock), 101);
	assert_int_equal(vclock_tsc(f->clock), 202);
}

static void f1_catches_up_when_asked(void **state)
{
	struct fixture *f = *state;

	vclock_start(f->clock, true);
	assert_int_equal(vclock_now(f->clock), 0);
	pass(f, 100);
	vclock_stop(f->clock);
	pass(f, 10 * NSEC_PER_SEC);
	vclock_start(f->clock, true);
	assert_int_equal(vclock_now(f->clock), 10 * NSEC_PER_SEC + 100);
	assert_int_equal(vclock_tsc(f->clock), 2 * (10 * NSEC_PER_SEC + 100));
}

static void counters_of_a_rate(void **state)
{
	struct fixture *f = *state;

	vclock_start(f->clock, false);
	pass(f, 3600 * NSEC_PER_SEC);
	assert_int_equal(vclock_ticks(f->clock, 1193182), 1193182ULL * 3600);
	assert_int_equal(vclock_ticks(f->clock, NSEC_PER_SEC),
			 3600 * NSEC_PER_SEC);
	assert_int_equal(vclock_tsc_khz(f->clock), TSC_KHZ);
}

static void tsc_deadlines_in_nanoseconds(void **state)
{
	struct fixture *f = *state;

	vclock_start(f->clock, false);
	pass(f, 1000);
	assert_int_equal(vclock_tsc_to_ns(f->clock, 2000), 1000);
	assert_int_equal(vclock_tsc_to_ns(f->clock, 2001),
			 1001); /* not early */
	assert_int_equal(vclock_tsc_to_ns(f->clock, 4000), 2000);
	assert_int_equal(vclock_tsc_to_ns(f->clock, 0), 0);
	assert_true(vclock_tsc_to_ns(f->clock, UINT64_MAX) > INT64_MAX / 2);
}

static void fire(void *opaque)
{
	struct fixture *f = opaque;

	f->nr_fired++;
	f->fired_at = vclock_now(f->clock);
}

static void timers_fire_once_and_on_time(void **state)
{
	struct fixture *f = *state;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct vtimer t;

	vtimer_init(f->clock, &t, fire, f, &lock);
	vtimer_arm(f->clock, &t, 500); /* stopped: nothing to tell the host */
	assert_int_equal(f->host.armed, INT64_MAX);
	vclock_start(f->clock, false);
	assert_int_equal(f->host.armed, 1000500);
	pass(f, 499);
	assert_int_equal(f->nr_fired, 0);
	pass(f, 1);
	assert_int_equal(f->nr_fired, 1);
	assert_int_equal(f->fired_at, 500);
	assert_false(t.is_armed);
	pass(f, 10000);
	assert_int_equal(f->nr_fired, 1);
	/* In the past: at once. */
	vtimer_arm(f->clock, &t, 7);
	pass(f, 0);
	assert_int_equal(f->nr_fired, 2);
}

static void timers_move_and_go(void **state)
{
	struct fixture *f = *state;
	struct vtimer t;

	vtimer_init(f->clock, &t, fire, f, NULL);
	vclock_start(f->clock, false);
	vtimer_arm(f->clock, &t, 100);
	vtimer_arm(f->clock, &t, 300);
	pass(f, 200);
	assert_int_equal(f->nr_fired, 0);
	vtimer_disarm(f->clock, &t);
	vtimer_disarm(f->clock, &t);
	pass(f, 1000);
	assert_int_equal(f->nr_fired, 0);
	vtimer_arm(f->clock, &t, INT64_MAX);
	vtimer_arm(f->clock, &t, INT64_MIN);
	pass(f, 0);
	assert_int_equal(f->nr_fired, 1);
}

static void f7_timers_wait_for_a_paused_machine(void **state)
{
	struct fixture *f = *state;
	struct vtimer t;

	vtimer_init(f->clock, &t, fire, f, NULL);
	vclock_start(f->clock, false);
	vtimer_arm(f->clock, &t, 1000);
	pass(f, 400);
	vclock_stop(f->clock);
	assert_int_equal(f->host.armed, INT64_MAX);
	pass(f, 5000);
	vclock_expire(f->clock);
	assert_int_equal(f->nr_fired, 0);
	vclock_start(f->clock, false);
	pass(f, 599);
	assert_int_equal(f->nr_fired, 0);
	pass(f, 1);
	assert_int_equal(f->nr_fired, 1);
}

struct ordered {
	struct fixture *f;
	struct vtimer t;
	char letter;
};

static void fire_letter(void *opaque)
{
	struct ordered *o = opaque;

	o->f->order[strlen(o->f->order)] = o->letter;
}

static void timers_fire_in_order(void **state)
{
	static const int64_t deadlines[] = { 50, 10, 90, 50, 20 };
	struct fixture *f = *state;
	struct ordered o[5];

	for (unsigned i = 0; i < 5; i++) {
		o[i] = (struct ordered){ .f = f, .letter = (char)('a' + i) };
		vtimer_init(f->clock, &o[i].t, fire_letter, &o[i], NULL);
		vtimer_arm(f->clock, &o[i].t, deadlines[i]);
	}
	vclock_start(f->clock, false);
	pass(f, 100);
	assert_string_equal(f->order, "beadc");
}

static struct vtimer storm_timer;

static void rearm_in_the_past(void *opaque)
{
	struct fixture *f = opaque;

	f->nr_fired++;
	vtimer_arm(f->clock, &storm_timer, 0);
}

static void endless_timer_lets_go(void **state)
{
	struct fixture *f = *state;

	vtimer_init(f->clock, &storm_timer, rearm_in_the_past, f, NULL);
	vclock_start(f->clock, false);
	vtimer_arm(f->clock, &storm_timer, 0);
	vclock_expire(f->clock);
	assert_in_range(f->nr_fired, 1, 1000);
	assert_true(f->host.armed <= f->host.ns); /* and comes back */
}

static void f2_saved_and_loaded_time_continues(void **state)
{
	struct fixture *f = *state;
	struct fixture g = { 0 };
	struct vtimer t, u, off;
	struct stream s, l;

	g.clock = new_clock(&g.host, 77);
	vtimer_init(f->clock, &t, fire, f, NULL);
	vtimer_init(f->clock, &off, fire, f, NULL);
	vtimer_init(g.clock, &u, fire, &g, NULL);
	vclock_start(f->clock, false);
	pass(f, 1000);
	vtimer_arm(f->clock, &t, 1500);
	vclock_stop(f->clock);

	stream_init_save(&s);
	assert_int_equal(vclock_save(f->clock, &s), 0);
	vtimer_state(f->clock, &t, &s);
	vtimer_state(f->clock, &off, &s);
	assert_int_equal(stream_error(&s), 0);

	stream_init_load(&l, s.data, s.len);
	assert_int_equal(vclock_load(g.clock, &l), 0);
	vtimer_state(g.clock, &u, &l);
	assert_true(u.is_armed);
	vtimer_state(g.clock, &off, &l);
	assert_false(off.is_armed);
	assert_int_equal(stream_error(&l), 0);
	assert_int_equal(vclock_now(g.clock), 1000);
	assert_int_equal(vclock_tsc(g.clock), 2000);
	pass(&g, 12345);
	vclock_start(g.clock, true);
	pass(&g, 499);
	assert_int_equal(g.nr_fired, 0);
	pass(&g, 1);
	assert_int_equal(g.nr_fired, 1);
	assert_int_equal(g.fired_at, 1500);
	assert_int_equal(vclock_tsc(g.clock), 3000);

	for (size_t n = 0; n < 36; n++) {
		vclock_stop(g.clock);
		stream_init_load(&l, s.data, n);
		assert_int_equal(vclock_load(g.clock, &l), -EINVAL);
	}
	assert_int_equal(vclock_now(g.clock), 1500);
	stream_finish(&s);
	vclock_destroy(g.clock);
}

/* One thread expires, another arms and disarms with the timer's lock held: a
 * call may only come while the timer was left armed. */
struct race {
	struct fake_host host;
	struct vclock *clock;
	pthread_mutex_t lock;
	struct vtimer t;
	bool may_fire; /* under the lock */
	unsigned nr_fired, nr_bad;
	int is_stopping; /* atomic */
};

static void race_fire(void *opaque)
{
	struct race *r = opaque;

	r->nr_fired++;
	r->nr_bad += !r->may_fire;
}

static void *race_main(void *opaque)
{
	struct race *r = opaque;

	while (!__atomic_load_n(&r->is_stopping, __ATOMIC_RELAXED))
		vclock_expire(r->clock);
	return NULL;
}

static void disarm_against_expire(void **state)
{
	struct race r = { 0 };
	pthread_t thread;

	r.clock = new_clock(&r.host, 1000);
	pthread_mutex_init(&r.lock, NULL);
	vtimer_init(r.clock, &r.t, race_fire, &r, &r.lock);
	vclock_start(r.clock, false);
	assert_int_equal(pthread_create(&thread, NULL, race_main, &r), 0);
	for (unsigned i = 0; i < 20000; i++) {
		pthread_mutex_lock(&r.lock);
		r.may_fire = true;
		vtimer_arm(r.clock, &r.t, 0);
		pthread_mutex_unlock(&r.lock);
		if (i % 64 == 0)
			usleep(1);
		pthread_mutex_lock(&r.lock);
		vtimer_disarm(r.clock, &r.t);
		r.may_fire = false;
		pthread_mutex_unlock(&r.lock);
	}
	__atomic_store_n(&r.is_stopping, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(r.nr_bad, 0);
	assert_true(r.nr_fired > 0);
	pthread_mutex_destroy(&r.lock);
	vclock_destroy(r.clock);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(f1_stands_still_while_stopped),
		T(f1_catches_up_when_asked),
		T(counters_of_a_rate),
		T(tsc_deadlines_in_nanoseconds),
		T(timers_fire_once_and_on_time),
		T(timers_move_and_go),
		T(f7_timers_wait_for_a_paused_machine),
		T(timers_fire_in_order),
		T(endless_timer_lets_go),
		T(f2_saved_and_loaded_time_continues),
		T(disarm_against_expire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
