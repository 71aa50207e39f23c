# The code that modes.c runs outside of 64-bit mode. Every test leaves what it
# saw in r_NAME, four words: a vector (or a value), error code, EIP, CR2.

	.set	CS16, 0x70		# 16-bit code at 0x10000
	.set	DS16, 0x78		# 16-bit data there
	.set	SMALL, 0x80		# data of 4 KiB
	.set	DOWN, 0x88		# data that expands down to 4 KiB
	.set	TASK_MAIN, 0x90
	.set	TASK_B, 0x98
	.set	GATE, 0xa0
	.set	TASK_DF, 0xa8
	.set	CS32, 0x18
	.set	DS32, 0x20
	.set	OUT16, 0xe000		# where 16-bit code leaves results

	# Between the two, an exception goes on behind the second.
	.macro	try
	movl	$-1, t_vector
	movl	$9f, t_resume
	movl	%esp, t_resume_esp
	.endm
	.macro	caught name
9:	.comm	r_\name, 16, 16
	movl	t_vector, %eax
	movl	%eax, r_\name
	movl	t_error, %eax
	movl	%eax, r_\name + 4
	movl	t_eip, %eax
	movl	%eax, r_\name + 8
	movl	t_cr2, %eax
	movl	%eax, r_\name + 12
	.endm
	.macro	put name, reg
	.comm	r_\name, 16, 16
	movl	\reg, r_\name
	.endm
	.macro	load_segments sel
	movl	\sel, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	.endm

	.text
# ---- out of long mode and back: mode_run(code) --------------------------------
	.code64
	.globl	mode_run
mode_run:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	mov	%rsp, mode_rsp
	mov	%edi, mode_code
	sidt	mode_idt64
	ljmpl	*mode_enter
	.code32
mode_32:
	movl	%cr0, %eax
	andl	$0x7fffffff, %eax
	movl	%eax, %cr0
	movl	$0xc0000080, %ecx
	rdmsr
	andl	$~0x100, %eax		# LME
	wrmsr
	load_segments $DS32
	movl	$mode_stack + 4096, %esp
	lidt	mode_idt32
	movl	mode_cr4, %eax
	movl	%eax, %cr4
	movl	mode_cr3, %eax
	movl	%eax, %cr3
	movl	mode_cr0, %eax
	movl	%eax, %cr0
	call	*mode_code
	movl	%cr0, %eax
	andl	$0x7ffffff7, %eax	# not PG, not TS
	movl	%eax, %cr0
	movl	$0x620, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000000, %eax
	movl	%eax, %cr0
	ljmpl	$8, $mode_64
	.code64
mode_64:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	mov	mode_rsp, %rsp
	lidt	mode_idt64
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

# ---- exceptions in protected mode -----------------------------------------------
	.code32
	.globl	stubs32
	.balign	16
stubs32:
	vector32 = 0
	.rept	256
	.balign	16
	.if	vector32 == 8 || (vector32 >= 10 && vector32 <= 14) || vector32 == 17
	.else
	pushl	$0
	.endif
	pushl	$vector32
	jmp	trap32
	vector32 = vector32 + 1
	.endr
trap32:
	pushl	%eax
	movl	$DS32, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	4(%esp), %eax
	movl	%eax, t_vector
	movl	8(%esp), %eax
	movl	%eax, t_error
	movl	12(%esp), %eax
	movl	%eax, t_eip
	movl	16(%esp), %eax
	movl	%eax, t_cs
	movl	20(%esp), %eax
	movl	%eax, t_eflags
	movl	%esp, t_frame
	movl	%cr2, %eax
	movl	%eax, t_cr2
	testl	$0x20000, t_eflags	# virtual-8086 mode
	jnz	2f
	testb	$3, t_cs
	jz	1f
2:	movl	24(%esp), %eax		# of another level
	movl	%eax, t_esp
	movl	28(%esp), %eax
	movl	%eax, t_ss
1:	movl	$DS32, %eax
	movl	%eax, %ss
	movl	t_resume_esp, %esp
	pushl	$2
	popfl
	jmp	*t_resume

