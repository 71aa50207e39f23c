#include "control/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "arch/paging.h"
#include "host/clock.h"
#include "machine/vm.h"

/* A dump into the answer is for eyes; more goes to a file. */
#define DUMP_TEXT_MAX 4096

/* ---- arguments ---------------------------------------------------------- */

/* A number, or a string with one in C's syntax (JSON has no hexadecimal). */
static bool get_number(const json_t *args, const char *name, uint64_t *out)
{
	const json_t *v = json_object_get(args, name);
	char *end;

	if (json_is_integer(v)) {
		*out = (uint64_t)json_integer_value(v);
		return true;
	}
	if (!json_is_string(v))
		return false;
	errno = 0;
	*out = strtoull(json_string_value(v), &end, 0);
	return !errno && end != json_string_value(v) && !*end;
}

static int check_arg(const struct command *cmd, const struct command_arg *arg,
		     const json_t *args, struct err *err)
{
	const json_t *v = json_object_get(args, arg->name);
	uint64_t n;
	bool ok;

	if (!v && !arg->is_required)
		return 0;
	if (!v)
		return err_set(err, EINVAL, arg->help,
			       "%s needs the argument '%s'", cmd->name,
			       arg->name);
	switch (arg->type) {
	case ARG_NUMBER:
		ok = get_number(args, arg->name, &n);
		break;
	case ARG_BOOL:
		ok = json_is_boolean(v);
		break;
	default:
		ok = json_is_string(v);
		break;
	}
	if (!ok)
		return err_set(err, EINVAL, arg->help,
			       "%s: '%s' has a wrong value", cmd->name,
			       arg->name);
	return 0;
}

static bool has_arg(const struct command *cmd, const char *name)
{
	for (const struct command_arg *a = cmd->args; a && a->name; a++)
		if (!strcmp(a->name, name))
			return true;
	return false;
}

json_t *command_run(const struct command *cmd, struct vm *vm,
		    const json_t *args, struct err *err)
{
	const char *key;
	json_t *value, *result;

	json_object_foreach((json_t *)(uintptr_t)args, key,
			    value) if (!has_arg(cmd, key))
	{
		err_set(err, EINVAL, NULL, "Parameter '%.60s' is unexpected",
			key);
		return NULL;
	}
	for (const struct command_arg *a = cmd->args; a && a->name; a++)
		if (check_arg(cmd, a, args, err))
			return NULL;
	result = cmd->fn(vm, args, err);
	if (!result)
		err_set(err, EIO, NULL, "%s failed", cmd->name);
	return result;
}

static json_t *nothing(void)
{
	return json_object();
}

static json_t *hex(uint64_t v)
{
	return json_sprintf("0x%" PRIx64, v);
}

/* ---- life --------------------------------------------------------------- */

static json_t *cmd_status(struct vm *vm, const json_t *args, struct err *err)
{
	enum vm_status status = vm_status(vm);
	/* Both clocks of one moment: their difference is how far they drift. */
	int64_t host_ns = clock_now_ns(), guest_ns = vclock_now(vm->clock);

	return json_pack("{s:s, s:s, s:b, s:s, s:i, s:I, s:I, s:I, s:I}",
			 "name", vm->name, "status", vm_status_name(status),
			 "running", status == VM_RUNNING, "accel",
			 vm->cpus.ops->name, "cpus", (int)vm->cpus.nr, "memory",
			 (json_int_t)gmem_ram_size(&vm->mem), "resets",
			 (json_int_t)vm->nr_resets, "guest_ns",
			 (json_int_t)guest_ns, "host_ns", (json_int_t)host_ns);
}

static json_t *done_or(int r, const char *what, struct err *err)
{
	if (!r)
		return nothing();
	err_set(err, -r, NULL, "cannot %s:", what);
	return NULL;
}

static json_t *cmd_pause(struct vm *vm, const json_t *args, struct err *err)
{
	return done_or(vm_pause(vm), "pause", err);
}

