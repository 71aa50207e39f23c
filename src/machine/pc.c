/*
 * The recipe of a PC, like Intel's Q35: what it has, where, and which interrupt
 * each part raises. Then what firmware would do between power-on and the start
 * of a kernel.
 *
 *	slot	function
 *	0	host bridge
 *	1..	virtio, in the order in which they are given
 *	28	root ports
 *	31	ISA bridge, with the PC's old devices behind it
 */
#include "machine/pc.h"

#include <errno.h>
#include <time.h>

#include "base/endian.h"
#include "chr/chr.h"
#include "device/chip/fwcfg.h"
#include "device/chip/hpet.h"
#include "device/chip/i8042.h"
#include "device/chip/irqchip.h"
#include "device/chip/isa_debug.h"
#include "device/chip/pit.h"
#include "device/chip/pm.h"
#include "device/chip/rtc.h"
#include "device/chip/uart.h"
#include "device/virtio/devices.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/smbios.h"
#include "machine/vm.h"

#define NR_ROOT_PORTS 3

/* The recipe's own part of a machine. */
struct pc {
	struct device *irqchip; /* NULL: the accelerator's */
	struct device *pm;
	struct irq_shared com_irq[2]; /* COM1 and 3, COM2 and 4 */
	struct pci_windows windows;
	struct cpu_topology cpus;
	uint64_t mem_size;
	uint8_t *rom; /* what is at MEM_ROM */
	bool is_used; /* memory is not fresh any more */
};

/* Take (*made), if there was no error (r), into the machine. */
static int add(struct vm *vm, int r, struct device *const *made)
{
	struct device *dev = *made;
	const char *name;

	if (r)
		return r;
	name = dev->cls->name;
	for (unsigned i = 1; vm_find_device(vm, dev->id); i++)
		snprintf(dev->id, sizeof(dev->id), "%.18s-%u", name, i);
	list_insert(&vm->devices, &dev->link);
	return 0;
}

/* Make one of (cls) with (text), "key=value,...", over its defaults, then let
 * (fill) change them. */
static int create_device(struct vm *vm, const struct device_class *cls,
			 const char *text,
			 void (*fill)(void *opts, const void *from),
			 const void *from, struct err *err)
{
	void *opts = calloc(1, MAX(cls->opts_size, 1));
	struct device *dev = NULL;
	char what[48];
	int r = 0;

	if (!opts)
		return err_set(err, ENOMEM, NULL, "cannot make %s:", cls->name);
	snprintf(what, sizeof(what), "--device %s", cls->name);
	if (cls->opts) {
		r = opt_defaults(cls->opts, opts, err);
		if (!r)
			r = opt_parse(cls->opts, what, text, opts, err);
	} else if (text) {
		r = err_set(err, EINVAL, NULL, "%s takes no options", what);
	}
	if (!r && fill)
		fill(opts, from);
	if (!r)
		r = add(vm, cls->create(&dev, &vm->env, opts, err), &dev);
	if (cls->opts)
		opt_free(cls->opts, opts);
	free(opts);
	return r;
}

static int create_interrupts(struct vm *vm, struct err *err)
{
	uint32_t apic_ids[MAX_VCPUS];
	const struct irqchip_opts opts = { .nr_cpus = vm->cpus.nr,
					   .apic_ids = apic_ids,
					   .ioapic_id = PC_IOAPIC_ID };
	int r;

	if (vm->cpus.has_irqchip) {
		vm->irqchip = (struct irqchip){ .ops = vm->cpus.ops->irqchip,
						.chip = vm->cpus.accel };
		return 0;
	}
	for (unsigned i = 0; i < vm->cpus.nr; i++)
		apic_ids[i] = cpuid_apic_id(&vm->pc->cpus, i);
	r = irqchip_create(&vm->pc->irqchip, &vm->env, &opts, err);
	r = add(vm, r, &vm->pc->irqchip);
	if (r)
		return r;
	vm->irqchip = irqchip_get(vm->pc->irqchip);
	for (unsigned i = 0; i < vm->cpus.nr; i++) {
		struct vcpu *vcpu = &vm->cpus.vcpu[i];

		vcpu->intc =
			irqchip_connect(vm->pc->irqchip, i, vcpu_port(vcpu));
	}
	return 0;
}

/* Both the PIT's and the RTC's wires lead through the HPET, which may take
 * them over. */
