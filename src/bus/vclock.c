/*
 * Guest time is host time plus an offset while the clock runs, and a constant
 * while it stands; so is the guest's TSC. Stopping turns offsets into
 * constants, starting turns them back, and with (catch_up) the offsets of
 * before the stop are simply used again.
 *
 * Timers are in one list sorted by deadline: there are few, and most are armed
 * near its front. The host's timer is told of the first deadline only when
 * that comes earlier or when what was due has been called.
 *
 * Lock order: a timer's lock, then the clock's. vclock_expire() has neither
 * when it picks a timer, and must not call one that was disarmed before it got
 * the timer's lock: it notes the timer in (picked), and whoever arms or
 * disarms that one takes the note away.
 */
#include "bus/vclock.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/log.h"
#include "base/overflow.h"
#include "state/stream.h"

#define STREAM_TAG_CLOCK STREAM_TAG('V', 'C', 'L', 'K')
#define STREAM_TAG_TIMER STREAM_TAG('V', 'T', 'I', 'M')

/* So that a guest that arms timers in the past cannot keep the thread. */
#define MAX_CALLS_PER_EXPIRE 256

struct vclock {
	struct vclock_host host;
	uint32_t tsc_khz;
	pthread_mutex_t lock;
	bool is_running;
	bool has_stopped;   /* the offsets are those of before a stop */
	int64_t ns;         /* guest time, while stopped */
	uint64_t tsc;       /* guest TSC, while stopped */
	int64_t ns_offset;  /* guest minus host, while running */
	int64_t tsc_offset; /* atomic */
	struct list timers;
	int64_t armed_ns; /* what the host was told */
	struct vtimer *picked;
};

struct vclock *vclock_create(const struct vclock_host *host, uint32_t tsc_khz)
{
	struct vclock *clock = calloc(1, sizeof(*clock));

	if (!clock)
		return NULL;
	vm_assert(tsc_khz);
	clock->host = *host;
	clock->tsc_khz = tsc_khz;
	clock->armed_ns = INT64_MAX;
	pthread_mutex_init(&clock->lock, NULL);
	list_init(&clock->timers);
	return clock;
}

void vclock_destroy(struct vclock *clock)
{
	if (!clock)
		return;
	pthread_mutex_destroy(&clock->lock);
	free(clock);
}

static int64_t now_locked(const struct vclock *clock)
{
	if (!clock->is_running)
		return clock->ns;
	return clock->host.now(clock->host.opaque) + clock->ns_offset;
}

static int64_t tsc_offset(const struct vclock *clock)
{
	return __atomic_load_n(&clock->tsc_offset, __ATOMIC_RELAXED);
}

static uint64_t tsc_locked(const struct vclock *clock)
{
	if (!clock->is_running)
		return clock->tsc;
	return clock->host.tsc(clock->host.opaque) +
	       (uint64_t)tsc_offset(clock);
}

int64_t vclock_now(struct vclock *clock)
{
	int64_t now;

	pthread_mutex_lock(&clock->lock);
	now = now_locked(clock);
	pthread_mutex_unlock(&clock->lock);
	return now;
}

uint64_t vclock_ticks(struct vclock *clock, uint64_t hz)
{
	unsigned __int128 product = (unsigned __int128)hz;

	product *= (uint64_t)vclock_now(clock);
	return (uint64_t)(product / NSEC_PER_SEC);
}

uint64_t vclock_tsc(struct vclock *clock)
{
	uint64_t tsc;

	pthread_mutex_lock(&clock->lock);
	tsc = tsc_locked(clock);
	pthread_mutex_unlock(&clock->lock);
	return tsc;
}

/* Rounded up, so that a timer set to it does not come early. */
int64_t vclock_tsc_to_ns(struct vclock *clock, uint64_t tsc)
{
	__int128 ns;

	pthread_mutex_lock(&clock->lock);
	ns = (__int128)tsc - tsc_locked(clock);
	ns = ns * 1000000 + (ns > 0 ? clock->tsc_khz - 1 : 0);
	ns = ns / clock->tsc_khz + now_locked(clock);
	pthread_mutex_unlock(&clock->lock);
	return (int64_t)MAX(MIN(ns, INT64_MAX), INT64_MIN);
}

uint32_t vclock_tsc_khz(struct vclock *clock)
{
	return clock->tsc_khz;
}

int64_t vclock_tsc_offset(struct vclock *clock)
{
	return tsc_offset(clock);
}

/* Tell the host of the first deadline, if that is news. */
static void arm_host(struct vclock *clock)
{
	int64_t host_ns = INT64_MAX;

	if (clock->is_running && !list_is_empty(&clock->timers)) {
		const struct vtimer *first =
			list_entry(clock->timers.next, struct vtimer, link);

		if (sub_overflow(first->deadline, clock->ns_offset, &host_ns))
			host_ns = first->deadline < 0 ? 0 : INT64_MAX;
		host_ns = MAX(host_ns, 0);
	}
	if (host_ns == clock->armed_ns)
		return;
	clock->armed_ns = host_ns;
	clock->host.arm(clock->host.opaque, host_ns);
}

void vclock_start(struct vclock *clock, bool catch_up)
{
	pthread_mutex_lock(&clock->lock);
	if (!clock->is_running) {
		if (!catch_up || !clock->has_stopped) {
			int64_t host_ns = clock->host.now(clock->host.opaque);
			uint64_t tsc = clock->host.tsc(clock->host.opaque);

			clock->ns_offset = clock->ns - host_ns;
			__atomic_store_n(&clock->tsc_offset,
					 (int64_t)(clock->tsc - tsc),
					 __ATOMIC_RELAXED);
		}
		clock->is_running = true;
		arm_host(clock);
	}
	pthread_mutex_unlock(&clock->lock);
}