static json_t *cmd_resume(struct vm *vm, const json_t *args, struct err *err)
{
	return done_or(vm_resume(vm), "resume", err);
}

static json_t *cmd_reset(struct vm *vm, const json_t *args, struct err *err)
{
	return done_or(vm_reset(vm, err), "reset", err);
}

static json_t *cmd_powerdown(struct vm *vm, const json_t *args, struct err *err)
{
	return done_or(vm_powerbutton(vm), "press the power button", err);
}

static json_t *cmd_quit(struct vm *vm, const json_t *args, struct err *err)
{
	vm_quit(vm, 0);
	return nothing();
}

/* ---- looking inside ----------------------------------------------------- */

static json_t *cmd_stats(struct vm *vm, const json_t *args, struct err *err)
{
	json_t *all = json_object();
	struct stats_group *g;

	list_for_each (g, &vm->stats.groups, link) {
		json_t *group = json_object();

		for (const struct stat_desc *d = g->descs; d->name; d++) {
			uint64_t n = stats_read(g, d);

			if (n || !g->is_sparse)
				json_object_set_new(
					group, d->name,
					json_integer((json_int_t)n));
		}
		json_object_set_new(all, g->name, group);
	}
	return all;
}

static void add_range(void *opaque, const struct bus_range *r)
{
	json_array_append_new(
		opaque,
		json_pack("{s:o, s:o, s:s, s:I, s:I}", "from", hex(r->base),
			  "to", hex(r->base + r->len - 1), "owner", r->name,
			  "reads", (json_int_t)r->nr_reads, "writes",
			  (json_int_t)r->nr_writes));
}

static json_t *cmd_ports(struct vm *vm, const json_t *args, struct err *err)
{
	json_t *list = json_array();

	bus_for_each(vm->pio, add_range, list);
	return list;
}

static json_t *cmd_memory(struct vm *vm, const json_t *args, struct err *err)
{
	json_t *ram = json_array(), *mmio = json_array();

	for (unsigned i = 0; i < vm->mem.nr_regions; i++) {
		const struct gmem_region *r = &vm->mem.region[i];

		json_array_append_new(ram,
				      json_pack("{s:o, s:o, s:s, s:b}", "from",
						hex(r->gpa), "to",
						hex(r->gpa + r->size - 1),
						"owner", r->name, "readonly",
						(r->flags & GMEM_RO) != 0));
	}
	bus_for_each(vm->mmio, add_range, mmio);
	return json_pack("{s:o, s:o}", "memory", ram, "registers", mmio);
}

static json_t *cmd_rings(struct vm *vm, const json_t *args, struct err *err)
{
	json_t *all = json_object();
	struct device *dev;
	char text[4096];

	list_for_each (dev, &vm->devices, link) {
		if (!dev->cls->describe)
			continue;
		text[0] = 0;
		dev->cls->describe(dev, text, sizeof(text));
		json_object_set_new(all, dev->id, json_string(text));
	}
	return all;
}

/* Stop the CPUs for as long as it takes to look. Returns whether they ran. */
static bool hold(struct vm *vm)
{
	bool was_running = vm_status(vm) == VM_RUNNING;

	if (was_running)
		vm_pause(vm);
	return was_running;
}

static void release(struct vm *vm, bool was_running)
{
	if (was_running)
		vm_resume(vm);
}

static int get_cpu_state(struct vm *vm, const json_t *args,
			 struct x86_state *st, struct err *err)
{
	uint64_t cpu = 0;
	bool was_running;
	int r;

	get_number(args, "cpu", &cpu);
	if (cpu >= vm->cpus.nr)
		return err_set(err, EINVAL, NULL,
			       "there is no CPU %" PRIu64 ": it has %u", cpu,
			       vm->cpus.nr);
	was_running = hold(vm);
	r = vcpu_get_state(&vm->cpus.vcpu[cpu], st);
	release(vm, was_running);
	return r ? err_set(err, -r, NULL, "cannot read CPU %" PRIu64 ":", cpu)
		 : 0;
}

