/*
 * The life of a machine.
 *
 *     vm_create()
 *         |
 *         v           vm_run, vm_resume              vm_pause
 *      CREATED ------------------------> RUNNING <-------------> PAUSED
 *         |                                 |       vm_resume      |
 *         +----------------+----------------+----------------------+
 *                          |  power-off, exit, panic, triple fault,
 *                          v  error, vm_quit
 *                        ENDED ---vm_destroy--->
 *
 * A reset keeps the status, except that it may end the machine: at the user's
 * wish, or when the kernel cannot be loaded again.
 *
 * All of this happens on the main loop. What CPUs and devices want of the
 * machine (struct vm.events) is noted on their thread, which also asks the CPUs
 * to park, so that the guest does not go on after it has, say, powered off; the
 * main loop looks at it next.
 *
 * Waiting for CPUs to park, the main loop serves what was posted to it: a CPU
 * on its way may be in a device that waits for this loop. So any of the
 * functions here may run inside stop(), and who returns from it looks at the
 * status again.
 */
#include "machine/vm.h"

#include <errno.h>
#include <stdarg.h>

#include "base/log.h"
#include "host/clock.h"
#include "machine/boot.h"
#include "machine/pc.h"

/* What a machine notes besides (1 << enum machine_event). */
#define EVENT_START BIT(28)
#define EVENT_HOLD  BIT(29)
#define EVENT_QUIT  BIT(30)
#define EVENT_ERROR BIT(31)

/* Exit codes. */
#define CODE_PANIC        110
#define CODE_TRIPLE_FAULT 111
#define CODE_ERROR        125

/* How long a wait for CPUs goes on before the loop's works are served. */
#define SERVE_NS (1 * NSEC_PER_MSEC)

static const struct accel_ops *const accels[] = { &accel_kvm, &accel_bt,
						  &accel_interp,
						  &accel_kvm_user, NULL };

enum vm_status vm_status(struct vm *vm)
{
	return __atomic_load_n(&vm->status, __ATOMIC_RELAXED);
}

const char *vm_status_name(enum vm_status status)
{
	static const char *const names[] = { "created", "running", "paused",
					     "ended" };

	return status < ARRAY_SIZE(names) ? names[status] : "?";
}

static void set_status(struct vm *vm, enum vm_status status)
{
	__atomic_store_n(&vm->status, status, __ATOMIC_RELAXED);
}

struct device *vm_find_device(struct vm *vm, const char *id)
{
	struct device *dev;

	list_for_each (dev, &vm->devices, link)
		if (!strcmp(dev->id, id))
			return dev;
	return NULL;
}

/*
 * Starting and stopping, on the main loop
 */

static void start(struct vm *vm)
{
	struct device *dev;

	list_for_each (dev, &vm->devices, link)
		if (dev->cls->resume)
			dev->cls->resume(dev);
	vclock_start(vm->clock, vm->catch_up && vm->status == VM_PAUSED);
	set_status(vm, VM_RUNNING);
	vcpus_resume(&vm->cpus);
}

/* CPUs are parked, guest time stands still and devices are quiet on return.
 * The status is the caller's to change; see the top of this file. */
static void stop(struct vm *vm)
{
	struct device *dev;

	vcpus_pause_begin(&vm->cpus);
	while (!vcpus_pause_wait(&vm->cpus, SERVE_NS)) {
		if (loop_is_current(vm->loop))
			loop_serve(vm->loop);
		vcpus_pause_begin(&vm->cpus);
	}
	vclock_stop(vm->clock);
	list_for_each (dev, &vm->devices, link)
		if (dev->cls->quiesce)
			dev->cls->quiesce(dev);
}

static void end(struct vm *vm, enum vm_end why, int code, const char *fmt, ...)
	PRINTF_LIKE(4, 5);

static void end(struct vm *vm, enum vm_end why, int code, const char *fmt, ...)
{
	va_list args;

	stop(vm);
	if (vm->status == VM_ENDED)
		return;
	vm->outcome.end = why;
	vm->outcome.code = code;
	va_start(args, fmt);
	vsnprintf(vm->outcome.text, sizeof(vm->outcome.text), fmt, args);
	va_end(args);
	set_status(vm, VM_ENDED);
	loop_stop(vm->loop);
}

