/*
 * The decoder against an independent one, Zydis: every opcode of every map
 * with the prefixes and ModRM bytes that matter, in all three modes, and
 * random bytes. Validity, length, sizes, addressing and accesses must agree;
 * where the two differ on purpose, is_known() says why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef HAVE_ZYDIS
#include <Zydis/Zydis.h>

#include "vcpu/insn/decode.h"

#define MAX_REPORTS 20

static ZydisDecoder decoders[3];
static unsigned long nr_decodes, nr_differences;

static const char *const mode_names[] = { "16", "32", "64" };

/* Instructions that no guest is offered: they have no row. */
static bool is_hidden(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_set) {
	case ZYDIS_ISA_SET_AMD3DNOW:
	case ZYDIS_ISA_SET_AMD_INVLPGB:
	case ZYDIS_ISA_SET_AMX_BF16:
	case ZYDIS_ISA_SET_AMX_INT8:
	case ZYDIS_ISA_SET_AMX_TILE:
	case ZYDIS_ISA_SET_AVX512ER_512:
	case ZYDIS_ISA_SET_AVX512ER_SCALAR:
	case ZYDIS_ISA_SET_AVX512PF_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_512:
	case ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR:
	case ZYDIS_ISA_SET_AVX512_4VNNIW_512:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256:
	case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512:
	case ZYDIS_ISA_SET_CET:
	case ZYDIS_ISA_SET_CLZERO:
	case ZYDIS_ISA_SET_ENQCMD:
	case ZYDIS_ISA_SET_FMA4:
	case ZYDIS_ISA_SET_HRESET:
	case ZYDIS_ISA_SET_KEYLOCKER:
	case ZYDIS_ISA_SET_KEYLOCKER_WIDE:
	case ZYDIS_ISA_SET_KNCE:
	case ZYDIS_ISA_SET_KNCJKBR:
	case ZYDIS_ISA_SET_KNCSTREAM:
	case ZYDIS_ISA_SET_KNCV:
	case ZYDIS_ISA_SET_KNC_MISC:
	case ZYDIS_ISA_SET_KNC_PF_HINT:
	case ZYDIS_ISA_SET_MCOMMIT:
	case ZYDIS_ISA_SET_MONITORX:
	case ZYDIS_ISA_SET_MOVDIR:
	case ZYDIS_ISA_SET_PADLOCK_ACE:
	case ZYDIS_ISA_SET_PADLOCK_PHE:
	case ZYDIS_ISA_SET_PADLOCK_PMM:
	case ZYDIS_ISA_SET_PADLOCK_RNG:
	case ZYDIS_ISA_SET_PCONFIG:
	case ZYDIS_ISA_SET_PKU:
	case ZYDIS_ISA_SET_PT:
	case ZYDIS_ISA_SET_RDPRU:
	case ZYDIS_ISA_SET_RTM:
	case ZYDIS_ISA_SET_SGX:
	case ZYDIS_ISA_SET_SGX_ENCLV:
	case ZYDIS_ISA_SET_SMX:
	case ZYDIS_ISA_SET_SNP:
	case ZYDIS_ISA_SET_SSE4A:
	case ZYDIS_ISA_SET_SVM:
	case ZYDIS_ISA_SET_TBM:
	case ZYDIS_ISA_SET_TDX:
	case ZYDIS_ISA_SET_TSX_LDTRK:
	case ZYDIS_ISA_SET_UINTR:
	case ZYDIS_ISA_SET_VMFUNC:
	case ZYDIS_ISA_SET_VTX:
	case ZYDIS_ISA_SET_WAITPKG:
	case ZYDIS_ISA_SET_XOP:
	case ZYDIS_ISA_SET_XSAVES:
		return z->mnemonic != ZYDIS_MNEMONIC_MOVDIRI &&
		       z->mnemonic != ZYDIS_MNEMONIC_VMCALL &&
		       z->mnemonic != ZYDIS_MNEMONIC_VMMCALL;
	default:
		return z->mnemonic == ZYDIS_MNEMONIC_RSM;
	}
}

