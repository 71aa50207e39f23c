/* ringer run: a machine in the foreground. */
#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/opt.h"
#include "cli/args.h"
#include "control/server.h"
#include "machine/vm.h"

struct run_args {
	const char *kernel, *initrd, *append, *memory, *cpus, *accel, *name,
		*unmapped, *profile, *debugcon, *trace;
	struct cli_list disks, serials, devices, modules;
	bool rw, paused, no_reboot, catch_up, verbose, stats;
};

/* ---- from words to a configuration -------------------------------------- */

/* Storage that a vm_config borrows. */
struct run_plan {
	struct vm_config config;
	struct blk_options disks[CLI_LIST_MAX];
	struct vm_module modules[CLI_LIST_MAX];
	char *module_text[CLI_LIST_MAX];
	char name[32];
};

struct cpus_opts {
	unsigned n, sockets, cores, threads;
};

static const struct opt_desc cpus_descs[] = {
	{ .name = "n",
	  .type = OPT_UINT,
	  .offset = offsetof(struct cpus_opts, n),
	  .help = "virtual CPUs",
	  .min = 1,
	  .max = MAX_VCPUS },
	{ .name = "sockets",
	  .type = OPT_UINT,
	  .offset = offsetof(struct cpus_opts, sockets),
	  .help = "packages",
	  .min = 1,
	  .max = MAX_VCPUS },
	{ .name = "cores",
	  .type = OPT_UINT,
	  .offset = offsetof(struct cpus_opts, cores),
	  .help = "cores in a package",
	  .min = 1,
	  .max = MAX_VCPUS },
	{ .name = "threads",
	  .type = OPT_UINT,
	  .offset = offsetof(struct cpus_opts, threads),
	  .help = "threads in a core",
	  .min = 1,
	  .max = MAX_VCPUS },
	OPT_END
};

/* What was left open among sockets, cores and threads follows from the rest;
 * more CPUs become more cores. */
static int plan_cpus(const char *text, struct cpu_topology *t, struct err *err)
{
	struct cpus_opts o = { 0 };
	char buf[128];
	long host = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n;
	int r;

	if (!text) {
		*t = (struct cpu_topology){ 1, (unsigned)MIN(MAX(host, 1), 2),
					    1 };
		return 0;
	}
	snprintf(buf, sizeof(buf), "%s%s",
		 text[strcspn(text, "=,")] == '=' ? "" : "n=", text);
	r = opt_parse(cpus_descs, "--cpus", buf, &o, err);
	if (r)
		return r;
	t->threads = MAX(o.threads, 1U);
	t->sockets = MAX(o.sockets, 1U);
	t->cores = o.cores;
	n = o.n ? o.n : t->sockets * MAX(t->cores, 1U) * t->threads;
	if (!t->cores)
		t->cores = MAX(n / (t->sockets * t->threads), 1U);
	if (!o.sockets && o.cores)
		t->sockets = MAX(n / (t->cores * t->threads), 1U);
	if (t->sockets * t->cores * t->threads != n || n > MAX_VCPUS)
		return err_set(err, EINVAL,
			       "sockets x cores x threads must be the number "
			       "of CPUs, at most 64",
			       "--cpus %s: %u sockets x %u cores x %u threads "
			       "are not %u CPUs",
			       text, t->sockets, t->cores, t->threads, n);
	return 0;
}

static int plan_memory(const char *text, uint64_t *size, struct err *err)
{
	if (opt_size(text ? text : "1G", MiB, size))
		return err_set(err, EINVAL,
			       "a number of MiB, or with K, M, G or T",
			       "--memory: '%s' is no size", text);
	if (*size < 2 * MiB || *size % PAGE_SIZE)
		return err_set(err, EINVAL, "give 2M or more, in whole pages",
			       "--memory %s is not possible", text);
	return 0;
}

static int plan_choice(const char *what, const char *text,
		       const char *const *choices, int *out, struct err *err)
{
	struct opt_desc desc = { .name = what,
				 .type = OPT_CHOICE,
				 .choices = choices };
	char name[32];

	snprintf(name, sizeof(name), "--%s", what);
	*out = 0;
	return text ? opt_set(&desc, name, text, out, err) : 0;
}