static int reset(struct vm *vm, struct err *err)
{
	struct err why = { .what = "" };
	struct device *dev;
	int r;

	stop(vm);
	if (vm->status == VM_ENDED)
		return -EINVAL;
	pthread_mutex_lock(&vm->event_lock);
	vm->events &= ~(uint32_t)(BIT(MACHINE_RESET) | BIT(MACHINE_SHUTDOWN));
	pthread_mutex_unlock(&vm->event_lock);
	list_for_each (dev, &vm->devices, link)
		dev->cls->reset(dev);
	r = pc_power_on(vm, &why);
	if (r) {
		end(vm, VM_END_ERROR, CODE_ERROR, "%s", why.what);
		return err_set(err, -r, why.hint, "%s", why.what);
	}
	__atomic_fetch_add(&vm->nr_resets, 1, __ATOMIC_RELAXED);
	if (vm->status == VM_RUNNING)
		start(vm);
	return 0;
}

/*
 * Events
 */

static void note(struct vm *vm, uint32_t event, int value, const char *text)
{
	pthread_mutex_lock(&vm->event_lock);
	if (event == BIT(MACHINE_EXIT) || event == EVENT_QUIT)
		vm->exit_value = value;
	if (text && !vm->event_text[0])
		snprintf(vm->event_text, sizeof(vm->event_text), "%s", text);
	vm->events |= event;
	pthread_mutex_unlock(&vm->event_lock);
	loop_post(vm->loop, &vm->event_work);
}

/* A device's request, on any thread. */
static void device_raised(void *opaque, enum machine_event event, int value)
{
	struct vm *vm = opaque;

	if (event == MACHINE_PANICKED && !(value & 1)) {
		log_info("the guest's kernel crashed; another takes over");
		return;
	}
	if (event != MACHINE_PANICKED)
		vcpus_pause_begin(&vm->cpus);
	note(vm, (uint32_t)BIT(event), value, NULL);
}

/* A CPU cannot go on; on its thread. */
static void cpu_stopped(void *opaque, struct vcpu *vcpu,
			const struct exit *exit)
{
	struct vm *vm = opaque;
	char text[160];

	vcpus_pause_begin(&vm->cpus);
	if (exit->reason == EXIT_SHUTDOWN) {
		snprintf(text, sizeof(text), "CPU %u: triple fault",
			 vcpu->index);
		note(vm, BIT(MACHINE_SHUTDOWN), 0, text);
		return;
	}
	if (exit->reason == EXIT_UNMAPPED)
		snprintf(text, sizeof(text),
			 "CPU %u: %s of %u bytes at 0x%llx, where nothing is",
			 vcpu->index, exit->access.is_write ? "write" : "read",
			 exit->access.size,
			 (unsigned long long)exit->access.addr);
	else
		snprintf(text, sizeof(text), "CPU %u: %s: %s", vcpu->index,
			 exit_name(exit->reason), exit->text);
	note(vm, EVENT_ERROR, 0, text);
}

static void reset_by_guest(struct vm *vm)
{
	if (vm->end_on_reset)
		end(vm, VM_END_RESET, CODE_TRIPLE_FAULT,
		    "the guest reset the machine");
	else
		reset(vm, NULL); /* a failure ends it, with the reason */
}

/* The strongest first; a machine that ended hears no more. */
static void handle_events(void *opaque)
{
	struct vm *vm = opaque;
	char text[sizeof(vm->event_text)];
	uint32_t events;
	int value;

	pthread_mutex_lock(&vm->event_lock);
	events = vm->events;
	value = vm->exit_value;
	memcpy(text, vm->event_text, sizeof(text));
	vm->events = 0;
	vm->event_text[0] = 0;
	pthread_mutex_unlock(&vm->event_lock);
	if (vm->status == VM_ENDED)
		return;
	if (events & EVENT_QUIT)
		end(vm, VM_END_QUIT, value, "%s", "");
	else if (events & BIT(MACHINE_EXIT))
		end(vm, VM_END_EXIT, value, "%s", "");
	else if (events & BIT(MACHINE_POWEROFF))
		end(vm, VM_END_POWEROFF, 0, "%s", "");
	else if (events & BIT(MACHINE_PANICKED))
		end(vm, VM_END_PANIC, CODE_PANIC, "the guest's kernel crashed");
	else if (events & EVENT_ERROR)
		end(vm, VM_END_ERROR, CODE_ERROR, "%s", text);
	else if (events & BIT(MACHINE_SHUTDOWN))
		end(vm, VM_END_TRIPLE_FAULT, CODE_TRIPLE_FAULT, "%s",
		    text[0] ? text : "triple fault");
	else if (events & BIT(MACHINE_RESET))
		reset_by_guest(vm);
	else if (vm->status == VM_CREATED && (events & EVENT_START))
		start(vm);
	else if (vm->status == VM_CREATED && (events & EVENT_HOLD))
		set_status(vm, VM_PAUSED);
}

