/* SPDX-License-Identifier: BSD-3-Clause */
/* big_endian: numbers as SCSI has them in CDBs, parameter lists and data. Addresses may be odd. */
#ifndef VHOSTD_BIG_ENDIAN_H
#define VHOSTD_BIG_ENDIAN_H

#include <stdint.h>

static inline uint16_t
get_be16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static inline uint32_t
get_be32(const uint8_t *bytes)
{
	uint32_t value;

	__builtin_memcpy(&value, bytes, sizeof(value));
	return __builtin_bswap32(value);
}

static inline uint64_t
get_be64(const uint8_t *bytes)
{
	uint64_t value;

	__builtin_memcpy(&value, bytes, sizeof(value));
	return __builtin_bswap64(value);
}

static inline uint32_t
get_be24(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
}

static inline void
put_be16(uint8_t *bytes, uint16_t value)
{
	bytes[0] = (uint8_t)(value >> 8);
	bytes[1] = (uint8_t)value;
}

static inline void
put_be32(uint8_t *bytes, uint32_t value)
{
	value = __builtin_bswap32(value);
	__builtin_memcpy(bytes, &value, sizeof(value));
}

static inline void
put_be64(uint8_t *bytes, uint64_t value)
{
	value = __builtin_bswap64(value);
	__builtin_memcpy(bytes, &value, sizeof(value));
}

#endif
