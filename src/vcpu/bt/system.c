/*
 * Privileged and special instructions that are frequent enough not to be left
 * to interp: flags, segment bases and the time.
 *
 * The flags that are not status flags are in memory, and nothing here may
 * change the status flags, which are the host's: so what sets, clears and masks
 * bits is made of PEXT, PDEP and LEA.
 */
#include "vcpu/bt/translate.h"

#define RFLAGS ((int)offsetof(struct bt, cpu.s.rflags))

/* Where the base of segment (seg) is. */
static struct hmem segment_base(unsigned seg)
{
	return hmem_state((int)(offsetof(struct bt, cpu.s.seg) +
				seg * sizeof(struct x86_seg)));
}

/* reg &= [mask], without flags. */
static void mask(struct tr *t, unsigned reg, int bits)
{
	emit_pext(&t->e, reg, reg, hmem_state(bits));
	emit_pdep(&t->e, reg, reg, hmem_state(bits));
}

/* Set or clear a flag that is in memory: (others) is all but it. */
static void flag_write(struct tr *t, int others, int32_t set)
{
	emit_load(&t->e, H_RCX, hmem_state(RFLAGS));
	mask(t, H_RCX, others);
	if (set)
		emit_lea(&t->e, H_RCX, hmem_base(H_RCX, set));
	tr_commit(t);
	emit_store(&t->e, hmem_state(RFLAGS), H_RCX);
}

bool tr_cli(struct tr *t)
{
	if (t->page->key & KEY_USER)
		return tr_callout(t);
	flag_write(t, BT_OFF(no_if), 0);
	return true;
}

bool tr_stac(struct tr *t)
{
	bool on = t->i.op == OP_STAC;

	if ((t->page->key & (KEY_USER | KEY_SMAP)) != KEY_SMAP) {
		tr_callout(t);
		return true;
	}
	flag_write(t, BT_OFF(no_ac), on ? (int32_t)FLAG_AC : 0);
	emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(table_ac) + 8 * on));
	emit_store(&t->e, hmem_state(BT_OFF(table)), H_TABLE);
	return true;
}

/* STI, when the interrupt controller has nothing to deliver. What comes next
 * is still protected by the interrupt shadow. */
bool tr_sti(struct tr *t)
{
	uint8_t *fast, *done;

	if ((t->page->key & KEY_USER) || t->off > PAGE_SIZE - 32 ||
	    t->nr_insns + 2 > MAX_INSNS) {
		tr_callout(t);
		return true;
	}
	/* movzx ecx, byte [rsp + irq_check] */
	emit_u8(&t->e, 0x0f);
	emit_u8(&t->e, 0xb6);
	emit_u8(&t->e, 0x8c);
	emit_u8(&t->e, 0x24);
	emit_u32(&t->e, (uint32_t)offsetof(struct bt, cpu.irq_check));
	emit_u8(&t->e, 0xe3);
	fast = t->e.p;
	emit_u8(&t->e, 0);
	tr_callout(t);
	emit_u8(&t->e, 0xeb);
	done = t->e.p;
	emit_u8(&t->e, 0);
	*fast = (uint8_t)(t->e.p - (fast + 1));
	flag_write(t, BT_OFF(no_if), (int32_t)FLAG_IF);
	*done = (uint8_t)(t->e.p - (done + 1));
	t->no_kick = true;
	return true;
}

bool tr_pushf(struct tr *t)
{
	if (t->i.opsize != 8)
		return tr_callout(t);
	emit_u8(&t->e, 0x9c); /* pushfq; pop rcx */
	emit_u8(&t->e, 0x59);
	mask(t, H_RCX, BT_OFF(status_flags));
	emit_load(&t->e, H_R8, hmem_state(RFLAGS));
	mask(t, H_R8, BT_OFF(other_flags));
	emit_lea(&t->e, H_R8, hmem_index(H_R8, H_RCX, 0, 0));
	emit_store(&t->e, hmem_state(BT_OFF(tmp)), H_R8);
	tr_push_lookup(t);
	emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(tmp)));
	tr_commit(t);
	emit_store(&t->e, hmem_index(H_R8, H_RCX, 0, 0), H_TABLE);
	tr_push_done(t);
	tr_table_back(t);
	return true;
}

bool tr_mov_from_seg(struct tr *t)
{
	const struct insn *i = &t->i;
	int sel = (int)(offsetof(struct bt, cpu.s.seg) +
			i->reg * sizeof(struct x86_seg) +
			offsetof(struct x86_seg, sel));

	if ((i->flags & INSN_MEM) || i->opsize == 2)
		return tr_callout(t);
	/* movzx ecx, word [rsp + sel] */
	emit_u8(&t->e, 0x0f);
	emit_u8(&t->e, 0xb7);
	emit_u8(&t->e, 0x8c);
	emit_u8(&t->e, 0x24);
	emit_u32(&t->e, (uint32_t)sel);
	tr_commit(t);
	tr_reg_out(t, i->rm, H_RCX);
	return true;
}

bool tr_read_base(struct tr *t)
{
	const struct insn *i = &t->i;
	struct hmem base = segment_base(i->op == OP_RDFSBASE ? SEG_FS : SEG_GS);

	if (!(t->page->key & KEY_FSGS))
		return tr_callout(t);
	if (i->opsize == 8)
		emit_load(&t->e, H_RCX, base);
	else
		emit_load32(&t->e, H_RCX, base);
	tr_commit(t);
	tr_reg_out(t, i->rm, H_RCX);
	if (i->rm == RSP)
		tr_check_rsp(t);
	return true;
}

bool tr_swapgs(struct tr *t)
{
	struct hmem base = segment_base(SEG_GS);
	struct hmem other =
		hmem_state((int)offsetof(struct bt, cpu.s.kernel_gs_base));

	if (t->page->key & KEY_USER)
		return tr_callout(t);
	emit_load(&t->e, H_RCX, base);
	emit_load(&t->e, H_R8, other);
	tr_commit(t);
	emit_store(&t->e, base, H_R8);
	emit_store(&t->e, other, H_RCX);
	return true;
}

bool tr_rdtsc(struct tr *t)
{
	if ((t->page->key & (KEY_TSC | KEY_USER)) == KEY_USER)
		return tr_callout(t);
	tr_commit(t);
	emit_u8(&t->e, 0x0f);
	emit_u8(&t->e, 0x31);
	emit_rorx(&t->e, H_RCX, H_RDX, 32);
	emit_lea(&t->e, H_RCX, hmem_index(H_RCX, H_RAX, 0, 0));
	emit_load(&t->e, H_R8,
		  hmem_state((int)offsetof(struct bt, cpu.s.tsc_offset)));
	emit_lea(&t->e, H_RCX, hmem_index(H_RCX, H_R8, 0, 0));
	emit_mov32(&t->e, H_RAX, H_RCX);
	emit_rorx(&t->e, H_RDX, H_RCX, 32);
	emit_mov32(&t->e, H_RDX, H_RDX);
	if (t->i.op == OP_RDTSCP)
		emit_load32(
			&t->e, H_GUEST_RCX,
			hmem_state((int)offsetof(struct bt, cpu.s.tsc_aux)));
	return true;
}
