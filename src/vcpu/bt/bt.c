/*
 * The binary translator as an accelerator: its run loop and its life.
 *
 * bt_run() is interp's loop with translated code where interp has blocks of
 * micro-operations. What cannot be translated (other modes than 64-bit, an
 * instruction over two pages, single-stepping, a stack that is not aligned)
 * runs by interp, one block at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cpuid.h>

#include "vcpu/bt/bt.h"
#include "vcpu/interp/interp.h"

#define STACK_SIZE (512 * KiB)

/* ---- Running -------------------------------------------------------------------- */

static void run_loop(struct bt *bt)
{
	struct cpu *cpu = &bt->cpu;
	uint32_t host;

	for (;;) {
		bt->kick = 0;
		if (cpu->exit_block || cpu_has_request(cpu)) {
			peer_read_mail(bt);
			if (!cpu_boundary(cpu))
				return;
		}
		bt_clear_rf(cpu);
		if (cpu_needs_single(cpu)) {
			cpu_run_single(cpu);
			continue;
		}
		if (bt->recheck)
			code_recheck(bt);
		host = bt_can_run(cpu) ? code_lookup(bt) : 0;
		if (!host) {
			cpu_run_block(cpu);
			continue;
		}
		if (unlikely(cpu->exit_block))
			continue;
		if (unlikely(bt->check))
			check_run_block(bt, host);
		else
			gate_enter(bt, host);
	}
}

static int bt_run(struct vcpu *vcpu, struct exit *exit)
{
	struct cpu *cpu = vcpu->accel;
	struct bt *bt = bt_of(cpu);
	sigjmp_buf unwind;
	int r = fault_thread();

	if (r)
		return r;
	cpu->exit = exit;
	cpu->has_exit = false;
	cpu->exit_block = true;
	cpu->unwind = &unwind;
	/* Being checked, a block comes back by itself, undisturbed. */
	fault_enter(bt->check ? NULL : bt);
	sample_enter(bt);
	peer_enter(bt);
	native_set_hook(fault_signal, bt);
	sys_enter(cpu);
	if (sigsetjmp(unwind, 0))
		cpu_unwound(cpu);
	run_loop(bt);
	cpu_fpu_save(cpu);
	native_set_hook(NULL, NULL);
	sys_leave(cpu);
	peer_leave(bt);
	fault_enter(NULL);
	sample_leave();
	vcpu->stats.instructions = cpu->insns;
	return 0;
}

static int bt_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	int r;

	peer_lock(bt_of(vcpu->accel));
	r = interp_set_state(vcpu, st);
	peer_unlock(bt_of(vcpu->accel));
	return r;
}

/* ---- Life ------------------------------------------------------------------------- */

static void masks_set(struct bt *bt)
{
	bt->page_masks[0] = 0x00007ffffffff000; /* user: the lower half */
	bt->page_masks[1] = 0x0000fffffffff000;
	for (unsigned i = 0; i < 2; i++)
		bt->exec_masks[i] = bt->page_masks[i] | 3ULL << 62;
	for (unsigned i = 1; i < 4; i++)
		bt->align_masks[i] = ((1ULL << i) - 1) << 60;
	bt->offset_mask = PAGE_SIZE - 1;
	for (unsigned i = 0; i < PAGE_SHIFT; i++)
		bt->near_masks[i] = (PAGE_SIZE - 1) & ~((1ULL << i) - 1);
	bt->bit_masks[0] = 31;
	bt->bit_masks[1] = 63;
	bt->three_bits = 7;
	bt->status_flags = FLAGS_STATUS;
	bt->other_flags = ~(FLAGS_STATUS | FLAG_VM | FLAG_RF);
	bt->no_if = ~FLAG_IF;
	bt->no_ac = ~FLAG_AC;
}

static int check_host(struct err *err)
{
	const uint32_t vex = bit_OSXSAVE | bit_AVX;
	uint32_t a, b, c = 0, d;

	/* Not all that pass on BMI2 run it without the state that VEX asks
	 * for. */
	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & vex) != vex ||
	    !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_BMI2))
		return err_set(err, ENOTSUP, "use --accel interp",
			       "translation needs a processor with BMI2 and "
			       "AVX");
	return 0;
}

static struct bt *bt_alloc(struct err *err)
{
	size_t size = STACK_SIZE + ALIGN_UP(sizeof(struct bt), PAGE_SIZE);
	uint8_t *stack =
		mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct bt *bt;

	if (stack == MAP_FAILED) {
		err_set(err, errno, NULL, "cannot make a processor:");
		return NULL;
	}
	mprotect(stack, PAGE_SIZE, PROT_NONE);
	bt = (struct bt *)(void *)(stack + STACK_SIZE);
	bt->stack = stack;
	return bt;
}

static void bt_free(struct bt *bt)
{
	munmap(bt->stack, STACK_SIZE + ALIGN_UP(sizeof(struct bt), PAGE_SIZE));
}