static json_t *cmd_registers(struct vm *vm, const json_t *args, struct err *err)
{
	static const char *const names[NR_GPR] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
	};
	struct x86_state st = { 0 };
	json_t *all;

	if (get_cpu_state(vm, args, &st, err))
		return NULL;
	all = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i}", "rip",
			hex(st.rip), "rflags", hex(st.rflags), "cr0",
			hex(st.cr0), "cr2", hex(st.cr2), "cr3", hex(st.cr3),
			"cr4", hex(st.cr4), "efer", hex(st.efer), "cpl",
			(int)x86_cpl(&st), "activity", (int)st.activity);
	for (unsigned i = 0; i < NR_GPR; i++)
		json_object_set_new(all, names[i], hex(st.gpr[i]));
	return all;
}

static void *table_entry(void *opaque, uint64_t gpa)
{
	return gmem_at(opaque, gpa, 8);
}

static json_t *xlate_steps(const struct paging_result *r)
{
	json_t *steps = json_array();

	for (unsigned i = 0; i < r->nr_steps; i++)
		json_array_append_new(steps,
				      json_pack("{s:s, s:o, s:o}", "table",
						r->step[i].level, "at",
						hex(r->step[i].gpa), "entry",
						hex(r->step[i].entry)));
	return steps;
}

static json_t *cmd_xlate(struct vm *vm, const json_t *args, struct err *err)
{
	struct paging_ops ops = { .entry = table_entry, .opaque = &vm->mem };
	struct paging_access access = { .no_ad = true };
	struct gmem_region *region;
	struct paging_result r;
	struct x86_state st = { 0 };
	uint64_t gva = 0;
	json_t *out;
	void *hva;

	get_number(args, "gva", &gva);
	if (get_cpu_state(vm, args, &st, err))
		return NULL;
	if (x86_is_long64(&st) && !is_canonical(gva, 48)) {
		err_set(err, EINVAL, NULL, "0x%" PRIx64 " is not canonical",
			gva);
		return NULL;
	}
	if (!paging_walk(&st, &ops, gva, access, &r))
		return json_pack("{s:o, s:b, s:o, s:o}", "gva", hex(gva),
				 "mapped", 0, "error", hex(r.error), "steps",
				 xlate_steps(&r));
	out = json_pack("{s:o, s:b, s:o, s:i, s:b, s:b, s:b, s:o}", "gva",
			hex(gva), "mapped", 1, "gpa", hex(r.gpa), "page_size",
			1 << r.size_log2, "writable", r.can_write, "user",
			r.can_user, "executable", r.can_exec, "steps",
			xlate_steps(&r));
	region = gmem_find(&vm->mem, r.gpa);
	hva = gmem_at(&vm->mem, r.gpa, 1);
	if (hva) {
		json_object_set_new(out, "hva", hex((uintptr_t)hva));
		json_object_set_new(out, "owner", json_string(region->name));
	}
	return out;
}

/* ---- dumps -------------------------------------------------------------- */

static json_t *dump_text(const uint8_t *p, uint64_t gpa, uint64_t len)
{
	json_t *lines = json_array();

	for (uint64_t at = 0; at < len; at += 16) {
		char line[120];
		int n = snprintf(line, sizeof(line), "%012" PRIx64 " ",
				 gpa + at);

		for (uint64_t i = at; i < MIN(at + 16, len); i++)
			n += snprintf(line + n, sizeof(line) - (size_t)n,
				      " %02x", p[i]);
		json_array_append_new(lines, json_string(line));
	}
	return lines;
}

static int dump_file(const char *path, const uint8_t *p, uint64_t len,
		     struct err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t done = 0;
	int r = 0;

	if (fd < 0)
		return err_set(err, errno, NULL, "cannot write '%s':", path);
	while (done < len) {
		ssize_t n = write(fd, p + done, MIN(len - done, 16 * MiB));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = err_set(err, errno, NULL,
				    "cannot write '%s':", path);
			break;
		}
		done += (uint64_t)n;
	}
	if (close(fd) && !r)
		r = err_set(err, errno, NULL, "cannot write '%s':", path);
	return r;
}