static int gpr_number(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_NONE || reg == ZYDIS_REGISTER_RIP ||
	    reg == ZYDIS_REGISTER_EIP)
		return INSN_NONE;
	return ZydisRegisterGetId(reg);
}

static const ZydisDecodedOperand *mem_operand(const ZydisDecodedInstruction *z,
					      const ZydisDecodedOperand *ops)
{
	for (unsigned n = 0; n < z->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    ops[n].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			return &ops[n];
	return NULL;
}

static const ZydisDecodedOperand *imm_operand(const ZydisDecodedInstruction *z,
					      const ZydisDecodedOperand *ops)
{
	for (unsigned n = 0; n < z->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		    ops[n].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			return &ops[n];
	return NULL;
}

/* The name of the first field that differs, or NULL. */
static const char *compare_mem(const struct insn *i,
			       const ZydisDecodedInstruction *z,
			       const ZydisDecodedOperand *m)
{
	static const ZydisRegister segs[] = {
		ZYDIS_REGISTER_ES, ZYDIS_REGISTER_CS, ZYDIS_REGISTER_SS,
		ZYDIS_REGISTER_DS, ZYDIS_REGISTER_FS, ZYDIS_REGISTER_GS,
	};
	bool agen = m->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
		    m->mem.type == ZYDIS_MEMOP_TYPE_MIB;
	int64_t disp = m->mem.disp.value;

	if (i->base != gpr_number(m->mem.base))
		return "base";
	if (i->index != gpr_number(m->mem.index))
		return "index";
	if (m->mem.index != ZYDIS_REGISTER_NONE &&
	    1 << i->scale_log2 != m->mem.scale)
		return "scale";
	if (i->op == OP_MOV && !i->modrm_off) /* moffs */
		disp &= i->addrsize == 8   ? UINT64_MAX
			: i->addrsize == 4 ? 0xffffffff
					   : 0xffff;
	if (i->disp != disp)
		return "disp";
	if (i->mode != MODE_64 || i->seg >= SEG_FS)
		if (!agen && segs[i->seg] != m->mem.segment)
			return "seg";
	if (agen || i->op == OP_NOP || i->op == OP_UD || i->op == OP_INVLPG)
		return NULL; /* accesses no data */
	if (i->mem_size != m->size / 8)
		return "mem_size";
	if (!(i->flags & INSN_READ_MEM) !=
	    !(m->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
		return "read";
	if (!(i->flags & INSN_WRITE_MEM) !=
	    !(m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return "write";
	return NULL;
}

static const char *compare(const struct insn *i,
			   const ZydisDecodedInstruction *z,
			   const ZydisDecodedOperand *ops)
{
	const ZydisDecodedOperand *m = mem_operand(z, ops);
	const ZydisDecodedOperand *imm = imm_operand(z, ops);
	const char *what;

	if (i->len != z->length)
		return "length";
	if (i->addrsize * 8 != z->address_width)
		return "addrsize";
	if (!(i->flags & INSN_LOCK) && (z->attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return "lock";
	if (!(i->flags & INSN_PRIV) !=
	    !(z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
		return "privileged";
	if (!m != !(i->flags & INSN_MEM) && i->op != OP_MASKMOV)
		return "memory operand";
	what = m ? compare_mem(i, z, m) : NULL;
	if (what)
		return what;
	if (imm && i->imm != -1 && i->imm != imm->imm.value.s &&
	    (uint64_t)i->imm != imm->imm.value.u)
		return "imm";
	if (i->map == 0 && i->opsize * 8 != z->operand_width)
		return "opsize";
	return NULL;
}

static bool is_known(const struct insn *i, enum insn_error err,
		     const ZydisDecodedInstruction *z, bool z_ok,
		     const char *what)
{
	/* SYSCALL, SYSRET: AMD's processors have them outside 64-bit mode */
	if (!err != z_ok && i->mode != MODE_64 &&
	    (z->mnemonic == ZYDIS_MNEMONIC_SYSCALL ||
	     z->mnemonic == ZYDIS_MNEMONIC_SYSRET))
		return true;
	/* conversions from and to general registers: W is ignored outside
	 * 64-bit mode (SDM); Zydis 4.0 minds it with half precision and with
	 * rounding */
	if (!err && i->mode != MODE_64 && (i->flags & INSN_EVEX) && i->vex_w &&
	    (i->form == FORM_VEC_RM || i->form == FORM_REG_VEC))
		return !z_ok;
	if (err || !z_ok)
		return false;
	/* no base whatever REX.B says (SDM volume 2, table 2-5): Zydis 4.0
	 * takes R13D */
	if (i->mode == MODE_64 && i->addrsize == 4 && i->modrm < 0x40 &&
	    (i->modrm & 7) == 4 && (i->bytes[i->modrm_off + 1] & 7) == 5)
		return true;
	switch (i->op) {
	case OP_XLAT: /* a byte, whatever the operand size */
	case OP_INS:  /* no 8-byte port accesses */
	case OP_OUTS:
		return !strcmp(what, "opsize");
	case OP_MOVSX: /* MOVSXD r16, r/m16, as Intel's processors do it */
		return i->opcode == 0x63 && i->opsize == 2 &&
		       i->mem_size == 2 && !strcmp(what, "mem_size");
	case OP_GATHER: /* all elements together have no bound */
	case OP_SCATTER:
		return !strcmp(what, "mem_size");
	case OP_CLFLUSH: /* checked like a load of one byte */
		return i->mem_size == 1 && !strcmp(what, "mem_size");
	case OP_XSAVE: /* as large as XCR0 and the header say */
	case OP_XSAVEC:
	case OP_XSAVEOPT:
	case OP_XRSTOR:
		return i->mem_size == 0 && !strcmp(what, "mem_size");
	case OP_MONITOR: /* #UD at CPL > 0, not #GP(0) */
	case OP_MWAIT:
	case OP_CLAC:
	case OP_STAC:
		return !strcmp(what, "privileged");
	case OP_LGDT: /* #GP(0) at CPL > 0 all the same */
	case OP_LIDT:
		return !strcmp(what, "privileged");
	}
	return false;
}

static void report(const uint8_t *b, unsigned len, const struct insn *i,
		   const ZydisDecodedInstruction *z, const char *what)
{
	printf("# %s bit:", mode_names[i->mode]);
	for (unsigned n = 0; n < len; n++)
		printf(" %02x", b[n]);
	printf(": %s: %s, %u bytes, operands of %u, memory %u, flags %x; "
	       "Zydis: %s, %u bytes\n",
	       what, insn_op_name(i->op), i->len, i->opsize, i->mem_size,
	       i->flags, ZydisMnemonicGetString(z->mnemonic), z->length);
}

static void check(const uint8_t *b, unsigned len, enum insn_mode mode)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	struct insn i;
	enum insn_error err = insn_decode(&i, b, len, mode);
	ZyanStatus st =
		ZydisDecoderDecodeFull(&decoders[mode], b, len, &z, ops);
	bool z_ok = ZYAN_SUCCESS(st);
	const char *what = NULL;

	nr_decodes++;
	if (z_ok && is_hidden(&z))
		z_ok = false;
	if ((err == INSN_OK) != z_ok)
		what = z_ok ? "invalid here" : "valid here";
	else if (z_ok)
		what = compare(&i, &z, ops);
	if (!what || is_known(&i, err, &z, z_ok, what))
		return;
	if (!ZYAN_SUCCESS(st))
		memset(&z, 0, sizeof(z));
	if (nr_differences++ < MAX_REPORTS)
		report(b, len, &i, &z, what);
}

/* What follows ModRM: SIB, displacement, immediate. */
static const uint8_t tail[] = {
	0x8d, 0x11, 0xf2, 0x83, 0x04, 0x55, 0x66, 0x77
};

/* Check (head), (len) bytes up to the opcode, with ModRM (modrm). */
static void check_one(const uint8_t *head, unsigned len, uint8_t modrm,
		      enum insn_mode mode)
{
	uint8_t b[INSN_MAX_LEN + 8];
	unsigned total = len + 1 + sizeof(tail);

	memcpy(b, head, len);
	b[len] = modrm;
	memcpy(b + len + 1, tail, sizeof(tail));
	check(b, total < INSN_MAX_LEN ? total : INSN_MAX_LEN, mode);
}

static void check_modrm(const uint8_t *head, unsigned len, enum insn_mode mode)
{
	static const uint8_t low[] = { 0x00, 0x04, 0x05, 0x06, 0x44, 0x45,
				       0x82, 0xc0, 0xc1, 0xc2, 0xc5 };

	for (unsigned reg = 0; reg < 8; reg++)
		for (unsigned n = 0; n < sizeof(low); n++)
			check_one(head, len, low[n] | reg << 3, mode);
}

static void check_few_modrm(const uint8_t *head, unsigned len,
			    enum insn_mode mode)
{
	static const uint8_t some[] = { 0x01, 0x0c, 0x0d, 0x4c, 0x4d, 0x8a,
					0xc0, 0xc9, 0xd2, 0xd9, 0xe0, 0xf5,
					0xf9, 0x11, 0x19, 0x30, 0x39 };

	for (unsigned n = 0; n < sizeof(some); n++)
		check_one(head, len, some[n], mode);
}

static void legacy_opcodes(void **state)
{
	static const char *const prefixes[] = {
		"",         "\x66",     "\xf2",     "\xf3",     "\x66\xf2",
		"\x66\xf3", "\xf0",     "\x67",     "\x65",     "\x2e",
		"\x66\x67", "\xf2\xf3", "\xf3\xf2", "\x48",     "\x66\x48",
		"\x4f",     "\xf2\x48", "\xf3\x48", "\x64\x36", "\x48\x66",
		"\xf0\xf2", "\x40",     "\x67\x4d",
	};
	static const char *const maps[] = { "", "\x0f", "\x0f\x38",
					    "\x0f\x3a" };
	const unsigned nr_prefixes = sizeof(prefixes) / sizeof(*prefixes);
	uint8_t b[INSN_MAX_LEN];

	for (unsigned p = 0; p < nr_prefixes * 4 * 256; p++) {
		const char *prefix = prefixes[p >> 10];
		const char *map = maps[p >> 8 & 3];
		unsigned len = strlen(prefix);

		memcpy(b, prefix, len);
		memcpy(b + len, map, strlen(map));
		len += strlen(map);
		b[len++] = p & 0xff;
		for (int mode = 0; mode < 3; mode++)
			check_modrm(b, len, mode);
	}
	assert_int_equal(nr_differences, 0);
}

static void vex_opcodes(void **state)
{
	/* vvvv, L, pp and W vary within; R, X, B and the map here */
	static const uint8_t firsts[] = { 0xe1, 0xe2, 0xe3, 0x61, 0x42,
					  0xc3, 0xe0, 0xe4, 0xa1 };
	static const uint8_t vvvvs[] = { 15, 7, 12 };
	uint8_t b[5] = { 0xc4 };

	for (unsigned n = 0; n < 0x1000; n++) {
		b[3] = n & 0xff;
		for (unsigned v = 0; v < sizeof(vvvvs); v++) {
			b[2] = (n >> 4 & 0x80) | vvvvs[v] << 3 | (n >> 8 & 7);
			for (unsigned f = 0; f < sizeof(firsts); f++) {
				b[1] = firsts[f];
				for (int mode = 0; mode < 3; mode++)
					check_few_modrm(b, 4, mode);
			}
		}
	}
	b[0] = 0xc5;
	for (unsigned n = 0; n < 0x10000; n++) {
		b[1] = n >> 8;
		b[2] = n;
		check_one(b, 3, 0x44, n % 3);
		check_one(b, 3, 0xca, n % 3);
	}
	assert_int_equal(nr_differences, 0);
}

static void check_evex(uint8_t map, uint8_t p1, uint8_t opcode)
{
	/* z, L'L, b, V', aaa */
	static const uint8_t p2s[] = { 0x08, 0x28, 0x48, 0x68, 0x18, 0x38,
				       0x58, 0x78, 0x09, 0x29, 0x49, 0x59,
				       0x8a, 0xca, 0xda, 0xc8, 0x41, 0x40 };
	/* R, X, B, R' */
	static const uint8_t rxb[] = { 0xf0, 0xe0, 0x70, 0xb0, 0xd0 };
	uint8_t b[6] = { 0x62, 0, p1, 0, opcode };

	for (unsigned n = 0; n < sizeof(p2s); n++) {
		b[3] = p2s[n];
		b[1] = 0xf0 | map;
		check_few_modrm(b, 5, MODE_64);
		check_one(b, 5, 0x4c, MODE_32);
		check_one(b, 5, 0xca, MODE_32);
		check_one(b, 5, 0x4c, MODE_16);
	}
	b[3] = 0x49;
	for (unsigned n = 1; n < sizeof(rxb); n++) {
		b[1] = rxb[n] | map;
		for (int mode = 0; mode < 3; mode++) {
			check_one(b, 5, 0x4c, mode);
			check_one(b, 5, 0xca, mode);
		}
	}
}

static void evex_opcodes(void **state)
{
	static const uint8_t maps[] = { 1, 2, 3, 5, 6, 0, 4, 7, 9 };

	for (unsigned m = 0; m < sizeof(maps); m++)
		for (unsigned n = 0; n < 0x1000; n++)
			/* W, vvvv 15 or 7, pp */
			check_evex(maps[m],
				   (n >> 4 & 0x80) | (n & 0x400 ? 0x7c : 0x3c) |
					   (n >> 8 & 3),
				   n & 0xff);
	assert_int_equal(nr_differences, 0);
}

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static unsigned soak(unsigned n)
{
	return getenv("RINGER_SOAK") ? 40 * n : n;
}

/* Random bytes, and random bytes behind an opcode map's first. */
static void random_bytes(void **state)
{
	static const uint8_t first[] = { 0x0f, 0x66, 0xf2, 0xf3, 0xc4, 0xc5,
					 0x62, 0xd9, 0xdb, 0xdd, 0x67, 0x48 };
	uint8_t b[16];

	for (unsigned n = 0; n < soak(900000); n++) {
		uint64_t r[2] = { random64(), random64() };
		unsigned len = INSN_MAX_LEN;

		memcpy(b, r, 16);
		if (n % 2)
			b[0] = first[(r[1] >> 32) % sizeof(first)];
		if (n % 16 == 0)
			len = r[0] >> 60;
		check(b, len, n % 3);
	}
	assert_int_equal(nr_differences, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(legacy_opcodes),
		cmocka_unit_test(vex_opcodes),
		cmocka_unit_test(evex_opcodes),
		cmocka_unit_test(random_bytes),
	};
	static const ZydisMachineMode modes[] = {
		ZYDIS_MACHINE_MODE_LEGACY_16,
		ZYDIS_MACHINE_MODE_LEGACY_32,
		ZYDIS_MACHINE_MODE_LONG_64,
	};
	static const ZydisStackWidth widths[] = {
		ZYDIS_STACK_WIDTH_16,
		ZYDIS_STACK_WIDTH_32,
		ZYDIS_STACK_WIDTH_64,
	};
	static const ZydisDecoderMode off[] = {
		ZYDIS_DECODER_MODE_MPX,
		ZYDIS_DECODER_MODE_CET,
		ZYDIS_DECODER_MODE_WBNOINVD,
		ZYDIS_DECODER_MODE_CLDEMOTE,
	};

	int nr_failed;

	for (int n = 0; n < 3; n++) {
		ZydisDecoderInit(&decoders[n], modes[n], widths[n]);
		for (unsigned o = 0; o < sizeof(off) / sizeof(*off); o++)
			ZydisDecoderEnableMode(&decoders[n], off[o], 0);
	}
	nr_failed = cmocka_run_group_tests(tests, NULL, NULL);
	printf("# %lu instructions compared\n", nr_decodes);
	return nr_failed;
}

#else

int main(void)
{
	puts("1..0 # SKIP built without Zydis");
	return 0;
}

#endif
