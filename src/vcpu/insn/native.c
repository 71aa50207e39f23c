/*
 * Native emulation.
 *
 * Theory of operation. A guest instruction is encoded again for 64-bit mode
 * (native_encode.c), with what would trouble the host replaced: the memory
 * operand becomes [register], RSP as an operand another register, segment and
 * address size prefixes go. Around it stands a stub, a function
 *
 *	uint64_t stub(struct x86_state *st, void *operand, uint64_t flags);
 *
 *	push rdi, callee-saved registers that are used
 *	push rdx; popfq                  status flags, if it deals with flags
 *	mov  reg, [rdi + ...]            the guest's general registers it names
 *	<the instruction>
 *	pushfq                           if it deals with flags
 *	mov  tmp, [rsp + ...]            st
 *	mov  [tmp + ...], reg
 *	pop  rax                         flags, the result
 * fail:
 *	pop  callee-saved, drop rdi; ret
 *
 * Of all these only the instruction itself can fault. The signal handler sees
 * that RIP is at the running stub's instruction, notes which exception it was
 * and goes on at (fail): nothing was stored, and returning from the signal
 * brings back the FPU registers. Guest memory does not fault, for the operand
 * was translated before; a page fault tells a caller that gave an operand with
 * pages missing that the instruction looked there.
 *
 * Stubs are found by the encoded instruction, which holds all that matters.
 * They are written through one mapping of a memfd and run from another, none
 * being writable and executable. When the memory is full it starts over.
 */
#include "vcpu/insn/native.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/base.h"
#include "vcpu/insn/native_encode.h"

#define CODE_SIZE   (1 << 20)
#define MAX_STUBS   8192
#define HASH_SIZE   (2 * MAX_STUBS)
#define STUB_MARGIN 256 /* no stub is longer */

typedef uint64_t (*stub_fn)(struct x86_state *st, void *operand,
			    uint64_t flags);

struct native_stub {
	struct native_code code; /* the key */
	struct native *owner;
	stub_fn entry;
	uint64_t insn, fail; /* addresses in it */
	uint64_t flags_mask; /* flags to take over: 0 or FLAGS_STATUS */
};

struct native {
	uint8_t *rw, *rx; /* the same memory */
	size_t used;
	unsigned generation;
	unsigned nr_stubs;
	uint16_t hash[HASH_SIZE]; /* index of a stub + 1, or 0 */
	struct native_stub *stubs;

	/* Between native_run() and the signal handler of its thread */
	const struct native_stub *volatile running;
	volatile enum native_result result;
};

/* ---- Faults -------------------------------------------------------------- */

static const int fault_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
#define NR_FAULT_SIGNALS (sizeof(fault_signals) / sizeof(*fault_signals))

/* The instance whose stub this thread runs. */
static __thread struct native *volatile current;

/* Whom this thread's faults outside stubs are shown to. */
static __thread native_hook hook;
static __thread void *hook_opaque;

/* The handlers are installed while there is any instance. */
static pthread_mutex_t handlers_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned nr_instances;
static struct sigaction previous[NR_FAULT_SIGNALS];

/* The result for exception (trap), or NATIVE_DONE if it is not the guest's. */
static enum native_result result_of(long trap)
{
	switch (trap) {
	case EXC_DE:
		return NATIVE_DE;
	case EXC_UD:
		return NATIVE_UD;
	case EXC_GP:
		return NATIVE_GP;
	case EXC_PF:
		return NATIVE_PF;
	case EXC_AC:
		return NATIVE_AC;
	case EXC_MF:
		return NATIVE_MF;
	case EXC_XM:
		return NATIVE_XM;
	default:
		return NATIVE_DONE;
	}
}

static void chain(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *sa = NULL;

	for (unsigned n = 0; n < NR_FAULT_SIGNALS; n++)
		if (fault_signals[n] == sig)
			sa = &previous[n];
	if (sa->sa_flags & SA_SIGINFO)
		sa->sa_sigaction(sig, info, context);
	else if (sa->sa_handler != SIG_DFL && sa->sa_handler != SIG_IGN)
		sa->sa_handler(sig);
	else
		sigaction(sig, sa, NULL); /* it happens again and is fatal */
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct native *n = current;
	const struct native_stub *stub = n ? n->running : NULL;
	enum native_result result = result_of(regs[REG_TRAPNO]);

	if (!stub || (uint64_t)regs[REG_RIP] != stub->insn || !result) {
		if (!hook || !hook(hook_opaque, context))
			chain(sig, info, context);
		return;
	}
	n->result = result;
	regs[REG_RIP] = (greg_t)stub->fail;
}

void native_set_hook(native_hook fn, void *opaque)
{
	hook_opaque = opaque;
	hook = fn;
}

static int handlers_install(struct err *err)
{
	struct sigaction sa = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};
	int ret = 0;

	pthread_mutex_lock(&handlers_lock);
	for (unsigned n = 0; n < NR_FAULT_SIGNALS && nr_instances == 0; n++) {
		struct sigaction now;

		/* still ours under another's handler that chains to it */
		if (sigaction(fault_signals[n], NULL, &now) < 0 ||
		    (now.sa_sigaction != on_fault &&
		     sigaction(fault_signals[n], &sa, &previous[n]) < 0)) {
			ret = err_set(
				err, errno, NULL,
				"cannot handle signal %d:", fault_signals[n]);
			break;
		}
	}
	if (ret == 0)
		nr_instances++;
	pthread_mutex_unlock(&handlers_lock);
	return ret;
}

