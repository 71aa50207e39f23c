/*
 * The threads of virtual CPUs.
 *
 *   vcpu_main()        one per CPU: create, then run until asked to stop
 *     vcpu_park()      waits while the set is paused
 *     ops->run()       guest instructions
 *     vcpu_handle_exit()   what stopped them (exits.c)
 *
 * A request is a bit in vcpu->requests followed by a kick and a wake-up. The
 * sleeper publishes is_asleep before it looks at requests, the requester sets
 * its bit before it looks at is_asleep, both sequentially consistent: at least
 * one of them sees the other, so no wake-up is lost.
 */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/clock.h"
#include "host/thread.h"

static const struct stat_desc vcpu_stat_descs[] = {
	STAT(struct vcpu_stats, instructions),
	STAT(struct vcpu_stats, interrupts),
	STAT(struct vcpu_stats, exceptions),
	STAT(struct vcpu_stats, halts),
	STAT(struct vcpu_stats, kicks),
	STAT(struct vcpu_stats, run_ns),
	STAT(struct vcpu_stats, steal_ns),
#define X(reason, text) \
	{ "exit_" text, offsetof(struct vcpu_stats, exits[EXIT_##reason]) },
	EXIT_REASONS(X)
#undef X
		{ .name = NULL },
};

void vcpu_sleep(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	atomic_store(&vcpu->is_asleep, true);
	while (!atomic_load(&vcpu->requests))
		pthread_cond_wait(&vcpu->wake, &vcpu->lock);
	atomic_store(&vcpu->is_asleep, false);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_request(struct vcpu *vcpu, uint32_t requests)
{
	uint32_t before = atomic_fetch_or(&vcpu->requests, requests);

	if ((before & requests) == requests && !atomic_load(&vcpu->is_asleep))
		return;
	__atomic_fetch_add(&vcpu->stats.kicks, 1, __ATOMIC_RELAXED);
	if (atomic_load(&vcpu->is_asleep)) {
		pthread_mutex_lock(&vcpu->lock);
		pthread_cond_signal(&vcpu->wake);
		pthread_mutex_unlock(&vcpu->lock);
	} else {
		vcpu->set->ops->kick(vcpu);
	}
}

static void port_signal(void *cpu, enum cpu_signal s, uint8_t vector)
{
	struct vcpu *vcpu = cpu;

	switch (s) {
	case CPU_WAKE:
		vcpu_request(vcpu, VCPU_REQ_WAKE);
		break;
	case CPU_NMI:
		vcpu_request(vcpu, VCPU_REQ_NMI);
		break;
	case CPU_INIT:
		vcpu_request(vcpu, VCPU_REQ_INIT);
		break;
	case CPU_SIPI:
		vcpu->sipi_vector = vector;
		vcpu_request(vcpu, VCPU_REQ_SIPI);
		break;
	case CPU_SMI: /* there is no SMM: see docs/devices.md */
		break;
	}
}

struct cpu_port vcpu_port(struct vcpu *vcpu)
{
	return (struct cpu_port){ .signal = port_signal, .cpu = vcpu };
}

/* Wait while the set is paused. */
static void vcpu_park(struct vcpu *vcpu)
{
	struct vcpus *vs = vcpu->set;

	pthread_mutex_lock(&vs->lock);
	vcpu->is_parked = true;
	pthread_cond_broadcast(&vs->parked);
	while (vs->is_paused && !(atomic_load(&vcpu->requests) & VCPU_REQ_STOP))
		pthread_cond_wait(&vs->resumed, &vs->lock);
	vcpu->is_parked = false;
	vcpu_take_requests(vcpu, VCPU_REQ_PAUSE);
	pthread_mutex_unlock(&vs->lock);
}

static void vcpu_run_once(struct vcpu *vcpu)
{
	struct exit exit = { .reason = EXIT_KICK };
	int64_t start = clock_now_ns();
	int r = vcpu->set->ops->run(vcpu, &exit);

	vcpu->stats.run_ns += (uint64_t)(clock_now_ns() - start);
	if (r) {
		exit.reason = EXIT_ERROR;
		if (!exit.text[0])
			snprintf(exit.text, sizeof(exit.text), "%s",
				 strerror(-r));
	}
	vcpu->stats.exits[exit.reason]++;
	vcpu_handle_exit(vcpu, &exit);
}

static void *vcpu_main(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vcpus *vs = vcpu->set;

	vcpu->create_error = vs->ops->vcpu_create(vcpu, &vcpu->create_err);
	pthread_mutex_lock(&vs->lock);
	vcpu->is_created = true;
	pthread_cond_broadcast(&vs->parked);
	pthread_mutex_unlock(&vs->lock);
	if (vcpu->create_error)
		return NULL;
	for (;;) {
		uint32_t requests = atomic_load(&vcpu->requests);

		if (requests & VCPU_REQ_STOP)
			break;
		if (requests & VCPU_REQ_PAUSE)
			vcpu_park(vcpu);
		else if (vcpu->is_dead)
			vcpu_sleep(vcpu);
		else
			vcpu_run_once(vcpu);
		if (vcpu->is_dead)
			vcpu_take_requests(vcpu, ~(uint32_t)(VCPU_REQ_PAUSE |
							     VCPU_REQ_STOP));
	}
	vs->ops->vcpu_destroy(vcpu);
	return NULL;
}

static int vcpu_start(struct vcpus *vs, unsigned index, struct err *err)
{
	struct vcpu *vcpu = &vs->vcpu[index];
	char name[16];
	int r;

	vcpu->index = index;
	vcpu->set = vs;
	atomic_store(&vcpu->requests, VCPU_REQ_PAUSE);
	pthread_mutex_init(&vcpu->lock, NULL);
	pthread_cond_init(&vcpu->wake, NULL);
	snprintf(name, sizeof(name), "vcpu%u", index);
	r = thread_create(&vcpu->thread, name, vcpu_main, vcpu, err);
	if (r)
		return r;
	pthread_mutex_lock(&vs->lock);
	while (!vcpu->is_created)
		pthread_cond_wait(&vs->parked, &vs->lock);
	pthread_mutex_unlock(&vs->lock);
	if (vcpu->create_error) {
		pthread_join(vcpu->thread, NULL);
		if (err)
			*err = vcpu->create_err;
		return vcpu->create_error;
	}
	stats_add(vs->stats, &vcpu->stats_group, name, vcpu_stat_descs,
		  &vcpu->stats);
	return 0;
}

/* End the first (nr) CPUs' threads. */
static void vcpus_stop(struct vcpus *vs, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		vcpu_request(&vs->vcpu[i], VCPU_REQ_STOP);
	pthread_mutex_lock(&vs->lock);
	pthread_cond_broadcast(&vs->resumed);
	pthread_mutex_unlock(&vs->lock);
	for (unsigned i = 0; i < nr; i++) {
		pthread_join(vs->vcpu[i].thread, NULL);
		stats_remove(&vs->vcpu[i].stats_group);
		pthread_cond_destroy(&vs->vcpu[i].wake);
		pthread_mutex_destroy(&vs->vcpu[i].lock);
	}
}

int vcpus_create(struct vcpus *vs, unsigned nr, struct err *err)
{
	pthread_condattr_t attr;
	unsigned i;
	int r;

	vs->is_paused = true;
	vs->nr = nr;
	pthread_mutex_init(&vs->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vs->parked, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&vs->resumed, NULL);
	vs->vcpu = aligned_alloc(64, ALIGN_UP(nr * sizeof(*vs->vcpu), 64));
	if (!vs->vcpu) {
		r = err_set(err, ENOMEM, NULL, "cannot make %u CPUs:", nr);
		goto err_sync;
	}
	memset(vs->vcpu, 0, nr * sizeof(*vs->vcpu));
	r = vs->ops->vm_create(vs, err);
	if (r)
		goto err_free;
	for (i = 0; i < nr; i++) {
		r = vcpu_start(vs, i, err);
		if (r)
			goto err_stop;
	}
	if (vs->ops->add_stats)
		vs->ops->add_stats(vs);
	return 0;

err_stop:
	vcpus_stop(vs, i);
	vs->ops->vm_destroy(vs);
err_free:
	free(vs->vcpu);
	vs->vcpu = NULL;
err_sync:
	pthread_cond_destroy(&vs->resumed);
	pthread_cond_destroy(&vs->parked);
	pthread_mutex_destroy(&vs->lock);
	return r;
}

void vcpus_destroy(struct vcpus *vs)
{
	if (!vs->vcpu)
		return;
	vcpus_stop(vs, vs->nr);
	vs->ops->vm_destroy(vs);
	free(vs->vcpu);
	vs->vcpu = NULL;
	pthread_cond_destroy(&vs->resumed);
	pthread_cond_destroy(&vs->parked);
	pthread_mutex_destroy(&vs->lock);
}

void vcpus_resume(struct vcpus *vs)
{
	pthread_mutex_lock(&vs->lock);
	vs->is_paused = false;
	pthread_cond_broadcast(&vs->resumed);
	pthread_mutex_unlock(&vs->lock);
}

static bool vcpus_are_parked(const struct vcpus *vs)
{
	for (unsigned i = 0; i < vs->nr; i++)
		if (!vs->vcpu[i].is_parked)
			return false;
	return true;
}

void vcpus_pause_begin(struct vcpus *vs)
{
	pthread_mutex_lock(&vs->lock);
	vs->is_paused = true;
	pthread_mutex_unlock(&vs->lock);
	for (unsigned i = 0; i < vs->nr; i++)
		vcpu_request(&vs->vcpu[i], VCPU_REQ_PAUSE);
}

bool vcpus_pause_wait(struct vcpus *vs, int64_t timeout_ns)
{
	struct timespec until;
	bool are_parked;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += timeout_ns % NSEC_PER_SEC;
	until.tv_sec +=
		timeout_ns / NSEC_PER_SEC + until.tv_nsec / NSEC_PER_SEC;
	until.tv_nsec %= NSEC_PER_SEC;
	pthread_mutex_lock(&vs->lock);
	while (!vcpus_are_parked(vs) && !r)
		r = pthread_cond_timedwait(&vs->parked, &vs->lock, &until);
	are_parked = vcpus_are_parked(vs);
	pthread_mutex_unlock(&vs->lock);
	return are_parked;
}

void vcpus_pause(struct vcpus *vs)
{
	vcpus_pause_begin(vs);
	while (!vcpus_pause_wait(vs, NSEC_PER_SEC))
		;
}

int vcpu_get_state(struct vcpu *vcpu, struct x86_state *st)
{
	return vcpu->set->ops->get_state(vcpu, st);
}

int vcpu_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	vcpu->is_dead = false;
	return vcpu->set->ops->set_state(vcpu, st);
}
