/*
 * The start of a bare-metal test guest: an ELF file with a PVH note. The entry
 * is 32-bit protected mode without paging (Xen's PVH boot protocol); this maps
 * the first 4 GiB one to one, enters long mode at CPL 0 and calls guest_main().
 * Other CPUs come up through ap_trampoline (copied to 0x8000 by guest.c).
 */
	.section .note.Xen, "a", @note
	.long	4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.long	start32

	.code32
	.text
	.globl	start32
start32:
	cli
	movl	$boot_stack_top, %esp
	movl	%ebx, start_info
	/* PML4[0] -> PDPT, PDPT[0..3] -> 4 PDs of 2 MiB pages. */
	movl	$pdpt + 7, pml4
	movl	$pds + 7, %eax
	movl	$pdpt, %edi
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	addl	$4096, %eax
	addl	$8, %edi
	loop	1b
	movl	$0x87, %eax		/* present, writable, user, large */
	movl	$pds, %edi
	movl	$2048, %ecx
2:	movl	%eax, (%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	loop	2b
	call	long_mode
	lgdt	gdt_pointer
	ljmp	$0x08, $start64

/* Turn paging and long mode on; still in 32-bit code on return. */
long_mode:
	movl	%cr4, %eax
	orl	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x901, %eax		/* SCE, LME, NXE */
	wrmsr
	movl	%cr0, %eax
	orl	$0x80010022, %eax	/* PG, WP, NE, MP */
	andl	$~0xc, %eax		/* not EM, not TS */
	movl	%eax, %cr0
	ret

	.code64
start64:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	movl	$boot_stack_top, %esp
	call	guest_start
1:	hlt
	jmp	1b

/* ---- other CPUs: real mode at 0x8000 ---------------------------------- */
	.code16
	.globl	ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	0x8000 + ap_gdt_pointer - ap_trampoline
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x18, $ap_start32
ap_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_trampoline_end:

	.code32
ap_start32:
	movl	$0x20, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	ap_stack, %esp
	call	long_mode
	ljmp	$0x08, $ap_start64
	.code64
ap_start64:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	ap_stack, %esp
	call	ap_main
1:	hlt
	jmp	1b

/* ---- exceptions: every vector to trap_entry ----------------------------- */
	.globl	trap_stubs
	.balign	16
trap_stubs:
	vector = 0
	.rept	256
	.balign	16
	.if	vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap_entry
	vector = vector + 1
	.endr

trap_entry:
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%r11
	pushq	%r10
	pushq	%r9
	pushq	%r8
	pushq	%rdi
	pushq	%rsi
	pushq	%rbp
	pushq	%rbx
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	cld
	movq	%rsp, %rdi
	movq	%rsp, %rbp
	andq	$-16, %rsp
	call	trap_handle
	movq	%rbp, %rsp
	popq	%rax
	popq	%rcx
	popq	%rdx
	popq	%rbx
	popq	%rbp
	popq	%rsi
	popq	%rdi
	popq	%r8
	popq	%r9
	popq	%r10
	popq	%r11
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	addq	$16, %rsp
	iretq

/* ---- user mode ------------------------------------------------------------- */
/* int64_t user_call(fn, cs, ss, user_stack): run fn at the privilege level of
 * cs; it comes back by INT 0x80 with its result in RAX. */
	.globl	user_call, user_return
user_call:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	movq	%rsp, user_kernel_rsp
	pushq	%rdx
	pushq	%rcx
	pushq	$2
	pushq	%rsi
	pushq	%rdi
	iretq
/* Entered by the trap handler for vector 0x80 with the result in RAX. */
user_return:
	movq	user_kernel_rsp, %rsp
	movl	$0x10, %edx
	movl	%edx, %ds
	movl	%edx, %es
	movl	%edx, %ss
	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

/* ---- tables ---------------------------------------------------------------- */
	.data
	.balign	16
	.globl	gdt, gdt_end, gdt_pointer
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* 08: 64-bit code, CPL 0 */
	.quad	0x00cf93000000ffff	/* 10: data, CPL 0 */
	.quad	0x00cf9b000000ffff	/* 18: 32-bit code, CPL 0 */
	.quad	0x00cf93000000ffff	/* 20: 32-bit data, CPL 0 */
	.quad	0x00cffb000000ffff	/* 28: 32-bit code, CPL 3 (SYSRET base) */
	.quad	0x00cff3000000ffff	/* 30: data, CPL 3 */
	.quad	0x00affb000000ffff	/* 38: 64-bit code, CPL 3 */
	.quad	0x00afbb000000ffff	/* 40: 64-bit code, CPL 1 */
	.quad	0x00cfb3000000ffff	/* 48: data, CPL 1 */
	.quad	0x00afdb000000ffff	/* 50: 64-bit code, CPL 2 */
	.quad	0x00cfd3000000ffff	/* 58: data, CPL 2 */
	.quad	0, 0			/* 60: TSS, by guest.c */
	.quad	0, 0, 0, 0, 0, 0, 0, 0	/* 70..: for tests */
gdt_end:
	.balign	8
	.word	0, 0, 0
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.balign	8
	.globl	start_info, ap_stack
start_info:
	.quad	0
ap_stack:
	.quad	0
user_kernel_rsp:
	.quad	0

	.bss
	.balign	4096
	.globl	pml4, pdpt, pds
pml4:	.skip	4096
pdpt:	.skip	4096
pds:	.skip	4096 * 4
	.skip	16384
boot_stack_top:
	.section .note.GNU-stack, "", @progbits
