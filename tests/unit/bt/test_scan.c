/*
 * What translation writes, read by an independent disassembler: random
 * instructions of all kinds are translated, and no block may have one that is
 * more than computation on the guest's registers and on memory that was looked
 * up. Nothing is run.
 *
 * A memory operand's base says what it is: RSP is struct bt, R11 the tables,
 * and RCX or R8 what came out of them. All other registers are the guest's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#ifdef HAVE_ZYDIS
#include <Zydis/Zydis.h>

#include "base/bits.h"
#include "rig.h"
#include "vcpu/bt/bt.h"

#define CODE_AT      0x100000
#define NR_PAGES     2 /* and what straddles their border */
#define ROUNDS       48
#define HIGH         0xffff800000000000ULL
#define MAX_BLOCK    32768

#define MAX_FAILURES 10

static struct rig rig;
static ZydisDecoder decoder;
static uint64_t rng_state = 0x9e3779b97f4a7c15ULL;
static unsigned nr_failures, nr_links_closed;
static uint64_t nr_blocks, nr_insns, nr_bytes, nr_branches;
static unsigned mnemonics[ZYDIS_MNEMONIC_MAX_VALUE + 1];

static struct bt *bt(void)
{
	return bt_of(rig.vcpu[0].accel);
}

static uint64_t rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545f4914f6cdd1dULL;
}

static bool chance(unsigned percent)
{
	return (rnd() >> 32) % 100 < percent;
}

/* ---- What there is to translate ------------------------------------------ */

static unsigned add_vector_prefix(uint8_t *b, bool is_evex)
{
	static const uint8_t maps[] = { 1, 1, 2, 2, 3, 3, 5, 6 };

	if (is_evex) {
		b[0] = 0x62;
		b[1] = (uint8_t)((rnd() & 0xf0) | maps[rnd() >> 61]);
		b[2] = (uint8_t)(rnd() | 4 | (chance(50) ? 0x78 : 0));
		b[3] = (uint8_t)(rnd() | (chance(50) ? 8 : 0));
		return 4;
	}
	b[0] = 0xc4;
	b[1] = (uint8_t)((rnd() & 0xe0) | (1 + (rnd() >> 32) % 3));
	b[2] = (uint8_t)(rnd() | (chance(50) ? 0x78 : 0));
	return 3;
}

/* One instruction of any map, privileged or not. Its length. */
static unsigned generate(uint8_t *b)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0xf0,
					    0x64, 0x65, 0x67, 0x2e };
	struct insn insn;

	for (;;) {
		unsigned kind = (unsigned)(rnd() >> 32) % 100, n = 0;

		if (kind < 35) {
			n += add_vector_prefix(b, kind < 18);
		} else {
			while (chance(30) && n < 3)
				b[n++] = prefixes[rnd() >> 61];
			if (chance(50))
				b[n++] = (uint8_t)(0x40 | (rnd() & 15));
			if (kind < 65)
				b[n++] = 0x0f;
			if (kind < 40)
				b[n++] = chance(70) ? 0x38 : 0x3a;
			else if (kind > 95)
				b[n++] = (uint8_t)(0xd8 | (rnd() & 7));
		}
		while (n < 15)
			b[n++] = (uint8_t)rnd();
		/* Small displacements for branches */
		if (insn_decode(&insn, b, 15, MODE_64))
			continue;
		if ((insn.flags & INSN_BRANCH) && insn.form == FORM_IMM &&
		    insn.len > 5) {
			b[insn.len - 1] = b[insn.len - 2] = 0;
			b[insn.len - 3] = (uint8_t)(rnd() & 15);
		}
		/* A block ends there: not too often */
		if ((insn.flags & (INSN_BRANCH | INSN_END)) && chance(50))
			continue;
		return insn.len;
	}
}