void vclock_stop(struct vclock *clock)
{
	pthread_mutex_lock(&clock->lock);
	if (clock->is_running) {
		clock->ns = now_locked(clock);
		clock->tsc = tsc_locked(clock);
		clock->is_running = false;
		clock->has_stopped = true;
		arm_host(clock);
	}
	pthread_mutex_unlock(&clock->lock);
}

bool vclock_is_running(struct vclock *clock)
{
	bool is_running;

	pthread_mutex_lock(&clock->lock);
	is_running = clock->is_running;
	pthread_mutex_unlock(&clock->lock);
	return is_running;
}

void vtimer_init(struct vclock *clock, struct vtimer *t,
		 void (*fn)(void *opaque), void *opaque, pthread_mutex_t *lock)
{
	*t = (struct vtimer){ .fn = fn, .opaque = opaque, .lock = lock };
	list_init(&t->link);
}

static void take_out(struct vclock *clock, struct vtimer *t)
{
	list_remove(&t->link);
	t->is_armed = false;
	if (clock->picked == t)
		clock->picked = NULL;
}

void vtimer_arm(struct vclock *clock, struct vtimer *t, int64_t deadline)
{
	struct vtimer *after;

	pthread_mutex_lock(&clock->lock);
	take_out(clock, t);
	t->deadline = deadline;
	t->is_armed = true;
	list_for_each (after, &clock->timers, link) {
		if (after->deadline > deadline)
			break;
	}
	list_insert(&after->link, &t->link);
	if (clock->timers.next == &t->link)
		arm_host(clock);
	pthread_mutex_unlock(&clock->lock);
}

/* The host may wake once for nothing; that is cheaper than telling it. */
void vtimer_disarm(struct vclock *clock, struct vtimer *t)
{
	pthread_mutex_lock(&clock->lock);
	take_out(clock, t);
	pthread_mutex_unlock(&clock->lock);
}

void vtimer_state(struct vclock *clock, struct vtimer *t, struct stream *s)
{
	int64_t deadline = t->deadline;
	bool is_armed = t->is_armed;

	stream_begin(s, STREAM_TAG_TIMER, 1);
	stream_bool(s, &is_armed);
	stream_i64(s, &deadline);
	stream_end(s);
	if (!s->is_loading || stream_error(s))
		return;
	vtimer_disarm(clock, t);
	if (is_armed)
		vtimer_arm(clock, t, deadline);
}

/* Call (t), which is due, unless someone touches it before its lock is ours.
 * Takes and returns with the clock's lock held. */
static void call_timer(struct vclock *clock, struct vtimer *t)
{
	pthread_mutex_t *timer_lock = t->lock;
	bool is_still_due;

	clock->picked = t;
	pthread_mutex_unlock(&clock->lock);
	if (timer_lock)
		pthread_mutex_lock(timer_lock);
	pthread_mutex_lock(&clock->lock);
	is_still_due = clock->picked == t && clock->is_running;
	if (is_still_due)
		take_out(clock, t);
	clock->picked = NULL;
	pthread_mutex_unlock(&clock->lock);
	if (is_still_due)
		t->fn(t->opaque);
	if (timer_lock)
		pthread_mutex_unlock(timer_lock);
	pthread_mutex_lock(&clock->lock);
}

void vclock_expire(struct vclock *clock)
{
	int64_t now;

	pthread_mutex_lock(&clock->lock);
	now = now_locked(clock);
	for (unsigned i = 0; i < MAX_CALLS_PER_EXPIRE; i++) {
		struct vtimer *first =
			list_entry(clock->timers.next, struct vtimer, link);

		if (!clock->is_running || list_is_empty(&clock->timers) ||
		    first->deadline > now)
			break;
		call_timer(clock, first);
	}
	/* The host's timer has gone off; whatever it was told is used up. */
	clock->armed_ns = -1;
	arm_host(clock);
	pthread_mutex_unlock(&clock->lock);
}

int vclock_save(struct vclock *clock, struct stream *s)
{
	int64_t ns;
	uint64_t tsc;
	uint32_t khz = clock->tsc_khz;

	vm_assert(!vclock_is_running(clock));
	ns = vclock_now(clock);
	tsc = vclock_tsc(clock);
	stream_begin(s, STREAM_TAG_CLOCK, 1);
	stream_i64(s, &ns);
	stream_u64(s, &tsc);
	stream_u32(s, &khz);
	stream_end(s);
	return stream_error(s);
}

int vclock_load(struct vclock *clock, struct stream *s)
{
	uint32_t khz = 0;
	uint64_t tsc = 0;
	int64_t ns = 0;

	vm_assert(!vclock_is_running(clock));
	stream_begin(s, STREAM_TAG_CLOCK, 1);
	stream_i64(s, &ns);
	stream_u64(s, &tsc);
	stream_u32(s, &khz);
	stream_check(s, ns >= 0 && khz);
	stream_end(s);
	if (stream_error(s))
		return stream_error(s);
	if (khz != clock->tsc_khz)
		log_info("the saved machine's TSC ran at %u kHz, here it runs "
			 "at %u kHz",
			 khz, clock->tsc_khz);
	pthread_mutex_lock(&clock->lock);
	clock->ns = ns;
	clock->tsc = tsc;
	clock->has_stopped = false;
	pthread_mutex_unlock(&clock->lock);
	return 0;
}