# ---- segments ----------------------------------------------------------------------
	.globl	pm_segments
pm_segments:
	movl	%cr0, %eax
	put	pm_cr0, %eax
	movl	$SMALL, %eax
	movl	%eax, %gs
	try
	movb	%gs:0xfff, %al
	caught	limit_in
	try
	movb	%gs:0x1000, %al
	caught	limit_out
	try
	movl	%gs:0xffc, %eax
	caught	limit_dword_in
	try
	movl	%gs:0xffd, %eax
	caught	limit_dword_out
	movl	$DOWN, %eax
	movl	%eax, %gs
	try
	movb	%gs:0xfff, %al
	caught	down_out
	try
	movb	%gs:0x1000, %al
	caught	down_in
	xorl	%eax, %eax
	movl	%eax, %gs
	try
	movb	%gs:0, %al
	caught	null
	try
	movl	%eax, %cs:t_scratch
	caught	write_code
	try
	movl	$SMALL, %eax
	movl	%eax, %ss
	movl	$0xf00, %esp
	xorl	%ebp, %ebp
	movl	0x1000(%ebp), %eax
	caught	stack_limit
	movl	$DS32, %eax
	movl	%eax, %ss
	movl	t_resume_esp, %esp
	try
	movl	$CS32, %eax
	movl	%eax, %ss
	caught	code_in_ss
	try
	movl	$0x7ff8, %eax
	movl	%eax, %fs
	caught	beyond_table
	try
	ljmpl	$DS32, $0
	caught	jump_to_data
	ret

# ---- instructions that 64-bit mode has not -------------------------------------------
	.globl	pm_instructions
pm_instructions:
	movl	$5, %ecx
	try
	boundl	%ecx, t_bounds
	caught	bound_in
	movl	$11, %ecx
	try
	boundl	%ecx, t_bounds
	caught	bound_out
	try
	movb	$0x7f, %al
	addb	$1, %al
	into
	caught	into
	try
	xorl	%eax, %eax
	into
	caught	into_not
	try
	aam	$0
	caught	aam_zero
	movl	$63, %eax
	aam
	put	aam, %eax
	movl	$0x0703, %eax
	aad
	put	aad, %eax
	movb	$0x79, %al
	addb	$0x35, %al
	daa
	movzbl	%al, %eax
	adcb	$0, %ah
	put	daa, %eax
	movb	$0x35, %al
	subb	$0x47, %al
	das
	movzbl	%al, %eax
	adcb	$0, %ah
	put	das, %eax
	movl	$8, %eax
	addb	$7, %al
	aaa
	put	aaa, %eax
	movl	$0x205, %eax
	subb	$9, %al
	aas
	put	aas, %eax
	stc
	.byte	0xd6			# SALC
	movzbl	%al, %eax
	put	salc, %eax
	# PUSHA and POPA but for ESP.
	movl	$0x11, %ecx
	movl	$0x22, %edx
	movl	$0x77, %edi
	pushal
	movl	(%esp), %eax
	put	pusha_edi, %eax
	movl	$0x99, 24(%esp)		# ECX
	xorl	%edx, %edx
	popal
	put	popa_ecx, %ecx
	put	popa_edx, %edx
	movl	$0x10000, %ebx		# 16-bit addresses are of BX and SI
	movw	$(OUT16 + 0x100), %bx
	movl	$0xffff0010, %esi
	addr16 lea 5(%bx, %si), %eax
	put	lea16, %eax
	movl	$0x18, %eax
	movl	$3, %ecx
	arpl	%cx, %ax
	setz	%cl
	movb	%cl, %ah
	put	arpl, %eax
	les	t_far, %eax
	movl	%es, %ecx
	put	les_offset, %eax
	put	les_selector, %ecx
	movl	$DS32, %eax
	movl	%eax, %es
	pushl	%ds
	popl	%eax
	put	push_ds, %eax
	movl	%esp, %edx
	enter	$16, $1
	movl	%edx, %eax
	subl	%esp, %eax
	leave
	put	enter, %eax
	try
	.byte	0x0f, 0x05		# SYSCALL: not outside of long mode
	caught	syscall
	ret

