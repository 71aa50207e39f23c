/* What stopped the guest, and what is done about it: one table. */
#include "vcpu/exit.h"

#include "base/bits.h"
#include "base/endian.h"
#include "vcpu/vcpu.h"

const char *exit_name(enum exit_reason reason)
{
	static const char *const names[NR_EXIT_REASONS] = {
#define X(name, text) [EXIT_##name] = text,
		EXIT_REASONS(X)
#undef X
	};

	return reason < NR_EXIT_REASONS ? names[reason] : "?";
}

void vcpu_pio(struct vcpu *vcpu, const struct access *a)
{
	struct bus *bus = vcpu->set->pio;
	uint8_t *item = a->data;

	vcpu->stats.exits[EXIT_PIO]++;
	for (uint32_t i = 0; i < a->count; i++, item += a->size) {
		if (a->is_write)
			bus_write(bus, vcpu->index, a->addr, a->size,
				  load_le(item, a->size));
		else
			store_le(item, a->size,
				 bus_read(bus, vcpu->index, a->addr, a->size));
	}
}

bool vcpu_mmio(struct vcpu *vcpu, const struct access *a)
{
	struct vcpus *vs = vcpu->set;

	vcpu->stats.exits[EXIT_MMIO]++;
	if (!a->is_write) {
		store_le(a->data, a->size,
			 bus_read(vs->mmio, vcpu->index, a->addr, a->size));
		return vs->unmapped == UNMAPPED_IGNORE ||
		       bus_is_mapped(vs->mmio, a->addr);
	}
	if (bus_write(vs->mmio, vcpu->index, a->addr, a->size,
		      load_le(a->data, a->size)))
		return true;
	/* A write to ROM comes here too, and is dropped. */
	return vs->unmapped == UNMAPPED_IGNORE || gmem_find(vs->mem, a->addr);
}

static void handle_nothing(struct vcpu *vcpu, const struct exit *exit)
{
}

static void handle_hlt(struct vcpu *vcpu, const struct exit *exit)
{
	vcpu->stats.halts++;
	vcpu_sleep(vcpu);
}

/* The CPU cannot go on: the machine decides; this CPU waits for a new state. */
static void handle_end(struct vcpu *vcpu, const struct exit *exit)
{
	struct vcpus_events *ev = &vcpu->set->events;

	vcpu->is_dead = true;
	if (ev->shutdown)
		ev->shutdown(ev->opaque, vcpu, exit);
}

static void (*const exit_handlers[NR_EXIT_REASONS])(struct vcpu *vcpu,
						    const struct exit *exit) = {
	[EXIT_KICK] = handle_nothing, [EXIT_PIO] = handle_nothing,
	[EXIT_MMIO] = handle_nothing, [EXIT_HLT] = handle_hlt,
	[EXIT_SHUTDOWN] = handle_end, [EXIT_HYPERCALL] = handle_nothing,
	[EXIT_MSR] = handle_nothing,  [EXIT_CPUID] = handle_nothing,
	[EXIT_DEBUG] = handle_end,    [EXIT_UNMAPPED] = handle_end,
	[EXIT_ERROR] = handle_end,
};

void vcpu_handle_exit(struct vcpu *vcpu, const struct exit *exit)
{
	exit_handlers[exit->reason](vcpu, exit);
}
