/* SPDX-License-Identifier: BSD-3-Clause */
/* Names, uuids and sizes: what may stand in a bdev_info. Pure. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "bdev_info.h"
#include "utf8.h"

/*
 * C0 and C1 controls and DEL (Unicode general category Cc), and '/', since names become parts of
 * paths.
 */
static bool
is_allowed(const char *character)
{
	const unsigned char *bytes = (const unsigned char *)character;

	if (bytes[0] < 0x20 || bytes[0] == 0x7f || bytes[0] == '/')
		return false;
	return !(bytes[0] == 0xc2 && bytes[1] < 0xa0);
}

static int
check_name(const char *name, struct errmsg *err)
{
	size_t length, size = name == NULL ? 0 : strnlen(name, BDEV_NAME_MAX + 1);

	if (size == 0)
		return err_set(err, -EINVAL, "the name of a block device must not be empty");
	if (size > BDEV_NAME_MAX)
		return err_set(err, -EINVAL,
			       "the name of a block device must not be longer than %d bytes",
			       BDEV_NAME_MAX);
	for (size_t i = 0; i < size; i += length) {
		length = utf8_length(&name[i]);
		if (length == 0)
			return err_set(err, -EINVAL, "the name of a block device must be UTF-8");
		if (!is_allowed(&name[i]))
			return err_set(err, -EINVAL,
				       "the name of a block device must not contain '/' or control "
				       "characters");
	}
	return 0;
}

static bool
is_uuid(const char *text)
{
	static const char pattern[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	for (size_t i = 0; i < sizeof(pattern) - 1; i++) {
		if (pattern[i] == '-' ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	}
	return text[sizeof(pattern) - 1] == '\0';
}

int
bdev_info_init(struct bdev_info *info, const char *name, const char *uuid, struct errmsg *err)
{
	int rc = check_name(name, err);

	if (rc != 0)
		return rc;
	memset(info, 0, sizeof(*info));
	memcpy(info->name, name, strlen(name));
	if (uuid == NULL || uuid[0] == '\0')
		return 0;
	if (!is_uuid(uuid))
		return err_set(err, -EINVAL,
			       "block device %s: the uuid must be like "
			       "01234567-89ab-cdef-0123-456789abcdef",
			       name);
	for (size_t i = 0; uuid[i] != '\0'; i++)
		info->uuid[i] = (char)tolower((unsigned char)uuid[i]);
	return 0;
}

/* Text of a random uuid (RFC 4122 §4.4: version 4, variant 1). */
static int
uuid_generate(char uuid[BDEV_UUID_TEXT])
{
	uint8_t b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return -errno;
	b[6] = (b[6] & 0x0f) | 0x40;
	b[8] = (b[8] & 0x3f) | 0x80;
	snprintf(uuid, BDEV_UUID_TEXT,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		 b[15]);
	return 0;
}

static bool
is_power_of_two(uint32_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

bool
bdev_size_is_valid(uint64_t num_blocks, uint32_t block_size, uint64_t *size)
{
	/* Offsets go through signed 64-bit interfaces (off_t). */
	return num_blocks != 0 && !__builtin_mul_overflow(num_blocks, block_size, size) &&
	       *size <= INT64_MAX;
}

static int
check_sizes(struct bdev_info *info, struct errmsg *err)
{
	if (!is_power_of_two(info->block_size) || info->block_size < 512 ||
	    info->block_size > 65536)
		return err_set(err, -EINVAL,
			       "block device %s: the block size must be a power of two from 512 to "
			       "65536, not %u",
			       info->name, info->block_size);
	if (!is_power_of_two(info->physical_block_size) ||
	    info->physical_block_size < info->block_size)
		return err_set(err, -EINVAL,
			       "block device %s: the physical block size must be a power of two "
			       "and at least %u, not %u",
			       info->name, info->block_size, info->physical_block_size);
	if (!bdev_size_is_valid(info->num_blocks, info->block_size, &info->size))
		return err_set(err, -EINVAL,
			       "block device %s: there cannot be %lu blocks of %u bytes",
			       info->name, info->num_blocks, info->block_size);
	return 0;
}

/* A missing physical block size is the block size. */
int
bdev_info_complete(struct bdev_info *info, const struct bdev_info *given, struct errmsg *err)
{
	int rc = bdev_info_init(info, given->name, given->uuid, err);
	char uuid[BDEV_UUID_TEXT];

	if (rc != 0)
		return rc;
	memcpy(uuid, info->uuid, sizeof(uuid));
	*info = *given;
	memcpy(info->uuid, uuid, sizeof(uuid));
	if (info->physical_block_size == 0)
		info->physical_block_size = info->block_size;
	rc = check_sizes(info, err);
	if (rc != 0)
		return rc;
	if (info->read_only)
		info->io_types &= ~BDEV_WRITE_TYPES;
	return info->uuid[0] != '\0' ? 0 : uuid_generate(info->uuid);
}