static void corpus_make(bool is_random)
{
	uint8_t *p = gmem_at(&rig.mem, CODE_AT, 1), bytes[16];
	unsigned size = NR_PAGES * PAGE_SIZE, n = 0;

	for (unsigned i = 0; i < size; i++)
		p[i] = (uint8_t)(rnd() >> 32);
	while (!is_random && n < size - 16) {
		unsigned len = generate(bytes);

		memcpy(p + n, bytes, len);
		n += len;
	}
}

/* ---- What came out ------------------------------------------------------- */

static void complain(const struct tblock *b, uint32_t from, const char *what)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)from;
	struct bt *t = bt();
	uint8_t bytes[INSN_MAX_LEN];
	char text[160];
	unsigned n, len;

	if (nr_failures++ >= MAX_FAILURES)
		return;
	trace_insn(text, sizeof(text), p, 15, from);
	printf("# %s: %s, for", what, text);
	code_find(t, from, &n);
	len = code_bytes(t, b, n, bytes);
	for (unsigned i = 0; i < len; i++)
		printf(" %02x", bytes[i]);
	printf("\n");
}

/* A call of a gate: how many bytes of data are behind it. -1: of something
 * else. */
static int gate_data(uint64_t target)
{
	static const int8_t data[NR_GATES] = {
		[GATE_MISS_READ] = 2, [GATE_MISS_WRITE] = 2, [GATE_STEP] = 2,
		[GATE_CALLOUT] = 4,   [GATE_LINK] = 4,       [GATE_JUMP] = 0,
		[GATE_STRADDLE] = 0,  [GATE_FAULT] = -1,     [GATE_KICK] = -1,
	};

	for (unsigned i = 0; i < NR_GATES; i++)
		if (target == bt()->gate[i])
			return data[i];
	return -1;
}

static const char *check_category(const ZydisDecodedInstruction *z)
{
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_SYSTEM:
		return z->mnemonic == ZYDIS_MNEMONIC_RDTSC ? NULL : "system";
	case ZYDIS_CATEGORY_AMX_TILE:
	case ZYDIS_CATEGORY_AVX2GATHER:
	case ZYDIS_CATEGORY_CET:
	case ZYDIS_CATEGORY_CLZERO:
	case ZYDIS_CATEGORY_ENQCMD:
	case ZYDIS_CATEGORY_GATHER:
	case ZYDIS_CATEGORY_HRESET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_KEYLOCKER:
	case ZYDIS_CATEGORY_KEYLOCKER_WIDE:
	case ZYDIS_CATEGORY_MPX:
	case ZYDIS_CATEGORY_PCONFIG:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_PT:
	case ZYDIS_CATEGORY_RDPID:
	case ZYDIS_CATEGORY_RDPRU:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SCATTER:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_SERIALIZE:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_SMAP:
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_TSX_LDTRK:
	case ZYDIS_CATEGORY_UINTR:
	case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_WAITPKG:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
		return "not to be run";
	default:
		return NULL;
	}
}

static const char *check_mnemonic(const ZydisDecodedInstruction *z)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_XBEGIN:
	case ZYDIS_MNEMONIC_XABORT:
	case ZYDIS_MNEMONIC_XEND:
	case ZYDIS_MNEMONIC_XLAT:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_MOVDIR64B:
		return "not to be run";
	default:
		return NULL;
	}
}