struct accel_opts {
	int name, check;
};

static const char *const accels[] = { "auto", "kvm",    "kvm-user",
				      "bt",   "interp", NULL };
static const char *const checks[] = { "off", "lockstep", NULL };

static const struct opt_desc accel_descs[] = {
	{ .name = "name",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct accel_opts, name),
	  .help = "the accelerator",
	  .choices = accels },
	{ .name = "check",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct accel_opts, check),
	  .help = "bt: lockstep compares each block with interp (off)",
	  .choices = checks },
	OPT_END
};

static int plan_accel(const char *text, struct vm_config *c, struct err *err)
{
	struct accel_opts o = { 0, 0 };
	char buf[128];
	int r;

	snprintf(buf, sizeof(buf), "%s%s",
		 text && text[strcspn(text, "=,")] == '=' ? "" : "name=",
		 text ? text : "auto");
	r = opt_parse(accel_descs, "--accel", buf, &o, err);
	c->accel = accels[o.name];
	c->accel_options.check = o.check;
	return r;
}

/* "blocks" or "blocks=FILE" */
static int plan_trace(const char *text, struct vm_config *c, struct err *err)
{
	static const char what[] = "blocks";
	size_t len = sizeof(what) - 1;

	if (!text)
		return 0;
	if (strncmp(text, what, len) != 0 || (text[len] && text[len] != '='))
		return err_set(err, EINVAL, "give blocks or blocks=FILE",
			       "--trace: there is no '%s'", text);
	c->accel_options.trace = text + len + (text[len] == '=');
	return 0;
}

static int plan(struct run_plan *p, const struct run_args *a, struct err *err)
{
	static const char *const policies[] = { "ignore", "kill", "inject",
						NULL };
	static const char *const profiles[] = { "pv", "full", NULL };
	static const char *const stdio[] = { "stdio" };
	struct vm_config *c = &p->config;
	int policy, profile, r;

	r = plan_memory(a->memory, &c->mem_size, err);
	if (!r)
		r = plan_cpus(a->cpus, &c->cpus, err);
	if (!r)
		r = plan_choice("unmapped", a->unmapped, policies, &policy,
				err);
	if (!r)
		r = plan_choice("profile", a->profile, profiles, &profile, err);
	if (!r)
		r = plan_accel(a->accel, c, err);
	if (!r)
		r = plan_trace(a->trace, c, err);
	if (r)
		return r;
	snprintf(p->name, sizeof(p->name), "vm-%ld", (long)getpid());
	c->name = a->name ? a->name : p->name;
	c->unmapped = (enum unmapped_policy)policy;
	c->no_pv = profile == 1;
	c->end_on_reset = a->no_reboot;
	c->catch_up = a->catch_up;
	c->kernel = a->kernel;
	c->initrd = a->initrd;
	c->append = a->append;
	c->debugcon = a->debugcon;
	c->devices = a->devices.item;
	c->nr_devices = a->devices.nr;
	c->serials = a->serials.nr ? a->serials.item : stdio;
	c->nr_serials = a->serials.nr ? a->serials.nr : 1;
	for (unsigned i = 0; i < a->disks.nr; i++)
		p->disks[i] = (struct blk_options){ .path = a->disks.item[i],
						    .is_writable = a->rw };
	c->disks = p->disks;
	c->nr_disks = a->disks.nr;
	for (unsigned i = 0; i < a->modules.nr; i++) {
		char *text = strdup(a->modules.item[i]), *space;

		if (!text)
			return err_set(err, ENOMEM, NULL, "--module:");
		p->module_text[i] = text;
		space = strchr(text, ' ');
		if (space)
			*space++ = 0;
		p->modules[i] = (struct vm_module){ text, space };
	}
	c->modules = p->modules;
	c->nr_modules = a->modules.nr;
	return 0;
}

/* ---- running ------------------------------------------------------------- */

/* Signals come to the main loop as events. The first SIGINT asks the guest to
 * power off; a second one, SIGTERM and SIGHUP end the machine. */
struct signals {
	struct vm *vm;
	struct loop_fd fd;
	bool was_interrupted;
};