# ---- CPL 3, gates ----------------------------------------------------------------------
	.globl	pm_user
pm_user:
	movl	$TASK_MAIN, %eax
	ltr	%ax
	.macro	enter_user code
	pushl	$0x33
	pushl	$user_stack32 + 4096
	pushl	$2
	pushl	$0x2b
	pushl	$\code
	iretl
	.endm
	try
	enter_user user_int
	caught	user_int
	movl	t_cs, %eax
	put	user_cs, %eax
	movl	t_ss, %eax
	put	user_ss, %eax
	movl	t_esp, %eax
	put	user_esp, %eax
	movl	t_frame, %eax
	put	user_frame, %eax
	try
	enter_user user_cli
	caught	user_cli
	try
	enter_user user_kernel_int
	caught	user_kernel_int
	try
	enter_user user_gate
	caught	user_gate
	movl	t_esp, %eax
	put	user_gate_esp, %eax
	ret
user_int:
	int	$0x80
user_cli:
	cli
user_kernel_int:
	int	$0x83
user_gate:
	movl	$0x33, %eax
	movl	%eax, %ds
	pushl	$0x11111111
	pushl	$0x22222222
	lcall	$GATE | 3, $0
	int	$0x80
	.globl	gate32
gate32:
	movl	8(%esp), %eax
	put	gate_second, %eax
	movl	12(%esp), %eax
	put	gate_first, %eax
	movl	%cs, %eax
	put	gate_cs, %eax
	lretl	$8

# ---- virtual-8086 mode ----------------------------------------------------------------
	.globl	pm_v86
pm_v86:
	movl	$TASK_MAIN, %eax
	andl	$~0x200, gdt + TASK_MAIN + 4	# not busy
	ltr	%ax
	.macro	enter_v86 code, flags
	pushl	$0
	pushl	$0
	pushl	$0x1000
	pushl	$0x1000
	pushl	$0x1000
	pushl	$0xd000
	pushl	$\flags
	pushl	$0x1000
	pushl	$\code - blob16
	iretl
	.endm
	try
	enter_v86 v86_code, 0x23002	# IOPL 3
	caught	v86_int
	movl	t_eflags, %eax
	put	v86_flags, %eax
	movl	t_esp, %eax
	put	v86_esp, %eax
	movl	t_ss, %eax
	put	v86_ss, %eax
	movl	t_frame, %eax
	movl	32(%eax), %ecx
	put	v86_es, %ecx
	movl	36(%eax), %ecx
	put	v86_ds, %ecx
	try
	enter_v86 v86_cli, 0x20002
	caught	v86_cli
	try
	enter_v86 v86_software_int, 0x20002
	caught	v86_software_int
	try
	enter_v86 v86_in, 0x23002
	caught	v86_in
	try
	enter_v86 v86_hlt, 0x23002
	caught	v86_hlt
	try
	enter_v86 v86_limit, 0x23002
	caught	v86_limit
	ret

# ---- tasks --------------------------------------------------------------------------------
	.globl	pm_tasks
pm_tasks:
	movl	$TASK_MAIN, %eax
	andl	$~0x200, gdt + TASK_MAIN + 4	# not busy
	ltr	%ax
	clts
	movl	$0x5a5a, %ebx
	try
	lcall	$TASK_B, $0
	caught	task_call
	put	task_ebx, %ebx
	movl	%cr0, %eax
	put	task_cr0, %eax
	str	%ax
	movzwl	%ax, %eax
	put	task_back_tr, %eax
	try
	ljmpl	$TASK_B, $0
	caught	task_jmp
	try
	int	$0x81
	caught	task_int
	try
	lcall	$TASK_MAIN, $0
	caught	task_busy
	andl	$~0x8000, gdt + TASK_B + 4
	try
	lcall	$TASK_B, $0
	caught	task_absent
	orl	$0x8000, gdt + TASK_B + 4
	# #GP without a gate is #NP, and that a double fault: a task gate.
	andl	$~0x8000, idt32 + 13 * 8 + 4
	try
	movl	%eax, %cs:t_scratch
	caught	task_df
	orl	$0x8000, idt32 + 13 * 8 + 4
	ret
	.globl	task_b, task_df