/* Is it one of struct bt's fields, the tables, or what was looked up there? */
static const char *check_memory(const ZydisDecodedInstruction *z,
				const ZydisDecodedOperand *o)
{
	bool is_gs = o->mem.segment == ZYDIS_REGISTER_GS;
	unsigned size = o->size / 8;
	int64_t disp = o->mem.disp.value;

	if (o->mem.segment == ZYDIS_REGISTER_FS)
		return "FS";
	if (is_gs && (o->mem.base != ZYDIS_REGISTER_R11 ||
		      o->mem.index != ZYDIS_REGISTER_RCX || o->mem.scale != 8))
		return "GS";
	switch (o->mem.base) {
	case ZYDIS_REGISTER_RSP:
		/* The stack of C begins below. */
		if (z->mnemonic == ZYDIS_MNEMONIC_CALL ||
		    z->mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
		    (z->mnemonic == ZYDIS_MNEMONIC_POP && z->length == 1))
			return NULL;
		if (o->mem.index != ZYDIS_REGISTER_NONE || disp < 0 ||
		    disp + size > (int64_t)sizeof(struct bt) || size > 8)
			return "beside struct bt";
		return NULL;
	case ZYDIS_REGISTER_R11:
		if (o->mem.index != ZYDIS_REGISTER_RCX || disp ||
		    o->mem.scale != 8 || size != 8 ||
		    o->actions != ZYDIS_OPERAND_ACTION_READ)
			return "beside the tables";
		return NULL;
	case ZYDIS_REGISTER_RCX:
		if (o->mem.index == ZYDIS_REGISTER_R8) /* an exec entry */
			return o->mem.scale == 4 && size == 4 && !disp
				       ? NULL
				       : "beside the exec entries";
		return o->mem.index == ZYDIS_REGISTER_NONE && !disp
			       ? NULL
			       : "beside the operand";
	case ZYDIS_REGISTER_R8:
		if (o->mem.index == ZYDIS_REGISTER_RCX)
			return o->mem.scale == 1 && !disp
				       ? NULL
				       : "beside the operand";
		return o->mem.index == ZYDIS_REGISTER_NONE && disp >= 0 &&
				       disp + size <= 512
			       ? NULL
			       : "beside the run";
	default:
		return "a guest's address";
	}
}

static const char *check_operands(const ZydisDecodedInstruction *z,
				  const ZydisDecodedOperand *o)
{
	for (unsigned n = 0; n < z->operand_count; n++, o++) {
		const char *what = NULL;
		bool is_written = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			what = "a vector of addresses";
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 z->mnemonic != ZYDIS_MNEMONIC_LEA &&
			 z->mnemonic != ZYDIS_MNEMONIC_NOP)
			what = check_memory(z, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			what = "a far pointer";
		else if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		else if (is_written &&
			 o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
			 ZydisRegisterGetLargestEnclosing(
				 ZYDIS_MACHINE_MODE_LONG_64, o->reg.value) ==
				 ZYDIS_REGISTER_RSP)
			what = "RSP";
		else if (ZydisRegisterGetClass(o->reg.value) ==
				 ZYDIS_REGCLASS_SEGMENT ||
			 ZydisRegisterGetClass(o->reg.value) ==
				 ZYDIS_REGCLASS_CONTROL ||
			 ZydisRegisterGetClass(o->reg.value) ==
				 ZYDIS_REGCLASS_DEBUG)
			what = "a system register";
		if (what)
			return what;
	}
	return NULL;
}

/** A block's instructions. */
struct listing {
	uint8_t starts[MAX_BLOCK];                       /* one is here */
	uint32_t from[MAX_BLOCK / 2], to[MAX_BLOCK / 2]; /* its branches */
	unsigned nr;
};

static const char *check_branch(struct listing *l,
				const ZydisDecodedInstruction *z,
				const ZydisDecodedOperand *o, uint32_t at,
				unsigned *data)
{
	bool is_call = z->mnemonic == ZYDIS_MNEMONIC_CALL;
	uint64_t target;

	*data = 0;
	if (z->meta.category != ZYDIS_CATEGORY_CALL &&
	    z->meta.category != ZYDIS_CATEGORY_COND_BR &&
	    z->meta.category != ZYDIS_CATEGORY_UNCOND_BR)
		return NULL;
	if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return "far";
	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
		return !is_call && o->reg.value == ZYDIS_REGISTER_RCX
			       ? NULL
			       : "to a guest's address";
	if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
	    !ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(z, o, at, &target)))
		return "from memory";
	if (is_call) {
		if (gate_data(target) < 0)
			return "call of no gate";
		*data = (unsigned)gate_data(target);
		return NULL;
	}
	l->from[l->nr] = at;
	l->to[l->nr++] = (uint32_t)target;
	return target >> 32 ? "out of the code" : NULL;
}