static void handlers_remove(void)
{
	pthread_mutex_lock(&handlers_lock);
	nr_instances--;
	for (unsigned n = 0; n < NR_FAULT_SIGNALS && nr_instances == 0; n++) {
		struct sigaction now;

		if (sigaction(fault_signals[n], NULL, &now) == 0 &&
		    now.sa_sigaction == on_fault)
			sigaction(fault_signals[n], &previous[n], NULL);
	}
	pthread_mutex_unlock(&handlers_lock);
}

/* ---- Stub memory --------------------------------------------------------- */

static int code_memfd(void)
{
	int fd = -1;

#ifdef MFD_EXEC
	fd = memfd_create("ringer-native", MFD_CLOEXEC | MFD_EXEC);
#endif
	if (fd < 0)
		fd = memfd_create("ringer-native", MFD_CLOEXEC);
	return fd;
}

static int code_map(struct native *n, struct err *err)
{
	int fd = code_memfd(), ret;

	if (fd < 0)
		return err_set(err, errno, NULL,
			       "cannot create memory for native code:");
	if (ftruncate(fd, CODE_SIZE) < 0)
		goto err_close;
	n->rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     0);
	if (n->rw == MAP_FAILED)
		goto err_close;
	n->rx = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (n->rx == MAP_FAILED)
		goto err_unmap;
	close(fd);
	return 0;

err_unmap:
	munmap(n->rw, CODE_SIZE);
err_close:
	ret = err_set(err, errno,
		      "executable shared memory must be allowed "
		      "(vm.memfd_noexec, security modules)",
		      "cannot map memory for native code:");
	close(fd);
	return ret;
}

int native_create(struct native **out, struct err *err)
{
	struct native *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return err_set(err, ENOMEM, NULL,
			       "cannot allocate native emulation:");
	n->stubs = calloc(MAX_STUBS, sizeof(*n->stubs));
	if (!n->stubs) {
		ret = err_set(err, ENOMEM, NULL,
			      "cannot allocate native emulation:");
		goto err_free;
	}
	ret = code_map(n, err);
	if (ret < 0)
		goto err_stubs;
	ret = handlers_install(err);
	if (ret < 0)
		goto err_unmap;
	*out = n;
	return 0;

err_unmap:
	munmap(n->rx, CODE_SIZE);
	munmap(n->rw, CODE_SIZE);
err_stubs:
	free(n->stubs);
err_free:
	free(n);
	return ret;
}

void native_destroy(struct native *n)
{
	if (!n)
		return;
	handlers_remove();
	munmap(n->rx, CODE_SIZE);
	munmap(n->rw, CODE_SIZE);
	free(n->stubs);
	free(n);
}

unsigned native_generation(const struct native *n)
{
	return n->generation;
}

static void start_over(struct native *n)
{
	memset(n->hash, 0, sizeof(n->hash));
	n->nr_stubs = 0;
	n->used = 0;
	n->generation++;
}

/* ---- Stubs --------------------------------------------------------------- */

/* The instruction stream is written through another address than it runs from
 * (SDM volume 3, 8.1.3): serialize before new code runs. */
static void serialize(void)
{
	uint32_t a = 0, b, c = 0, d;

	__asm__ volatile("cpuid"
			 : "+a"(a), "=b"(b), "+c"(c), "=d"(d)
			 :
			 : "memory");
}

static const struct native_stub *stub_new(struct native *n,
					  const struct native_code *code)
{
	struct native_stub *stub = &n->stubs[n->nr_stubs++];
	struct native_layout at;
	uint8_t *base = n->rx + n->used;

	n->used += native_emit(code, n->rw + n->used, &at);
	vm_assert(n->used <= CODE_SIZE);
	serialize();
	stub->code = *code;
	stub->owner = n;
	stub->entry = (stub_fn)(void *)base;
	stub->insn = (uint64_t)(base + at.insn);
	stub->fail = (uint64_t)(base + at.fail);
	stub->flags_mask = code->flags ? FLAGS_STATUS : 0;
	return stub;
}

static unsigned hash_of(const struct native_code *code)
{
	uint64_t key[2];

	memcpy(key, code->bytes, sizeof(key));
	return (unsigned)((key[0] ^ key[1] * 31) * 0x9e3779b97f4a7c15ULL >>
			  40) %
	       HASH_SIZE;
}

const struct native_stub *native_get(struct native *n, const struct insn *insn)
{
	struct native_code code;
	unsigned slot;

	if (!native_encode(&code, insn))
		return NULL;
	for (slot = hash_of(&code); n->hash[slot];
	     slot = (slot + 1) % HASH_SIZE) {
		const struct native_stub *stub = &n->stubs[n->hash[slot] - 1];

		if (memcmp(&stub->code, &code, sizeof(code)) == 0)
			return stub;
	}
	if (n->nr_stubs == MAX_STUBS || n->used + STUB_MARGIN > CODE_SIZE) {
		start_over(n);
		slot = hash_of(&code);
	}
	n->hash[slot] = (uint16_t)(n->nr_stubs + 1);
	return stub_new(n, &code);
}

enum native_result native_run(const struct native_stub *stub,
			      struct x86_state *st, void *operand)
{
	struct native *n = stub->owner;
	uint64_t flags;

	n->result = NATIVE_DONE;
	n->running = stub;
	current = n;
	/* IF and the fixed bit: what every user program has */
	flags = stub->entry(st, operand,
			    FLAG_IF | FLAG_ONE | (st->rflags & FLAGS_STATUS));
	current = NULL;
	if (likely(n->result == NATIVE_DONE))
		st->rflags = (st->rflags & ~stub->flags_mask) |
			     (flags & stub->flags_mask);
	return n->result;
}