static void signal_ready(void *opaque, uint32_t events)
{
	struct signals *s = opaque;
	struct signalfd_siginfo info;

	if (read(s->fd.fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGINT && !s->was_interrupted) {
		s->was_interrupted = true;
		log_warn("asking the guest to power off; once more ends it");
		vm_powerbutton(s->vm);
		return;
	}
	vm_quit(s->vm, CLI_SIGNAL + (int)info.ssi_signo);
}

static void signal_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

static int signals_start(struct signals *s, struct vm *vm, struct err *err)
{
	sigset_t set;

	signal_set(&set);
	s->vm = vm;
	s->fd = (struct loop_fd){ .fn = signal_ready, .opaque = s };
	s->fd.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd.fd < 0)
		return err_set(err, errno, NULL, "cannot watch signals:");
	return loop_watch(vm->loop, &s->fd, EPOLLIN);
}

static void signals_stop(struct signals *s)
{
	loop_unwatch(&s->fd);
	close(s->fd.fd);
}

static void print_range(void *opaque, const struct bus_range *r)
{
	const char *bus = opaque;

	if (r->nr_reads || r->nr_writes)
		fprintf(stderr, "%s.%s.%llx: reads %llu, writes %llu\n", bus,
			r->name, (unsigned long long)r->base,
			(unsigned long long)r->nr_reads,
			(unsigned long long)r->nr_writes);
}

/* What was counted, and is not zero. */
static void print_stats(struct vm *vm)
{
	char pio[] = "pio", mmio[] = "mmio";
	struct stats_group *g;

	list_for_each (g, &vm->stats.groups, link) {
		for (const struct stat_desc *d = g->descs; d->name; d++) {
			uint64_t n = stats_read(g, d);

			if (n)
				fprintf(stderr, "%s.%s: %llu\n", g->name,
					d->name, (unsigned long long)n);
		}
	}
	bus_for_each(vm->pio, print_range, pio);
	bus_for_each(vm->mmio, print_range, mmio);
}

static int run_machine(struct vm *vm, const struct rundir *dir,
		       const struct run_args *a, struct err *err)
{
	struct vm_outcome outcome;
	struct control *control;
	struct signals signals = { 0 };

	if (control_create(&control, vm, dir, err))
		return CLI_FAILED;
	if (signals_start(&signals, vm, err)) {
		control_destroy(control);
		return CLI_FAILED;
	}
	outcome = vm_run(vm, a->paused);
	signals_stop(&signals);
	control_destroy(control);
	if (outcome.text[0])
		log_warn("%s", outcome.text);
	if (a->stats)
		print_stats(vm);
	return outcome.code;
}

static int run_planned(const struct run_plan *p, const struct run_args *a,
		       struct err *err)
{
	struct rundir dir;
	struct vm *vm;
	int code = CLI_FAILED;

	if (rundir_create(&dir, p->config.name, err))
		return CLI_FAILED;
	if (!vm_create(&vm, &p->config, err)) {
		code = run_machine(vm, &dir, a, err);
		vm_destroy(vm);
	}
	rundir_remove(&dir);
	return code;
}

