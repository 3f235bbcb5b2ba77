/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A boot sector for SeaBIOS: reads the text in the disk's 9th sector with int 13h and prints it,
 * up to its NUL, on the first serial port.
 */
	.code16
	.globl	_start
_start:
	ljmp	$0, $main
main:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	$packet, %si
	movb	$0x42, %ah		/* extended read; dl is the drive, as the BIOS left it */
	int	$0x13
	jc	failed
	movw	$0x8000, %si
	jmp	print
failed:
	movw	$message, %si

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
	.asciz	"read failed\n"
	.balign	4
packet:
	.byte	16, 0			/* size of this packet */
	.word	1			/* sectors */
	.word	0x8000, 0		/* to offset, segment */
	.quad	8			/* from LBA */

	.org	510
	.word	0xaa55
