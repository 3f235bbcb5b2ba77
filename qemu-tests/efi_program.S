/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A UEFI program as a flat binary with its own PE headers (Microsoft PE/COFF specification §3):
 * prints MARKER, which the assembler's command line defines, on the first serial port and stops.
 */
	.code64
	.globl	_start
_start:
	.ascii	"MZ"
	.org	0x3c
	.long	pe_header
pe_header:
	.ascii	"PE\0\0"
	.word	0x8664			/* machine: x86-64 */
	.word	1			/* sections */
	.long	0, 0, 0			/* time, no symbols */
	.word	section - optional_header
	.word	0x0206			/* executable, no line numbers, no debug information */
optional_header:
	.word	0x20b			/* PE32+ */
	.byte	0, 0
	.long	0x200, 0, 0		/* sizes: code, data, BSS */
	.long	entry, 0x200		/* entry, base of code */
	.quad	0			/* image base: anywhere, the code is position independent */
	.long	0x200, 0x200		/* alignment in memory, in the file */
	.word	0, 0, 0, 0, 0, 0	/* versions */
	.long	0
	.long	0x400, 0x200		/* size of the image, of the headers */
	.long	0			/* checksum */
	.word	10, 0			/* subsystem: EFI application */
	.quad	0, 0, 0, 0
	.long	0
	.long	6			/* data directories: all empty */
	.quad	0, 0, 0, 0, 0, 0
section:
	.ascii	".text\0\0\0"
	.long	0x200, 0x200		/* in memory: size, address */
	.long	0x200, 0x200		/* in the file: size, offset */
	.long	0, 0, 0
	.long	0x60000020		/* code, readable, executable */

	.org	0x200
entry:
	leaq	message(%rip), %rsi
print:
	lodsb
	testb	%al, %al
	jz	stop
	movb	%al, %bl
wait:
	movw	$0x3fd, %dx		/* line status: wait until the transmitter is empty */
	inb	%dx, %al
	testb	$0x20, %al
	jz	wait
	movb	%bl, %al
	movw	$0x3f8, %dx
	outb	%al, %dx
	jmp	print
stop:
	hlt
	jmp	stop

message:
	.ascii	MARKER
	.asciz	"\n"
	.org	0x400