static int run(const void *opaque)
{
	const struct run_args *a = opaque;
	struct run_plan *p = calloc(1, sizeof(*p));
	struct err err = { "", "" };
	sigset_t set;
	int code;

	if (!p)
		return CLI_FAILED;
	if (a->verbose)
		log_set_level(LOG_DEBUG);
	/* Before any thread exists, so that all inherit it. */
	signal_set(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	code = plan(p, a, &err) ? CLI_USAGE : run_planned(p, a, &err);
	for (unsigned i = 0; i < CLI_LIST_MAX; i++)
		free(p->module_text[i]);
	free(p);
	if (err.what[0])
		err_print(&err);
	return code;
}

/* ---- the verb ------------------------------------------------------------ */

#define MEMBER(m) offsetof(struct run_args, m)

/* clang-format off */
static const struct cli_option options[] = {
	{ 'k', "kernel", CLI_TEXT, MEMBER(kernel), "FILE",
	  "bzImage, ELF with a PVH note, or multiboot kernel" },
	{ 'i', "initrd", CLI_TEXT, MEMBER(initrd), "FILE", "initial RAM disk" },
	{ 'a', "append", CLI_TEXT, MEMBER(append), "TEXT",
	  "kernel command line" },
	{ 0, "module", CLI_LIST, MEMBER(modules), "\"FILE ARGS\"",
	  "multiboot module, with its command line" },
	{ 'd', "disk", CLI_LIST, MEMBER(disks), "FILE",
	  "raw disk image; writes go to a private overlay, thrown away at the "
	  "end" },
	{ 0, "rw", CLI_FLAG, MEMBER(rw), NULL,
	  "write through to the disk images" },
	{ 'm', "memory", CLI_TEXT, MEMBER(memory), "SIZE",
	  "memory in MiB, or with K, M, G, T (1G)" },
	{ 'c', "cpus", CLI_TEXT, MEMBER(cpus), "N[,sockets=,cores=,threads=]",
	  "virtual CPUs (2, or 1 on a host with one)" },
	{ 0, "accel", CLI_TEXT, MEMBER(accel), "NAME[,check=lockstep]",
	  "auto (what a probe finds fastest), kvm, kvm-user (with our own "
	  "interrupt chips), bt or interp" },
	{ 0, "serial", CLI_LIST, MEMBER(serials), "WHERE",
	  "serial port: stdio, none, file:PATH or unix:PATH (stdio)" },
	{ 0, "device", CLI_LIST, MEMBER(devices), "NAME[,key=value]",
	  "add a device; the list is below" },
	{ 0, "debugcon", CLI_TEXT, MEMBER(debugcon), "WHERE",
	  "debug console at port 0xE9" },
	{ 0, "name", CLI_TEXT, MEMBER(name), "NAME",
	  "the machine's name, for ringer list and ctl" },
	{ 0, "profile", CLI_TEXT, MEMBER(profile), "NAME",
	  "pv: show KVM's paravirtual interface; full: hide it (pv)" },
	{ 0, "unmapped", CLI_TEXT, MEMBER(unmapped), "POLICY",
	  "access outside memory and devices: ignore, kill, inject (ignore)" },
	{ 0, "no-reboot", CLI_FLAG, MEMBER(no_reboot), NULL,
	  "a reset by the guest ends the machine" },
	{ 0, "catch-up", CLI_FLAG, MEMBER(catch_up), NULL,
	  "after a pause, guest time jumps to where it would be" },
	{ 0, "paused", CLI_FLAG, MEMBER(paused), NULL,
	  "do not start until ringer ctl NAME resume" },
	{ 0, "stats", CLI_FLAG, MEMBER(stats), NULL,
	  "print all counters at the end" },
	{ 0, "trace", CLI_TEXT, MEMBER(trace), "blocks[=FILE]",
	  "bt: write each translated block down, guest and host side by side" },
	{ 'v', "verbose", CLI_FLAG, MEMBER(verbose), NULL, "say more" },
	{ .name = NULL },
};
/* clang-format on */

static const char *const examples[] = {
	"ringer run -k vmlinuz -i initrd -a console=ttyS0",
	"ringer run -k vmlinuz -i initrd -d root.img "
	"-a \"console=ttyS0 root=/dev/vda\"",
	"ringer run -k test.elf --serial none --device isa-debug-exit", NULL
};

static void print_devices(void)
{
	printf("\nDevices:\n");
	for (const struct device_class *const *c = device_classes; *c; c++) {
		printf("  %-16s %s\n", (*c)->name, (*c)->help);
		for (const struct opt_desc *o = (*c)->opts; o && o->name; o++)
			printf("    %-16s %s%s%s%s\n", o->name, o->help,
			       o->def ? " (" : "", o->def ? o->def : "",
			       o->def ? ")" : "");
	}
	printf("\nOn the terminal, Ctrl-a x ends the machine and Ctrl-a h "
	       "helps.\n");
}

const struct cli_verb cli_run = {
	.name = "run",
	.help = "Run a machine in the foreground",
	.examples = examples,
	.options = options,
	.args_size = sizeof(struct run_args),
	.more_help = print_devices,
	.run = run,
};
