/*
 * Guest time. One clock per machine: it counts nanoseconds while the machine
 * runs, stands still while it is paused, and is saved with it. All timers of
 * devices are on it, so pausing, saving and tests need no other mechanism.
 */
#ifndef BUS_VCLOCK_H
#define BUS_VCLOCK_H

#include <pthread.h>

#include "base/base.h"
#include "base/list.h"

struct stream;
struct vclock;

/** How the clock reaches the host; a fake in tests. */
struct vclock_host {
	int64_t (*now)(void *opaque);               /* monotonic ns */
	void (*arm)(void *opaque, int64_t host_ns); /* call vclock_expire()
						      * at; INT64_MAX: never.
						      * Not from in here. */
	uint64_t (*tsc)(void *opaque);              /* host TSC */
	void *opaque;
};

/** A one-shot timer; embedded by its device, which owns it. (fn) runs on the
 * thread that calls vclock_expire(), with (lock) held. */
struct vtimer {
	struct list link;
	int64_t deadline; /* guest ns; meaningful while armed */
	bool is_armed;
	void (*fn)(void *opaque);
	void *opaque;
	pthread_mutex_t *lock;
};

/** A stopped clock at zero, with the host's TSC running at (tsc_khz). */
struct vclock *vclock_create(const struct vclock_host *host, uint32_t tsc_khz);
void vclock_destroy(struct vclock *clock);

/** Guest nanoseconds since power-on. Any thread. */
int64_t vclock_now(struct vclock *clock);

/** Guest ticks of a counter of (hz) since power-on. */
uint64_t vclock_ticks(struct vclock *clock, uint64_t hz);

/** What the guest's TSC reads now (before TSC_ADJUST), and when, in guest ns,
 * it will reach (tsc). It stands still with the clock. */
uint64_t vclock_tsc(struct vclock *clock);
int64_t vclock_tsc_to_ns(struct vclock *clock, uint64_t tsc);
uint32_t vclock_tsc_khz(struct vclock *clock);
/** Guest TSC minus host TSC while running. */
int64_t vclock_tsc_offset(struct vclock *clock);

/** Run or stop guest time. What the guest sees after a stop: with (catch_up)
 * the time that passed is added at start, otherwise it never was. After
 * vclock_load() there is no stop to catch up from. */
void vclock_start(struct vclock *clock, bool catch_up);
void vclock_stop(struct vclock *clock);
bool vclock_is_running(struct vclock *clock);

/** Prepare (t); then arm it at guest time (deadline), or disarm it. Arming an
 * armed timer moves it. A disarmed timer's (fn) is not called later, but may
 * be running unless the caller holds (lock). Any thread. */
void vtimer_init(struct vclock *clock, struct vtimer *t,
		 void (*fn)(void *opaque), void *opaque, pthread_mutex_t *lock);
void vtimer_arm(struct vclock *clock, struct vtimer *t, int64_t deadline);
void vtimer_disarm(struct vclock *clock, struct vtimer *t);

/** Write (t)'s state, or read it and arm it again. */
void vtimer_state(struct vclock *clock, struct vtimer *t, struct stream *s);

/** Call what is due. The host's timer calls this, always on one thread; that
 * is also the one that may free a timer's lock, after vtimer_disarm(). */
void vclock_expire(struct vclock *clock);

/** Save or load the clock's reading and TSC; stopped. */
int vclock_save(struct vclock *clock, struct stream *s);
int vclock_load(struct vclock *clock, struct stream *s);

#endif