/*
 * From outside: each goes to the main loop
 */

struct call {
	struct vm *vm;
	struct err *err;
	int result;
};

static void call_resume(void *opaque)
{
	struct call *call = opaque;
	struct vm *vm = call->vm;

	/* What the CPUs noted on their way to the pause may be its end. */
	handle_events(vm);
	if (vm->status == VM_ENDED)
		call->result = -EINVAL;
	else if (vm->status != VM_RUNNING)
		start(vm);
}

static void call_pause(void *opaque)
{
	struct call *call = opaque;
	struct vm *vm = call->vm;

	if (vm->status == VM_RUNNING)
		stop(vm);
	if (vm->status == VM_ENDED)
		call->result = -EINVAL;
	else
		set_status(vm, VM_PAUSED);
}

static void call_reset(void *opaque)
{
	struct call *call = opaque;

	if (call->vm->status == VM_ENDED)
		call->result = -EINVAL;
	else
		call->result = reset(call->vm, call->err);
}

static void call_powerbutton(void *opaque)
{
	struct call *call = opaque;

	if (call->vm->status != VM_RUNNING)
		call->result = -EINVAL;
	else
		pc_press_power_button(call->vm);
}

static int on_loop(struct vm *vm, void (*fn)(void *opaque), struct err *err)
{
	struct call call = { .vm = vm, .err = err };

	loop_call(vm->loop, fn, &call);
	return call.result;
}

int vm_resume(struct vm *vm)
{
	return on_loop(vm, call_resume, NULL);
}

int vm_pause(struct vm *vm)
{
	return on_loop(vm, call_pause, NULL);
}

int vm_reset(struct vm *vm, struct err *err)
{
	return on_loop(vm, call_reset, err);
}

int vm_powerbutton(struct vm *vm)
{
	return on_loop(vm, call_powerbutton, NULL);
}

void vm_quit(struct vm *vm, int code)
{
	note(vm, EVENT_QUIT, code, NULL);
}

struct vm_outcome vm_run(struct vm *vm, bool start_paused)
{
	/* Only then: who sees it run or paused can count on the loop. */
	note(vm, start_paused ? EVENT_HOLD : EVENT_START, 0, NULL);
	while (vm->status != VM_ENDED)
		loop_run(vm->loop);
	return vm->outcome;
}

/*
 * Creation
 */

static int64_t host_now(void *opaque)
{
	return clock_now_ns();
}

static uint64_t host_tsc(void *opaque)
{
	return clock_tsc();
}

static void clock_due(void *opaque)
{
	struct vm *vm = opaque;

	vclock_expire(vm->clock);
}

static void host_arm(void *opaque, int64_t host_ns)
{
	struct vm *vm = opaque;

	loop_timer(vm->loop, host_ns, clock_due, vm);
}

static int create_loop(struct vm *vm, struct err *err)
{
	const struct vclock_host host = {
		.now = host_now, .arm = host_arm, .tsc = host_tsc, .opaque = vm
	};
	int r = loop_create(&vm->loop, "main", err);

	if (r)
		return r;
	loop_add_stats(vm->loop, &vm->stats);
	vm->clock = vclock_create(&host, clock_tsc_khz());
	vm->pio = bus_create("pio", true);
	vm->mmio = bus_create("mmio", false);
	if (!vm->clock || !vm->pio || !vm->mmio)
		return err_set(err, ENOMEM, NULL, "cannot make buses:");
	return 0;
}

static bool is_software(const struct accel_ops *ops)
{
	return ops != &accel_kvm && ops != &accel_kvm_user;
}

