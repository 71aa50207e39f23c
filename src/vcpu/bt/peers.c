/*
 * What the CPUs of a machine do to each other: all have code and tables of
 * their own, made from the same memory.
 *
 * (holders) says for each page which CPUs have code from it; while any has,
 * GMEM_PAGE_CODE is set and nobody enters the page as writable. Two things may
 * then happen to a CPU from outside: bytes that it has code of change, by a
 * store of another CPU or by a device; and its own writable entry has to go,
 * because another CPU begins to translate from the page.
 *
 * Its tables and code are its thread's, while it is in run(). So it finds a
 * mail and a request bit, and does as it says between two instructions. While
 * it is outside of run() whoever comes does it for it, under the same lock.
 *
 * A change is there to be seen before the instruction that made it ends, so
 * code that was changed, and announced by another store, is not run behind an
 * instruction that serializes: that looks at requests.
 *
 * Taking a writable entry back has to be waited for: the other CPU may be
 * between its lookup and its store. It says in (writer), before it looks at
 * GMEM_PAGE_CODE, that it enters the page; here the flag is set before (writer)
 * is looked at. One that waits does what its own mails say, so that two may
 * wait for each other.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <signal.h>

#include "vcpu/bt/bt.h"

/* Memory that is known at the start, and as much as others may add. */
#define PAGES_MIN (64 * GiB >> PAGE_SHIFT)

/* The CPU that this thread runs, if it is in run(). */
static __thread struct bt *current;

static struct peer *peer_of(struct bt *bt)
{
	return &bt->vm->peers[bt->cpu.vcpu->index];
}

static uint64_t bit_of(const struct bt *bt)
{
	return BIT(bt->cpu.vcpu->index);
}

/* ---- Mails ----------------------------------------------------------------------- */

static void mail_act(struct bt *bt, const struct mail *m)
{
	if (m->len)
		code_written(bt, m->gpa, m->len);
	else
		tables_revoke(bt, m->gpa);
}

/* With the lock. */
static void mail_put(struct peer *p, uint64_t gpa, uint64_t len)
{
	struct mail *last = p->nr ? &p->mails[p->nr - 1] : NULL;

	if (last && len && last->len &&
	    last->gpa >> PAGE_SHIFT == gpa >> PAGE_SHIFT) {
		uint64_t end = MAX(last->gpa + last->len, gpa + len);

		last->gpa = MIN(last->gpa, gpa);
		last->len = end - last->gpa;
	} else if (p->nr == MAX_MAILS) {
		p->is_full = true;
	} else {
		p->mails[p->nr++] = (struct mail){ gpa, len };
	}
	p->nr_posted++;
}

/* Let CPU (index) know. Returns what its (nr_handled) will reach, or 0 if it
 * is done already. */
static uint64_t post(struct bt_vm *vm, unsigned index, uint64_t gpa,
		     uint64_t len)
{
	struct peer *p = &vm->peers[index];
	uint64_t ticket = 0;

	pthread_mutex_lock(&p->lock);
	if (p->is_running) {
		mail_put(p, gpa, len);
		ticket = p->nr_posted;
	} else if (p->bt) {
		mail_act(p->bt, &(struct mail){ gpa, len });
	}
	pthread_mutex_unlock(&p->lock);
	if (ticket)
		vcpu_request(&vm->vs->vcpu[index], VCPU_REQ_CODE);
	return ticket;
}

/* All translations go: now, or if one is being made, before any runs. */
static void everything_changed(struct bt *bt)
{
	if (!bt->code.is_busy) {
		code_reset(bt);
		return;
	}
	pthread_mutex_lock(&peer_of(bt)->lock);
	peer_of(bt)->is_full = true;
	pthread_mutex_unlock(&peer_of(bt)->lock);
	atomic_fetch_or(&bt->cpu.vcpu->requests, VCPU_REQ_CODE);
	bt->kick = 1;
}