static json_t *cmd_dump(struct vm *vm, const json_t *args, struct err *err)
{
	const char *path = json_string_value(json_object_get(args, "file"));
	uint64_t gpa = 0, len = 256;
	bool was_running;
	uint8_t *p;
	json_t *out;

	get_number(args, "gpa", &gpa);
	get_number(args, "length", &len);
	p = len ? gmem_at(&vm->mem, gpa, len) : NULL;
	if (!p) {
		err_set(err, EFAULT,
			"ringer ctl NAME memory shows what is there",
			"0x%" PRIx64 " and %" PRIu64
			" bytes are not one range of memory",
			gpa, len);
		return NULL;
	}
	if (!path && len > DUMP_TEXT_MAX) {
		err_set(err, EINVAL, "add file=PATH",
			"%" PRIu64 " bytes are too many to print", len);
		return NULL;
	}
	was_running = hold(vm);
	if (!path)
		out = dump_text(p, gpa, len);
	else
		out = dump_file(path, p, len, err)
			      ? NULL
			      : json_pack("{s:s, s:I}", "file", path, "bytes",
					  (json_int_t)len);
	release(vm, was_running);
	return out;
}

/* ---- the table ---------------------------------------------------------- */

static json_t *cmd_commands(struct vm *vm, const json_t *args, struct err *err)
{
	json_t *list = json_array();

	for (const struct command *c = commands; c->name; c++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "name",
						      c->qmp ? c->qmp : c->name,
						      "help", c->help));
	return list;
}

static const struct command_arg cpu_args[] = {
	{ "cpu", ARG_NUMBER, false, "cpu=N: which CPU, 0 by default" },
	{ .name = NULL },
};

static const struct command_arg xlate_args[] = {
	{ "gva", ARG_NUMBER, true, "gva=ADDRESS: guest-virtual address" },
	{ "cpu", ARG_NUMBER, false, "cpu=N: which CPU, 0 by default" },
	{ .name = NULL },
};

static const struct command_arg dump_args[] = {
	{ "gpa", ARG_NUMBER, true, "gpa=ADDRESS: guest-physical address" },
	{ "length", ARG_NUMBER, false, "length=BYTES: 256 by default" },
	{ "file", ARG_STRING, false, "file=PATH: write there, as raw bytes" },
	{ .name = NULL },
};

/* clang-format off */
const struct command commands[] = {
	{ "status", "query-status", "what it is and what it does", NULL,
	  cmd_status },
	{ "pause", "stop", "stop its CPUs and its time", NULL, cmd_pause },
	{ "resume", "cont", "let it run again", NULL, cmd_resume },
	{ "reset", "system_reset", "press the reset button", NULL, cmd_reset },
	{ "powerdown", "system_powerdown",
	  "press the power button: the guest shuts down", NULL, cmd_powerdown },
	{ "quit", "quit", "end it now, as if power failed", NULL, cmd_quit },
	{ "stats", NULL, "all counters, by owner", NULL, cmd_stats },
	{ "registers", NULL, "a CPU's registers", cpu_args, cmd_registers },
	{ "xlate", NULL,
	  "guest-virtual to guest-physical to host address, step by step",
	  xlate_args, cmd_xlate },
	{ "dump", NULL, "guest-physical memory, as text or to a file",
	  dump_args, cmd_dump },
	{ "ports", NULL, "port ranges and their owners", NULL, cmd_ports },
	{ "memory", NULL, "memory and register ranges and their owners", NULL,
	  cmd_memory },
	{ "rings", NULL, "the live queues of every device", NULL, cmd_rings },
	{ "commands", "query-commands", "this list", NULL, cmd_commands },
	{ .name = NULL },
};
/* clang-format on */

const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name) || (c->qmp && !strcmp(c->qmp, name)))
			return c;
	return NULL;
}