static int create_cpus(struct vm *vm, const struct vm_config *config,
		       const struct accel_ops *ops, struct err *err)
{
	const struct cpu_topology *t = &config->cpus;
	struct cpuid_config cpuid = {
		.topology = { MAX(t->sockets, 1u), MAX(t->cores, 1u),
			      MAX(t->threads, 1u) },
		.pv = !config->no_pv,
		.is_software = is_software(ops),
		.tsc_khz = vclock_tsc_khz(vm->clock),
	};
	uint64_t nr = (uint64_t)cpuid.topology.sockets * cpuid.topology.cores;
	int r;

	if (nr > MAX_VCPUS || nr * cpuid.topology.threads > MAX_VCPUS)
		return err_set(err, EINVAL, "give fewer CPUs",
			       "cannot make more than %u CPUs", MAX_VCPUS);
	nr *= cpuid.topology.threads;
	vm->cpus = (struct vcpus){
		.ops = ops,
		.mem = &vm->mem,
		.pio = vm->pio,
		.mmio = vm->mmio,
		.clock = vm->clock,
		.stats = &vm->stats,
		.unmapped = config->unmapped,
		.options = config->accel_options,
		.events = { .shutdown = cpu_stopped, .opaque = vm },
	};
	cpuid_policy_init(&vm->cpus.cpuid, &cpuid);
	r = memmap_init(&vm->map, config->mem_size,
			(unsigned)vm->cpus.cpuid.config.phys_bits, err);
	if (!r)
		r = memmap_populate(&vm->map, &vm->mem, err);
	if (!r)
		r = vcpus_create(&vm->cpus, (unsigned)nr, err);
	if (r)
		return r;
	if (ops->doorbell) {
		bus_set_doorbell_ops(vm->pio, ops->doorbell, vm->cpus.accel);
		bus_set_doorbell_ops(vm->mmio, ops->doorbell, vm->cpus.accel);
	}
	vm->env = (struct device_env){
		.pio = vm->pio,
		.mmio = vm->mmio,
		.clock = vm->clock,
		.irqchip = &vm->irqchip,
		.dma = &vm->dma,
		.loop = vm->loop,
		.stats = &vm->stats,
		.nr_cpus = (unsigned)nr,
		.event = device_raised,
		.event_opaque = vm,
	};
	return 0;
}

static int choose_accel(const struct vm_config *config,
			const struct accel_ops **ops, struct err *err)
{
	char reason[500];
	int r;

	*ops = config->accel_ops;
	if (*ops)
		return 0;
	if ((config->accel_options.check || config->accel_options.trace) &&
	    (!config->accel || strcmp(config->accel, accel_bt.name) != 0))
		return err_set(err, EINVAL, "say --accel bt",
			       "check= and --trace are for accelerator bt");
	r = accel_choose(ops, config->accel, accels, reason, sizeof(reason),
			 err);
	if (!r && reason[0])
		fprintf(stderr, "ringer: accel: %s\n", reason);
	return r;
}

int vm_create(struct vm **out, const struct vm_config *config, struct err *err)
{
	const struct accel_ops *ops = NULL;
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return err_set(err, ENOMEM, NULL, "cannot make a machine:");
	snprintf(vm->name, sizeof(vm->name), "%s",
		 config->name ? config->name : "vm");
	vm->end_on_reset = config->end_on_reset;
	vm->catch_up = config->catch_up;
	stats_init(&vm->stats);
	list_init(&vm->devices);
	gmem_init(&vm->mem);
	vm->dma.mem = &vm->mem;
	pthread_mutex_init(&vm->event_lock, NULL);
	list_init(&vm->event_work.link);
	vm->event_work.fn = handle_events;
	vm->event_work.opaque = vm;

	r = boot_open(&vm->boot, config, err);
	if (!r)
		r = choose_accel(config, &ops, err);
	if (!r)
		r = create_loop(vm, err);
	if (!r)
		r = create_cpus(vm, config, ops, err);
	if (!r)
		r = pc_create(vm, config, err);
	if (!r)
		r = pc_power_on(vm, err);
	if (r) {
		vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

/* Also of a machine that vm_create() could not complete. */
void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->cpus.vcpu)
		stop(vm);
	pc_destroy(vm);
	if (vm->cpus.vcpu)
		vcpus_destroy(&vm->cpus);
	bus_destroy(vm->mmio);
	bus_destroy(vm->pio);
	vclock_destroy(vm->clock);
	if (vm->loop)
		loop_destroy(vm->loop);
	gmem_finish(&vm->mem);
	boot_close(vm->boot);
	pthread_mutex_destroy(&vm->event_lock);
	free(vm);
}