void peer_read_mail(struct bt *bt)
{
	struct peer *p = peer_of(bt);
	struct mail mails[MAX_MAILS];
	uint64_t nr_posted;
	unsigned nr;
	bool is_full;

	if (!vcpu_take_requests(bt->cpu.vcpu, VCPU_REQ_CODE))
		return;
	cpu_fpu_save(&bt->cpu);
	pthread_mutex_lock(&p->lock);
	nr = p->nr;
	for (unsigned i = 0; i < nr; i++)
		mails[i] = p->mails[i];
	is_full = p->is_full;
	nr_posted = p->nr_posted;
	p->nr = 0;
	p->is_full = false;
	pthread_mutex_unlock(&p->lock);
	bt->stats.mails += nr;
	if (is_full) {
		bt->stats.mails_lost++;
		tlb_flush(&bt->cpu);
		everything_changed(bt);
	} else {
		for (unsigned i = 0; i < nr; i++)
			mail_act(bt, &mails[i]);
	}
	__atomic_store_n(&p->nr_handled, nr_posted, __ATOMIC_SEQ_CST);
}

static void wait_for(struct bt *bt, struct peer *p, uint64_t ticket)
{
	while (__atomic_load_n(&p->nr_handled, __ATOMIC_SEQ_CST) < ticket &&
	       __atomic_load_n(&p->is_running, __ATOMIC_SEQ_CST)) {
		bt->stats.waits++;
		peer_read_mail(bt);
		sched_yield();
	}
}

/* ---- Pages with code ---------------------------------------------------------------- */

static struct gmem_region *region_of(struct bt_vm *vm, uint64_t gpa)
{
	struct gmem *mem = vm->vs->mem;

	for (unsigned i = 0; i < mem->nr_regions; i++)
		if (gpa - mem->region[i].gpa < mem->region[i].size)
			return &mem->region[i];
	return NULL;
}