/* To an instruction of the block, or to where another block is entered. */
static bool is_place(const struct listing *l, const struct tblock *b,
		     uint32_t to)
{
	const struct tblock *other;

	if (to - b->host < b->host_end - b->host)
		return l->starts[to - b->host];
	if (!bt_is_block(bt(), to))
		return false;
	other = code_find(bt(), to, NULL);
	return other &&
	       (to == other->host || to == other->host + other->entry_len);
}

static void scan_block(const struct tblock *b)
{
	static struct listing l;
	uint32_t at = b->host;

	assert_true(b->host_end - b->host < MAX_BLOCK);
	memset(l.starts, 0, b->host_end - b->host);
	l.nr = 0;
	while (at < b->host_end) {
		ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction z;
		const char *what;
		unsigned data = 0;

		l.starts[at - b->host] = 1;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(
			    &decoder, (const void *)(uintptr_t)at,
			    b->host_end - at, &z, o))) {
			complain(b, at, "no instruction");
			return;
		}
		what = check_category(&z);
		if (!what)
			what = check_mnemonic(&z);
		if (!what)
			what = check_branch(&l, &z, o, at, &data);
		if (!what)
			what = check_operands(&z, o);
		if (what)
			complain(b, at, what);
		mnemonics[z.mnemonic]++;
		nr_insns++;
		at += z.length + data;
	}
	if (at != b->host_end)
		complain(b, b->host, "over the block's end");
	for (unsigned i = 0; i < l.nr; i++)
		if (!is_place(&l, b, l.to[i]))
			complain(b, l.from[i], "to no place");
	for (unsigned n = 0; n < b->nr_insns; n++) {
		const struct side *s = &bt()->code.sides[b->insns + n];

		if (!l.starts[s->start] || s->commit < s->start)
			complain(b, b->host + s->start, "no start");
	}
	nr_branches += l.nr;
}

static void scan_all(void)
{
	const struct code *c = &bt()->code;
	uint32_t end = (uint32_t)(uint64_t)c->rx + c->first;

	for (unsigned n = 0; n < c->nr_blocks; n++) {
		const struct tblock *b = &c->blocks[n];

		/* One behind another, so that all is seen */
		if (b->host != end)
			complain(b, b->host, "a gap");
		end = b->host_end;
		scan_block(b);
		nr_blocks++;
		nr_bytes += b->host_end - b->host;
	}
	assert_true(end == (uint32_t)(uint64_t)c->rx + c->used);
}

/* ---- Translating --------------------------------------------------------- */

static void lookup_all(uint64_t gva, bool is_random)
{
	const uint8_t *p = gmem_at(&rig.mem, CODE_AT, 1);
	struct cpu *cpu = rig.vcpu[0].accel;
	struct insn insn;
	unsigned n = 0, nr = 0;

	while (n < NR_PAGES * PAGE_SIZE - 16) {
		if (!(nr++ & 3) || n % PAGE_SIZE > PAGE_SIZE - 32) {
			cpu->s.rip = gva + n;
			code_lookup(bt());
		}
		if (is_random || insn_decode(&insn, p + n, 15, MODE_64))
			n += is_random ? 5 : 1;
		else
			n += insn.len;
	}
}

static void follow_links(uint64_t gva)
{
	struct cpu *cpu = rig.vcpu[0].accel;
	struct code *c = &bt()->code;
	unsigned nr = c->nr_links;

	for (unsigned n = 0; n < nr; n++) {
		const struct link *l = &c->links[n];
		const struct code_page *p = &c->pages[c->blocks[l->block].page];

		cpu->s.rip =
			gva + p->gpa - CODE_AT + (uint64_t)(int64_t)l->target;
		if (cpu->s.rip - gva < NR_PAGES * PAGE_SIZE - 16)
			code_follow(bt(), n);
		nr_links_closed += l->is_closed;
	}
}