static int create_timers(struct vm *vm, struct err *err)
{
	const struct hpet_opts hpet = {
		.base = MEM_HPET,
		.legacy = { [HPET_LEGACY_PIT] =
				    irq_gsi_line(&vm->irqchip, PC_IRQ_PIT),
			    [HPET_LEGACY_RTC] =
				    irq_gsi_line(&vm->irqchip, PC_IRQ_RTC) },
		.route_mask = PC_HPET_GSIS,
	};
	struct rtc_opts rtc = {
		.ram_low = vm->map.low_end,
		.ram_high = vm->map.high_end - MEM_HIGH,
		.nr_cpus = vm->cpus.nr,
	};
	struct pit_opts pit = { 0 };
	struct device *hpet_dev = NULL, *dev = NULL;
	struct timespec now;
	int r;

	r = add(vm, hpet_create(&hpet_dev, &vm->env, &hpet, err), &hpet_dev);
	if (r)
		return r;
	pit.irq = hpet_legacy_line(hpet_dev, HPET_LEGACY_PIT);
	r = add(vm, pit_create(&dev, &vm->env, &pit, err), &dev);
	if (r)
		return r;
	clock_gettime(CLOCK_REALTIME, &now);
	rtc.wall_ns = now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
	rtc.irq = hpet_legacy_line(hpet_dev, HPET_LEGACY_RTC);
	return add(vm, rtc_create(&dev, &vm->env, &rtc, err), &dev);
}

static void quit_by_key(void *opaque)
{
	vm_quit(opaque, 0);
}

static int open_chr(struct vm *vm, struct chr **chr, const char *spec,
		    struct err *err)
{
	const struct chr_keys keys = { .quit = quit_by_key, .opaque = vm };

	return chr_open(chr, spec, vm->loop, &keys, err);
}

static int create_coms(struct vm *vm, const struct vm_config *config,
		       struct err *err)
{
	static const uint16_t ports[PC_NR_COMS] = PC_COM_PORTS;
	static const uint8_t irqs[PC_NR_COMS] = PC_COM_IRQS;

	if (config->nr_serials > PC_NR_COMS)
		return err_set(err, EINVAL, "use virtio-console for more",
			       "a PC has %u serial ports, not %u", PC_NR_COMS,
			       config->nr_serials);
	for (unsigned i = 0; i < 2; i++)
		vm->pc->com_irq[i].out = irq_gsi_line(&vm->irqchip, irqs[i]);
	for (unsigned i = 0; i < PC_NR_COMS; i++) {
		struct uart_opts opts = {
			.port = ports[i],
			.irq = irq_shared_line(&vm->pc->com_irq[i % 2], i / 2),
		};
		struct device *dev = NULL;
		int r = 0;

		if (i < config->nr_serials)
			r = open_chr(vm, &vm->serial[i], config->serials[i],
				     err);
		opts.chr = vm->serial[i];
		if (!r)
			r = uart_create(&dev, &vm->env, &opts, err);
		r = add(vm, r, &dev);
		if (r)
			return r;
	}
	return 0;
}

static void fill_debugcon(void *opts, const void *from)
{
	struct debugcon_opts *o = opts;

	free(o->chr); /* the default */
	o->chr = strdup(from);
}

/* The rest of what is behind the ISA bridge. */
static int create_isa(struct vm *vm, const struct vm_config *config,
		      struct err *err)
{
	const struct i8042_opts kbd = {
		.keyboard = irq_gsi_line(&vm->irqchip, PC_IRQ_KEYBOARD),
		.mouse = irq_gsi_line(&vm->irqchip, PC_IRQ_MOUSE),
	};
	const struct pm_opts pm = {
		.sci = irq_gsi_line(&vm->irqchip, PM_SCI_GSI),
	};
	struct device *dev = NULL;
	int r;

	r = add(vm, i8042_create(&dev, &vm->env, &kbd, err), &dev);
	if (!r)
		r = add(vm, pm_create(&vm->pc->pm, &vm->env, &pm, err),
			&vm->pc->pm);
	if (!r)
		r = add(vm, fwcfg_create(&dev, &vm->env, err), &dev);
	if (!r && config->debugcon)
		r = create_device(vm, &debugcon_class, NULL, fill_debugcon,
				  config->debugcon, err);
	return r;
}

static uint64_t vga_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	return size_mask(size);
}

static void vga_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
}

/* There is no display, but the place of its memory is taken. */
static int claim_vga(struct vm *vm, struct err *err)
{
	static const struct bus_ops ops = { .read = vga_read,
					    .write = vga_write };
	int r = bus_map(vm->mmio, MEM_VGA, MEM_VGA_SIZE, "vga", &ops, NULL,
			NULL);

	return r ? err_set(err, -r, NULL, "cannot claim VGA's memory:") : 0;
}

