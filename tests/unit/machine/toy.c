#include "toy.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"

#define SETUP_SIZE 1024

static int64_t toy_probe(struct err *err)
{
	return 1000000;
}

static int toy_vm_create(struct vcpus *vs, struct err *err)
{
	return 0;
}

static void toy_vm_destroy(struct vcpus *vs)
{
}

static int toy_vcpu_create(struct vcpu *vcpu, struct err *err)
{
	vcpu->accel = aligned_alloc(64, sizeof(struct x86_state));
	return vcpu->accel ? 0 : -ENOMEM;
}

static void toy_vcpu_destroy(struct vcpu *vcpu)
{
	free(vcpu->accel);
}

static void out(struct vcpu *vcpu, uint16_t port, uint8_t value)
{
	struct access a = { .addr = port,
			    .size = 1,
			    .is_write = true,
			    .count = 1,
			    .data = &value };

	vcpu_pio(vcpu, &a);
}

static uint8_t in(struct vcpu *vcpu, uint16_t port)
{
	uint8_t value = 0;
	struct access a = {
		.addr = port, .size = 1, .count = 1, .data = &value
	};

	vcpu_pio(vcpu, &a);
	return value;
}

/* One letter. Returns whether the CPU goes on. */
static bool step(struct vcpu *vcpu, struct x86_state *st, struct exit *exit)
{
	struct gmem *mem = vcpu->set->mem;
	const uint8_t *p = gmem_at(mem, st->rip, 8);
	uint8_t byte;

	/* Tests look while it runs. */
	__atomic_fetch_add(&vcpu->stats.instructions, 1, __ATOMIC_RELAXED);
	switch (p[0]) {
	case 'O':
		st->rip += 4;
		out(vcpu, load_le16(p + 1), p[3]);
		return true;
	case 'I':
		st->rip += 3;
		st->gpr[RAX] = in(vcpu, load_le16(p + 1));
		return true;
	case '+':
		gmem_read(mem, load_le32(p + 1), &byte, 1);
		byte++;
		gmem_write(mem, load_le32(p + 1), &byte, 1);
		return true;
	case '=':
		gmem_write(mem, load_le32(p + 1), p + 5, 1);
		st->rip += 6;
		return true;
	case '?':
		gmem_read(mem, load_le32(p + 1), &byte, 1);
		st->rip += 6;
		exit->reason = EXIT_SHUTDOWN;
		return byte == p[5];
	case 'L':
		sched_yield();
		return true;
	case 'H':
		st->rip++;
		exit->reason = EXIT_HLT;
		return false;
	case 'T':
		exit->reason = EXIT_SHUTDOWN;
		return false;
	case 'U':
		exit->reason = EXIT_UNMAPPED;
		exit->access.addr = 0xfd000000;
		exit->access.size = 4;
		return false;
	default:
		exit->reason = EXIT_ERROR;
		snprintf(exit->text, sizeof(exit->text), "bad letter");
		return false;
	}
}

static int toy_run(struct vcpu *vcpu, struct exit *exit)
{
	struct x86_state *st = vcpu->accel;

	if (st->activity != ACT_RUNNING) {
		exit->reason = EXIT_HLT;
		return 0;
	}
	exit->reason = EXIT_KICK;
	while (!vcpu_take_requests(
		       vcpu, ~(uint32_t)(VCPU_REQ_PAUSE | VCPU_REQ_STOP)) &&
	       !atomic_load(&vcpu->requests)) {
		if (!step(vcpu, st, exit))
			return 0;
		exit->reason = EXIT_KICK;
	}
	return 0;
}

static void toy_kick(struct vcpu *vcpu)
{
}

static int toy_get_state(struct vcpu *vcpu, struct x86_state *st)
{
	memcpy(st, vcpu->accel, sizeof(*st));
	return 0;
}

static int toy_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	memcpy(vcpu->accel, st, sizeof(*st));
	return 0;
}

const struct accel_ops accel_toy = {
	.name = "toy",
	.probe = toy_probe,
	.vm_create = toy_vm_create,
	.vm_destroy = toy_vm_destroy,
	.vcpu_create = toy_vcpu_create,
	.vcpu_destroy = toy_vcpu_destroy,
	.run = toy_run,
	.kick = toy_kick,
	.get_state = toy_get_state,
	.set_state = toy_set_state,
};

int toy_kernel(char *path, const void *program, size_t len)
{
	static const struct setup_header h = {
		.setup_sects = SETUP_SIZE / 512 - 1,
		.syssize = 4096 / 16,
		.boot_flag = 0xaa55,
		.jump = 0x66eb,
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.pref_address = 0x200000,
		.init_size = 0x10000,
	};
	uint8_t image[SETUP_SIZE + 4096] = { 0 };
	int fd = memfd_create("toy", MFD_CLOEXEC);

	memcpy(image + 0x1f1, &h, sizeof(h));
	memcpy(image + SETUP_SIZE + 0x200, program, len);
	if (fd < 0 || write(fd, image, sizeof(image)) != sizeof(image))
		abort();
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}