static int bt_vcpu_create(struct vcpu *vcpu, struct err *err)
{
	struct bt *bt = bt_alloc(err);
	int r;

	if (!bt)
		return -ENOMEM;
	bt->cpu.vcpu = vcpu;
	masks_set(bt);
	r = peer_create(bt, err);
	if (!r)
		r = tables_create(bt, err);
	if (r)
		goto err_free;
	r = code_create(bt, err);
	if (r)
		goto err_code;
	gates_create(bt);
	r = cpu_create(&bt->cpu, vcpu, err);
	if (r)
		goto err_code;
	r = fault_install(err);
	if (r)
		goto err_cpu;
	if (fault_thread())
		r = err_set(err, errno, NULL, "cannot set the GS base:");
	if (!r && vcpu->set->options.trace)
		r = trace_create(bt, vcpu->set->options.trace, err);
	if (!r && vcpu->set->options.check)
		r = check_create(bt, err);
	if (r)
		goto err_trace;
	vcpu->accel = &bt->cpu;
	peer_open(bt);
	return 0;

err_trace:
	trace_destroy(bt);
	fault_remove();
err_cpu:
	cpu_destroy(&bt->cpu);
err_code:
	code_destroy(bt);
	tables_destroy(bt);
err_free:
	bt_free(bt);
	return r;
}

static void bt_vcpu_destroy(struct vcpu *vcpu)
{
	struct bt *bt = bt_of(vcpu->accel);

	peer_close(bt);
	check_destroy(bt);
	trace_destroy(bt);
	sample_destroy(bt);
	fault_remove();
	cpu_destroy(&bt->cpu);
	code_destroy(bt);
	tables_destroy(bt);
	bt_free(bt);
	vcpu->accel = NULL;
}

static int bt_vm_create(struct vcpus *vs, struct err *err)
{
	int r = check_host(err);

	if (!r && vs->options.check && vs->nr > 1)
		r = err_set(err, EINVAL, "give --cpus 1",
			    "--accel bt,check=lockstep is for one processor");
	if (!r && vs->nr > BT_MAX_CPUS)
		r = err_set(err, EINVAL, "use --accel interp",
			    "--accel bt is for %u processors at most",
			    BT_MAX_CPUS);
	if (!r)
		r = interp_vm_create(vs, err);
	if (r)
		return r;
	r = peers_create(vs, err);
	if (r)
		interp_vm_destroy(vs);
	return r;
}

static void bt_vm_destroy(struct vcpus *vs)
{
	peers_destroy(vs);
	interp_vm_destroy(vs);
}

static void bt_add_stats(struct vcpus *vs)
{
	static const struct stat_desc descs[] = {
		STAT(struct bt, stats.blocks),
		STAT(struct bt, stats.insns),
		STAT(struct bt, stats.bytes),
		STAT(struct bt, stats.resets),
		STAT(struct bt, stats.lookups),
		STAT(struct bt, stats.misses),
		STAT(struct bt, stats.links),
		STAT(struct bt, stats.callouts),
		STAT(struct bt, stats.steps),
		STAT(struct bt, stats.faults),
		STAT(struct bt, stats.misaligned),
		STAT(struct bt, stats.page_ends),
		STAT(struct bt, stats.fault_targets),
		STAT(struct bt, stats.steps_raised),
		STAT(struct bt, stats.samples_user),
		STAT(struct bt, stats.samples_kernel),
		STAT(struct bt, stats.samples_vmm),
		STAT(struct bt, stats.kicks),
		STAT(struct bt, stats.invalidated),
		STAT(struct bt, stats.page_drops),
		STAT(struct bt, stats.mails),
		STAT(struct bt, stats.mails_lost),
		STAT(struct bt, stats.waits),
		STAT(struct bt, stats.checked),
		STAT(struct bt, stats.unchecked),
		STAT(struct bt, stats.check_retries),
		STAT(struct bt, tables.nr_fills),
		STAT(struct bt, tables.nr_flushes),
		STAT(struct bt, cpu.tlb_fills),
		STAT(struct bt, cpu.tlb_flushes),
		STAT(struct bt, cpu.insns),
		{ .name = NULL },
	};
	struct interp *vm = vs->accel;

	for (unsigned i = 0; i < vs->nr; i++) {
		char name[] = "bt00.callouts";

		name[2] = (char)('0' + i / 10);
		name[3] = (char)('0' + i % 10);
		interp_add_op_stats(vs, i, name,
				    bt_of(vs->vcpu[i].accel)->callout_counts);
		name[4] = 0;
		stats_add(vs->stats, &vm->groups[i], name, descs,
			  bt_of(vs->vcpu[i].accel));
	}
}

static int64_t bt_probe(struct err *err)
{
	int64_t speed = software_probe(&accel_bt, err);

	/* Its loop is what translation does best: whole systems run at about a
	 * quarter of native speed. */
	return speed > 0 ? speed / 4 : speed;
}

const struct accel_ops accel_bt = {
	.name = "bt",
	.probe = bt_probe,
	.vm_create = bt_vm_create,
	.vm_destroy = bt_vm_destroy,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.run = bt_run,
	.kick = peer_kick,
	.get_state = interp_get_state,
	.set_state = bt_set_state,
	.add_stats = bt_add_stats,
};