task_b:
	str	%ax
	movzwl	%ax, %eax
	put	task_b_tr, %eax
	put	task_b_ecx, %ecx
	pushfl
	popl	%eax
	put	task_b_flags, %eax
	movzwl	tss_b, %eax
	put	task_b_link, %eax
	movl	$0x77777777, %ecx
	iretl
	# Here by JMP.
	pushfl
	popl	%eax
	put	task_jmp_flags, %eax
	put	task_jmp_ecx, %ecx
	ljmpl	$TASK_MAIN, $0
	# Here by a task gate.
	pushfl
	popl	%eax
	put	task_int_flags, %eax
	iretl
	hlt
task_df:
	popl	%eax
	put	task_df_error, %eax
	str	%ax
	movzwl	%ax, %eax
	put	task_df_tr, %eax
	movl	$8, t_vector
	movl	t_resume, %eax
	movl	%eax, tss_main + 32
	movl	t_resume_esp, %eax
	movl	%eax, tss_main + 56
	iretl
	hlt

# ---- paging -----------------------------------------------------------------------------------
	.globl	paging32, paging_pae
paging32:
	try
	movl	0x40000123, %ecx
	caught	p32_read
	put	p32_value, %ecx
	try
	movl	0x40001456, %ecx
	caught	p32_absent
	try
	movl	%ecx, 0x40000000
	caught	p32_read_only
	movl	0x40800000, %ecx	# 4 MiB at 0, again
	try
	movl	%ecx, 0x40800000 + t_scratch
	caught	p32_large
	ret
paging_pae:
	try
	movl	0x40000123, %ecx
	caught	pae_read
	put	pae_value, %ecx
	try
	movl	%ecx, 0x40001456
	caught	pae_absent
	movl	$0x40000000, %ecx
	try
	call	*%ecx
	caught	pae_nx
	try
	movl	$bad_pdpt, %eax
	movl	%eax, %cr3
	caught	pae_bad_pdpte
	movl	%cr3, %eax
	put	pae_cr3, %eax
	ret

# ---- 16-bit protected mode and real mode --------------------------------------------------------
	.globl	pm16, real
pm16:
	try
	ljmpl	$CS16, $pm16_code - blob16
	caught	pm16
	try
	ljmpl	$CS16, $pm16_limit - blob16
	caught	pm16_limit
	try
	ljmpl	$CS16, $0x10000		# beyond its limit
	caught	pm16_jump
	ret
pm16_back:
	load_segments $DS32
	movl	t_resume_esp, %esp
	jmp	*t_resume
real:
	movl	%esp, t_resume_esp
	movl	$1f, t_resume
	ljmpl	$CS16, $real_enter - blob16
1:	lidt	mode_idt32
	ret

	.globl	blob16, blob16_end, pm16_gate
	.code16
blob16:
pm16_code:
	movw	$DS16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0xd000, %esp
	movw	%cs, OUT16
	call	1f
1:	movw	%sp, OUT16 + 2
	popw	%ax
	subw	$1b - blob16, %ax
	movw	%ax, OUT16 + 4
	int	$0x82			# a 16-bit gate
	pushl	$0x12345678
	popw	%ax
	popw	%bx
	movw	%ax, OUT16 + 8
	movw	%bx, OUT16 + 10
	ljmpl	$CS32, $pm16_back
pm16_gate:
	movw	%sp, OUT16 + 6
	iretw
pm16_limit:
	movw	$DS16, %ax
	movw	%ax, %ds
	movw	0xffff, %ax

v86_code:
	movw	%cs, OUT16 + 0x50
	pushfw
	popw	OUT16 + 0x52
	movw	$0x1e00, %bx
	movw	%bx, %es
	movw	$0x4321, %es:0x54
	int	$0x80
v86_cli:
	cli
v86_software_int:
	int	$0x80
v86_in:
	inb	$0x71, %al
v86_hlt:
	hlt
v86_limit:
	movw	0xffff, %ax