static void flag_set(struct bt_vm *vm, uint64_t gpa, bool on)
{
	struct gmem_region *r = region_of(vm, gpa);
	uint8_t *flags = &r->page_flags[(gpa - r->gpa) >> PAGE_SHIFT];

	if (on)
		__atomic_fetch_or(flags, GMEM_PAGE_CODE, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(flags, (uint8_t)~GMEM_PAGE_CODE,
				   __ATOMIC_SEQ_CST);
}

static bool is_held(const struct bt *bt, uint64_t gpa)
{
	uint64_t n = gpa >> PAGE_SHIFT;

	return n < bt->vm->nr_pages && (bt->vm->holders[n] & bit_of(bt));
}

void page_hold(struct bt *bt, uint64_t gpa)
{
	struct bt_vm *vm = bt->vm;
	uint64_t n = gpa >> PAGE_SHIFT, tickets[MAX_VCPUS] = { 0 };
	unsigned own = bt->cpu.vcpu->index;

	if (is_held(bt, gpa) || n >= vm->nr_pages)
		return;
	cpu_fpu_save(&bt->cpu);
	pthread_mutex_lock(&vm->lock);
	/* In this order: who sees a holder sees the flag. */
	flag_set(vm, gpa, true);
	__atomic_fetch_or(&vm->holders[n], bit_of(bt), __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vm->lock);
	tables_revoke(bt, gpa);
	for (unsigned i = 0; i < vm->vs->nr; i++) {
		uint64_t *writer = vm->peers[i].writer;

		if (i != own && writer &&
		    __atomic_load_n(&writer[n], __ATOMIC_SEQ_CST))
			tickets[i] = post(vm, i, gpa, 0);
	}
	for (unsigned i = 0; i < vm->vs->nr; i++)
		if (tickets[i])
			wait_for(bt, &vm->peers[i], tickets[i]);
}

void page_release(struct bt *bt, uint64_t gpa)
{
	struct bt_vm *vm = bt->vm;
	uint64_t n = gpa >> PAGE_SHIFT;

	if (!is_held(bt, gpa))
		return;
	pthread_mutex_lock(&vm->lock);
	if (__atomic_and_fetch(&vm->holders[n], ~bit_of(bt),
			       __ATOMIC_SEQ_CST) == 0)
		flag_set(vm, gpa, false);
	pthread_mutex_unlock(&vm->lock);
}

/* Bytes of pages with code changed; on any thread. */
static void written(void *opaque, uint64_t gpa, uint64_t len)
{
	struct bt_vm *vm = opaque;
	struct bt *own = current && current->vm == vm ? current : NULL;

	while (len) {
		uint64_t n = MIN(len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
		uint64_t page = gpa >> PAGE_SHIFT, cpus = 0;

		if (page < vm->nr_pages)
			cpus = __atomic_load_n(&vm->holders[page],
					       __ATOMIC_SEQ_CST);
		for (; cpus; cpus &= cpus - 1) {
			unsigned i = (unsigned)__builtin_ctzll(cpus);

			if (own && own->cpu.vcpu->index == i)
				code_written(own, gpa, n);
			else
				post(vm, i, gpa, n);
		}
		gpa += n;
		len -= n;
	}
}

/* ---- Running ------------------------------------------------------------------------ */

void peer_enter(struct bt *bt)
{
	struct peer *p = peer_of(bt);

	pthread_mutex_lock(&p->lock);
	p->thread = pthread_self();
	__atomic_store_n(&p->is_running, true, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&p->lock);
	current = bt;
	code_serialize(); /* others may have changed translated code */
}

void peer_leave(struct bt *bt)
{
	struct peer *p = peer_of(bt);

	current = NULL;
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->nr; i++)
		mail_act(bt, &p->mails[i]);
	if (p->is_full) {
		code_reset(bt);
		tlb_flush(&bt->cpu);
	}
	p->nr = 0;
	p->is_full = false;
	__atomic_store_n(&p->nr_handled, p->nr_posted, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->is_running, false, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&p->lock);
	vcpu_take_requests(bt->cpu.vcpu, VCPU_REQ_CODE);
}

void peer_kick(struct vcpu *vcpu)
{
	struct bt_vm *vm = vcpu->set->mem->code_opaque;
	struct peer *p = &vm->peers[vcpu->index];

	pthread_mutex_lock(&p->lock);
	if (p->is_running)
		pthread_kill(p->thread, SIGUSR2);
	pthread_mutex_unlock(&p->lock);
}

void peer_lock(struct bt *bt)
{
	pthread_mutex_lock(&peer_of(bt)->lock);
}

void peer_unlock(struct bt *bt)
{
	pthread_mutex_unlock(&peer_of(bt)->lock);
}

/* ---- Life ---------------------------------------------------------------------------- */

static void *reserve(uint64_t nr)
{
	void *p = mmap(NULL, nr * sizeof(uint64_t), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, nr * sizeof(uint64_t), MADV_DONTDUMP);
	return p;
}

int peers_create(struct vcpus *vs, struct err *err)
{
	struct bt_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return err_set(err, ENOMEM, NULL, "cannot make a processor:");
	vm->vs = vs;
	vm->nr_pages = PAGES_MIN;
	for (unsigned i = 0; i < vs->mem->nr_regions; i++) {
		const struct gmem_region *r = &vs->mem->region[i];

		vm->nr_pages =
			MAX(vm->nr_pages, (r->gpa + r->size) >> PAGE_SHIFT);
	}
	vm->holders = reserve(vm->nr_pages);
	if (!vm->holders) {
		free(vm);
		return err_set(err, ENOMEM, NULL, "cannot make a processor:");
	}
	pthread_mutex_init(&vm->lock, NULL);
	for (unsigned i = 0; i < MAX_VCPUS; i++)
		pthread_mutex_init(&vm->peers[i].lock, NULL);
	vs->mem->code_opaque = vm;
	vs->mem->code_written = written;
	return 0;
}

void peers_destroy(struct vcpus *vs)
{
	struct bt_vm *vm = vs->mem->code_opaque;

	vs->mem->code_written = NULL;
	vs->mem->code_opaque = NULL;
	for (unsigned i = 0; i < MAX_VCPUS; i++) {
		if (vm->peers[i].writer)
			munmap(vm->peers[i].writer,
			       vm->nr_pages * sizeof(uint64_t));
		pthread_mutex_destroy(&vm->peers[i].lock);
	}
	pthread_mutex_destroy(&vm->lock);
	munmap(vm->holders, vm->nr_pages * sizeof(uint64_t));
	free(vm);
}

int peer_create(struct bt *bt, struct err *err)
{
	struct peer *p;

	bt->vm = bt->cpu.vcpu->set->mem->code_opaque;
	p = peer_of(bt);
	if (!p->writer)
		p->writer = reserve(bt->vm->nr_pages);
	if (!p->writer)
		return err_set(err, ENOMEM, NULL, "cannot make a processor:");
	bt->tables.writer = p->writer;
	return 0;
}

void peer_open(struct bt *bt)
{
	pthread_mutex_lock(&peer_of(bt)->lock);
	peer_of(bt)->bt = bt;
	pthread_mutex_unlock(&peer_of(bt)->lock);
}

void peer_close(struct bt *bt)
{
	pthread_mutex_lock(&peer_of(bt)->lock);
	peer_of(bt)->bt = NULL;
	pthread_mutex_unlock(&peer_of(bt)->lock);
}