static int create_pci(struct vm *vm, struct err *err)
{
	struct pci_host host = {
		.pio = vm->pio,
		.mmio = vm->mmio,
		.dma = &vm->dma,
		.irqchip = &vm->irqchip,
		.ecam_base = MEM_ECAM,
		.nr_buses = MEM_NR_BUSES,
	};
	struct device *dev = NULL;
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(host.intx_gsi); i++)
		host.intx_gsi[i] = (uint8_t)(PC_GSI_INTX + i);
	r = pci_host_create(&vm->pci, &host, err);
	if (r)
		return r;
	vm->env.pci = vm->pci;
	r = add(vm, pc_host_bridge_create(&dev, &vm->env, err), &dev);
	if (!r)
		r = add(vm, pc_isa_bridge_create(&dev, &vm->env, err), &dev);
	for (unsigned i = 0; i < NR_ROOT_PORTS && !r; i++)
		r = add(vm, pc_root_port_create(&dev, &vm->env, i, err), &dev);
	vm->pc->windows = (struct pci_windows){
		.mmio32 = MEM_PCI32,
		.mmio32_size = MEM_PCI32_SIZE,
		.mmio64 = vm->map.pci64,
		.mmio64_size = vm->map.pci64_size,
		.pio = PC_PCI_PIO,
		.pio_size = PC_PCI_PIO_SIZE,
	};
	return r;
}

static void fill_disk(void *opts, const void *from)
{
	struct virtio_blk_options *to = opts;
	const struct blk_options *disk = from;
	static const char *const engines[] = { "auto", "io_uring", "threads" };

	to->file = strdup(disk->path);
	to->writable = disk->is_writable;
	to->readonly = disk->is_read_only;
	to->direct = disk->direct;
	for (int i = 0; disk->engine && i < (int)ARRAY_SIZE(engines); i++)
		if (!strcmp(disk->engine, engines[i]))
			to->engine = i;
}

/* "NAME,key=value,..." */
static int create_named(struct vm *vm, const char *spec, struct err *err)
{
	const struct device_class *cls;
	const char *comma = strchr(spec, ',');
	char name[32];
	int len = comma ? (int)(comma - spec) : (int)strlen(spec);

	snprintf(name, sizeof(name), "%.*s", len, spec);
	cls = device_find(name);
	if (!cls)
		return err_set(err, EINVAL, "see --device help",
			       "there is no device '%s'", name);
	return create_device(vm, cls, comma ? comma + 1 : NULL, NULL, NULL,
			     err);
}

int pc_create(struct vm *vm, const struct vm_config *config, struct err *err)
{
	struct pc *pc = calloc(1, sizeof(*pc));
	int r;

	vm->pc = pc;
	if (!pc)
		return err_set(err, ENOMEM, NULL, "cannot make a PC:");
	pc->cpus = vm->cpus.cpuid.config.topology;
	pc->mem_size = config->mem_size;
	r = claim_vga(vm, err);
	if (!r)
		r = create_interrupts(vm, err);
	if (!r)
		r = create_timers(vm, err);
	if (!r)
		r = create_pci(vm, err);
	if (!r)
		r = create_isa(vm, config, err);
	if (!r)
		r = create_coms(vm, config, err);
	for (unsigned i = 0; i < config->nr_disks && !r; i++)
		r = create_device(vm, &virtio_blk_device, NULL, fill_disk,
				  &config->disks[i], err);
	for (unsigned i = 0; i < config->nr_devices && !r; i++)
		r = create_named(vm, config->devices[i], err);
	/* Every machine has one, unless the user said how it is to be. */
	if (!r && !vm_find_device(vm, pvpanic_class.name))
		r = create_device(vm, &pvpanic_class, NULL, NULL, NULL, err);
	return r;
}

void pc_destroy(struct vm *vm)
{
	while (!list_is_empty(&vm->devices)) {
		struct device *dev =
			list_entry(vm->devices.prev, struct device, link);

		list_remove(&dev->link);
		dev->cls->destroy(dev);
	}
	for (unsigned i = 0; i < VM_MAX_SERIALS; i++)
		if (vm->serial[i])
			chr_close(vm->serial[i]);
	if (vm->pci)
		pci_host_destroy(vm->pci);
	if (vm->pc)
		free(vm->pc->rom);
	free(vm->pc);
	vm->pc = NULL;
}

void pc_press_power_button(struct vm *vm)
{
	pm_powerbutton(vm->pc->pm);
}

/*
 * What firmware does
 */