real_enter:
	movw	$DS16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	%cr0, %eax
	andl	$~1, %eax
	movl	%eax, %cr0
	ljmp	$0x1000, $real_code - blob16
real_code:
	movw	%cs, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movl	$0xd000, %esp
	movw	%ax, OUT16 + 0x20
	lidtl	real_idt - blob16
	xorw	%cx, %cx
	movw	%cx, %es
	movw	$real_int - blob16, %es:0x60 * 4
	movw	%ax, %es:0x60 * 4 + 2
	movw	$real_divide - blob16, %es:0
	movw	%ax, %es:2
	movw	$real_protect - blob16, %es:13 * 4
	movw	%ax, %es:13 * 4 + 2
	movw	%ax, %es
	int	$0x60
	movw	%sp, OUT16 + 0x24
	divw	%cx
	movw	0xffff, %ax		# three bytes
	lcall	$0x1000, $real_far - blob16
	# 64 KiB wrap by bytes.
	movw	$0x2211, 0xfffe
	movw	$0xfffe, %si
	movw	$OUT16 + 0x30, %di
	movw	$4, %cx
	cld
	rep movsb
	movw	%si, OUT16 + 0x2c
	# The megabyte does not.
	movw	$0xffff, %ax
	movw	%ax, %fs
	movl	%fs:0x10, %eax
	movl	%eax, OUT16 + 0x38
	pushf
	popw	%ax
	movw	%ax, OUT16 + 0x3c
	movl	$0x1000e, %ebx		# 32-bit addresses are not cut
	xorl	%eax, %eax
	movl	%esp, %ebp
	pushl	$0x12345678
	movl	-4(%ebp), %eax
	movl	%eax, OUT16 + 0x40
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$CS32, $pm16_back
real_int:
	movw	%sp, OUT16 + 0x22
	incw	OUT16 + 0x26
	iret
real_divide:
	incw	OUT16 + 0x28
	pushw	%bp
	movw	%sp, %bp
	addw	$2, 2(%bp)		# past the DIV
	popw	%bp
	iret
real_protect:
	incw	OUT16 + 0x2a
	pushw	%bp
	movw	%sp, %bp
	addw	$3, 2(%bp)
	popw	%bp
	iret
real_far:
	incw	OUT16 + 0x2e
	lret
	.balign	4
real_idt:
	.word	0x3ff
	.long	0
blob16_end:

# ---- compatibility mode ----------------------------------------------------------------------------
	.code32
	.globl	compat32, compat_limit, compat16
compat32:
	movl	$5, %eax
	.byte	0x40			# INC EAX, not REX
	put	compat_inc, %eax
	movl	%esp, %eax
	pushl	%eax
	subl	%esp, %eax
	popl	%ecx
	put	compat_push, %eax
	# To 64-bit code and back.
	lcall	$8, $compat_64
	put	compat_64, %edx
	lretl
	.code64
compat_64:
	mov	$0x1234567890, %rdx
	shr	$12, %rdx
	lretl
	.code32
compat_limit:
	movl	%gs:0x1000, %eax
	lretl

	.data
	.balign	16
mode_rsp:	.quad 0
mode_code:	.long 0
mode_enter:	.long mode_32
		.word CS32
	.balign	8
		.word 0, 0, 0
mode_idt64:	.word 0
		.quad 0
	.balign	8
		.word 0
mode_idt32:	.word 256 * 8 - 1
		.long idt32
	.globl	mode_cr0, mode_cr3, mode_cr4
	.balign	4
mode_cr0:	.long 0x23
mode_cr3:	.long 0
mode_cr4:	.long 0
t_vector:	.long 0
t_error:	.long 0
t_eip:		.long 0
t_cs:		.long 0
t_eflags:	.long 0
t_esp:		.long 0
t_ss:		.long 0
t_cr2:		.long 0
t_frame:	.long 0
t_resume:	.long 0
t_resume_esp:	.long 0
t_scratch:	.long 0
t_bounds:	.long 0, 10
t_far:		.long 0x13579bdf
		.word 0x33
	.text
	.code64