/* Once more, with what was not aligned. */
static void drop_all(void)
{
	struct code *c = &bt()->code;

	for (unsigned n = 0; n < c->nr_blocks; n++)
		if (!c->blocks[n].is_dead)
			code_drop(bt(), &c->blocks[n]);
	for (unsigned n = 0; n < c->nr_pages; n++)
		memset(c->pages[n].misaligned, 0xff,
		       sizeof(c->pages[n].misaligned));
}

static void state_make(unsigned round)
{
	struct x86_state *st = &rig.st[0];

	rig_mode(&rig, 0, RIG_LONG, round & 1 ? 3 : 0);
	if (round & 2)
		st->cr4 |= CR4_SMAP | CR4_FSGSBASE;
	if (round & 4)
		st->cr4 |= CR4_TSD;
	if (round % 8 == 7)
		st->cr0 |= CR0_TS;
	rig_write(&rig, RIG_PML4 + 256 * 8, 8, RIG_PDPT | PTE_P | PTE_W);
	if (!(round & 1))
		for (unsigned i = 0; i < NR_PAGES; i++)
			rig_write(&rig, RIG_PT + (CODE_AT / PAGE_SIZE + i) * 8,
				  8, (CODE_AT + i * PAGE_SIZE) | PTE_P | PTE_W);
	else
		for (unsigned i = 0; i < NR_PAGES; i++)
			rig_write(&rig, RIG_PT + (CODE_AT / PAGE_SIZE + i) * 8,
				  8,
				  (CODE_AT + i * PAGE_SIZE) | PTE_P | PTE_W |
					  PTE_U);
	assert_int_equal(accel_bt.set_state(&rig.vcpu[0], st), 0);
}

static void a7_no_sensitive_instruction_is_copied(void **state)
{
	unsigned kinds = 0;

	for (unsigned round = 0; round < ROUNDS && !nr_failures; round++) {
		bool is_random = round % 6 == 5;
		uint64_t gva = CODE_AT;

		if (round % 4 == 2) /* a kernel's */
			gva += HIGH;
		code_reset(bt());
		corpus_make(is_random);
		state_make(round);
		lookup_all(gva, is_random);
		scan_all();
		follow_links(gva);
		drop_all();
		lookup_all(gva, is_random);
		scan_all();
	}
	for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
		kinds += mnemonics[i] > 0;
	printf("# %llu blocks, %llu instructions of %u kinds, %llu bytes, "
	       "%llu branches, %u links\n",
	       (unsigned long long)nr_blocks, (unsigned long long)nr_insns,
	       kinds, (unsigned long long)nr_bytes,
	       (unsigned long long)nr_branches, nr_links_closed);
	assert_int_equal(nr_failures, 0);
	assert_true(kinds > 300);
	assert_true(nr_links_closed > 0);
}

/* Memory that is written is not run: two mappings of the same. */
static void code_is_not_writable_where_it_runs(void **state)
{
	unsigned long start, end;
	char line[512], rights[5];
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned nr = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) != 3)
			continue;
		assert_false(rights[1] == 'w' && rights[2] == 'x');
		if (start == (unsigned long)bt()->code.rx)
			nr += !strncmp(rights, "r-x", 3);
		if (start == (unsigned long)bt()->code.rw)
			nr += !strncmp(rights, "rw-", 3);
	}
	fclose(f);
	assert_int_equal(nr, 2);
}

static int setup(void **state)
{
	rig_create(&rig, &accel_bt, 1, 4 * MiB);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
			 ZYDIS_STACK_WIDTH_64);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a7_no_sensitive_instruction_is_copied),
		cmocka_unit_test(code_is_not_writable_where_it_runs),
	};
	struct err err = { .what = "" };

	if (accel_bt.probe(&err) < 0) {
		printf("1..0 # SKIP %s\n", err.what);
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
#else
int main(void)
{
	printf("1..0 # SKIP built without Zydis\n");
	return 0;
}
#endif