static int build_rom(struct vm *vm, struct err *err)
{
	uint32_t apic_ids[MAX_VCPUS];
	const struct acpi_config acpi = { .map = &vm->map,
					  .apic_ids = apic_ids,
					  .nr_cpus = vm->cpus.nr,
					  .nr_coms = PC_NR_COMS,
					  .has_pvpanic = true,
					  .has_fwcfg = true };
	const struct smbios_config smbios = { .map = &vm->map,
					      .mem_size = vm->pc->mem_size,
					      .cpus = vm->pc->cpus };
	int r;

	vm->pc->rom = calloc(1, MEM_ROM_SIZE);
	if (!vm->pc->rom)
		return err_set(err, ENOMEM, NULL, "cannot make ROM:");
	for (unsigned i = 0; i < vm->cpus.nr; i++)
		apic_ids[i] = cpuid_apic_id(&vm->pc->cpus, i);
	r = acpi_build(&acpi, vm->pc->rom + (MEM_ACPI - MEM_ROM), err);
	if (!r)
		r = smbios_build(&smbios, vm->pc->rom + (MEM_SMBIOS - MEM_ROM),
				 err);
	return r;
}

/* A boot CPU that gets INIT starts at the reset vector, where a PC's firmware
 * begins anew: here it resets the machine.
 *
 *	mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp $-1
 */
static const uint8_t reset_vector[16] = {
	0xba, 0xf9, 0x0c, 0xb0, PM_RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd,
};

/* ROM, and the parts of the BIOS data area that systems look at (the segment
 * of the extended area, and KiB of memory below it). */
static int load_rom(struct vm *vm)
{
	const uint16_t ebda = MEM_EBDA >> 4, kib = MEM_EBDA / KiB;
	uint8_t facs[64];
	int r;

	acpi_facs(facs);
	r = gmem_load(&vm->mem, MEM_ROM, vm->pc->rom, MEM_ROM_SIZE);
	if (!r)
		r = gmem_load(&vm->mem, MEM_HIGH - sizeof(reset_vector),
			      reset_vector, sizeof(reset_vector));
	if (!r)
		r = gmem_load(&vm->mem, MEM_FACS, facs, sizeof(facs));
	if (!r)
		r = gmem_load(&vm->mem, 0x40e, &ebda, sizeof(ebda));
	if (!r)
		r = gmem_load(&vm->mem, 0x413, &kib, sizeof(kib));
	return r;
}

/* Memory types (SDM volume 3, 11.11): all write-back, but what is not RAM. */
static void set_mtrrs(struct x86_state *st, unsigned phys_bits)
{
	st->mtrr_def = 0xc06; /* enabled, fixed ones too, write-back */
	st->mtrr_fix[0] = st->mtrr_fix[1] = 0x0606060606060606;
	st->mtrr_fix[2] = 0; /* VGA */
	for (unsigned i = 3; i < ARRAY_SIZE(st->mtrr_fix); i++)
		st->mtrr_fix[i] = 0x0505050505050505; /* ROM: write-protected */
	st->mtrr_var[0][0] = MEM_PCI32;
	st->mtrr_var[0][1] =
		(MASK(phys_bits - 1, 0) & ~(MEM_HIGH - MEM_PCI32 - 1)) |
		BIT(11);
}

static int set_cpus(struct vm *vm, const struct x86_state *boot,
		    struct err *err)
{
	unsigned phys_bits = (unsigned)vm->cpus.cpuid.config.phys_bits;

	for (unsigned i = 0; i < vm->cpus.nr; i++) {
		struct vcpu *vcpu = &vm->cpus.vcpu[i];
		struct x86_state st;
		int r;

		vcpu_take_requests(vcpu, VCPU_REQ_WAKE | VCPU_REQ_NMI |
						 VCPU_REQ_INIT | VCPU_REQ_SIPI);
		if (i)
			x86_state_reset(&st, false);
		else
			st = *boot;
		st.tsc_offset = vclock_tsc_offset(vm->clock);
		set_mtrrs(&st, phys_bits);
		r = vcpu_set_state(vcpu, &st);
		if (r)
			return err_set(err, -r, NULL,
				       "cannot set the state of CPU %u:", i);
	}
	return 0;
}

int pc_power_on(struct vm *vm, struct err *err)
{
	struct pc *pc = vm->pc;
	const struct boot_target to = { .map = &vm->map,
					.mem = &vm->mem,
					.rsdp = ACPI_RSDP,
					.is_used = pc->is_used };
	struct x86_state st;
	int r = pc->rom ? 0 : build_rom(vm, err);

	if (!r)
		r = load_rom(vm);
	if (!r)
		r = pci_assign(vm->pci, &pc->windows, err);
	if (!r && vm->cpus.has_irqchip && pc->is_used)
		vm->cpus.ops->irqchip_reset(&vm->cpus);
	x86_state_reset(&st, true);
	if (!r)
		r = boot_load(vm->boot, &to, &st, err);
	pc->is_used = true;
	if (!r)
		r = set_cpus(vm, &st, err);
	if (r)
		err_set(err, -r, NULL, "cannot start the machine:");
	return r;
}
