/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * framing: finds where one JSON document ends in a stream that has no delimiters, without parsing
 * it twice. Private to the room jsonrpc; pure.
 */
#ifndef VHOSTD_JSONRPC_FRAMING_H
#define VHOSTD_JSONRPC_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Between documents all fields are zero. */
struct framing {
	size_t size;      /* bytes of the document so far, without leading white space */
	uint32_t depth;   /* brackets that are open */
	uint64_t objects; /* bit n: the bracket at depth n is '{', not '[' */
	bool in_string;
	bool escaped;
};

/*
 * Looks at the next len bytes of the stream. Sets *used to how many it took. Returns 1 when a
 * document ends there (and *framing is ready for the next one), 0 when all is taken and more must
 * come, or -EINVAL (this is no JSON object or array), -EMSGSIZE (longer than JSONRPC_MAX_REQUEST),
 * -ELOOP (deeper than JSONRPC_MAX_DEPTH).
 */
int framing_scan(struct framing *framing, const char *data, size_t len, size_t *used);

#endif
