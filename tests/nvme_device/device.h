/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Private to the software NVMe device: its parts, and what they offer each other. One thread runs
 * all of it.
 */
#ifndef NVME_DEVICE_DEVICE_H
#define NVME_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

#include "layout.h"

#define MAX_QUEUES      128u /* pairs, with the admin queues */
#define MAX_VECTORS     128u
#define MAX_NAMESPACES  64u /* nsid 1 … */
#define MAX_MAPS        4096u
#define MAX_SEGMENTS    (65536 + 2) /* the most blocks of a command, as unaligned pages */
#define MAX_DELAYED     4096
#define MAX_FAULTS      64
#define MAX_PATCHES     32
#define MAX_EVENTS      8
#define EVENT_REQUESTS  4 /* AERL + 1 */
#define ERROR_ENTRIES   64
#define BATCH           64 /* commands that are taken from a queue at once */
#define BAR0_SIZE       0x8000u
#define PAGE            4096u
#define CSTS_FATAL      (1U << NVME_CSTS_CFS_SHIFT)
#define STATUS(sct, sc) ((uint16_t)((sct) << 8 | (sc)))
/* The command is not completed now: later, or never. */
#define STATUS_PENDING 0xffffu

struct device;

/* ---- violations: what a client must not do ---- */

enum violation {
	V_PRP,         /* a PRP entry or list that the specification forbids */
	V_SGL,         /* an SGL that it forbids, or that we did not offer */
	V_IOVA,        /* an address that is not mapped, or not for this direction */
	V_CID,         /* an identifier that is in flight already */
	V_DOORBELL,    /* a value out of range, or past the queue */
	V_NO_QUEUE,    /* a doorbell of a queue that does not exist */
	V_QUEUE,       /* a queue created or deleted against the rules */
	V_RESERVED,    /* a reserved field that is not zero */
	V_FUSED,       /* half a fused command */
	V_COMMAND,     /* more data than MDTS, a command that was not offered */
	V_REGISTER,    /* a register accessed or set against the rules */
	V_UNMAP,       /* memory unmapped that a queue lives in */
	V_NOT_DURABLE, /* said to be durable, but never flushed */
	V_PROTOCOL,    /* a message that vfio-user does not allow */
	VIOLATIONS,
};

extern const char *const violation_names[VIOLATIONS];

struct violations {
	uint64_t counts[VIOLATIONS];
	uint64_t total;
	char last[200];
};

void violation(struct device *dev, enum violation kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- memory of the client ---- */

struct dma_map {
	uint64_t iova;
	uint64_t size;
	uint8_t *memory;
	uint32_t flags;
};

struct dma {
	struct dma_map maps[MAX_MAPS]; /* sorted by iova */
	uint32_t count;
	uint32_t last; /* the one that was found last */
};

/* fd is borrowed. 0 or an errno. */
int dma_add(struct dma *dma, const struct vfio_user_dma_map *map, int fd);
int dma_remove(struct dma *dma, uint64_t iova, uint64_t size);
void dma_clear(struct dma *dma);
/* NULL when not all of it is mapped in one piece; flags: what it has to be, VFIO_USER_DMA_*. */
void *dma_at(struct dma *dma, uint64_t iova, uint64_t length, uint32_t flags);
/* The same, and a violation when it is not. what: for the text. */
void *dma_need(struct device *dev, uint64_t iova, uint64_t length, uint32_t flags,
	       const char *what);

/* The memory of one command. */
struct transfer {
	struct iovec segments[MAX_SEGMENTS];
	uint32_t count;
};

/* Walks the PRPs or SGL of a command. flags: how the memory is used. Returns a status. */
uint16_t transfer_map(struct device *dev, const struct nvme_sqe *sqe, uint64_t length,
		      uint32_t flags);
/* The first length bytes of data, filled with zeroes up to size, become the command's data. */
uint16_t transfer_answer(struct device *dev, const struct nvme_sqe *sqe, const void *data,
			 uint64_t length, uint64_t size);

/* ---- namespaces ---- */

enum namespace_kind {
	NAMESPACE_NONE,
	NAMESPACE_NULL,
	NAMESPACE_MEMORY,
	NAMESPACE_FILE,
};

struct nvme_ns {
	enum namespace_kind kind;
	uint32_t nsid;
	uint32_t shift; /* of the block size */
	uint64_t blocks;
	uint64_t capacity; /* blocks that it can grow to */
	int fd;
	uint8_t *stable;  /* what a power loss leaves: the file itself */
	uint8_t *current; /* what reads see: a private copy of its pages */
	uint64_t *dirty;  /* blocks of current that are not in stable */
	uint64_t dirty_count;
};

/* Answer in error (at most size bytes) when they fail. */
bool namespace_add(struct device *dev, uint32_t nsid, const char *kind, uint64_t blocks,
		   uint32_t block_size, const char *path, char *error, size_t size);
bool namespace_resize(struct device *dev, struct nvme_ns *ns, uint64_t blocks);
void namespace_remove(struct device *dev, struct nvme_ns *ns);
struct nvme_ns *namespace_find(struct device *dev, uint32_t nsid);
/*
 * Blocks of current were written; they are stable at once with fua or without a cache that is on.
 */
void namespace_written(struct device *dev, struct nvme_ns *ns, uint64_t block, uint64_t count,
		       bool fua);
void namespace_flush(struct nvme_ns *ns);
/* How many blocks were lost. */
uint64_t namespace_power_loss(struct nvme_ns *ns);
uint64_t namespace_dirty(const struct nvme_ns *ns, uint64_t block, uint64_t count);

/* ---- queues ---- */

struct cq {
	uint16_t id;
	bool exists;
	bool interrupts;
	bool phase;
	uint16_t vector;
	uint32_t size;
	uint32_t head;
	uint32_t head_seen; /* the doorbell's value, right or wrong */
	uint32_t tail;
	uint32_t reserved; /* entries that commands in flight will need */
	uint32_t users;    /* submission queues */
	uint32_t unsignalled;
	uint64_t unsignalled_since; /* ns */
	uint64_t iova;
	struct nvme_cqe *entries;
	volatile uint32_t *doorbell;
	volatile uint32_t *event_index;
};

struct sq {
	uint16_t id;
	bool exists;
	uint32_t size;
	uint32_t head;
	uint32_t told; /* the head that the client knows of */
	uint32_t tail;
	uint32_t tail_seen; /* the doorbell's value, right or wrong */
	uint64_t iova;
	struct cq *cq;
	const volatile struct nvme_sqe *entries;
	volatile uint32_t *doorbell;
	volatile uint32_t *event_index;
	uint64_t in_flight[65536 / 64]; /* identifiers */
};

/* Returns whether there was anything to do. */
bool queue_poll(struct device *dev, struct sq *sq);
void queue_complete(struct device *dev, struct sq *sq, uint16_t cid, uint16_t status, uint32_t dw0);
void queue_signal(struct device *dev, struct cq *cq);
bool cq_has_room(struct device *dev, struct cq *cq, uint32_t entries);
void interrupt(struct device *dev, uint16_t vector);
/* base is checked here. */
bool sq_start(struct device *dev, uint16_t id, uint64_t base, uint32_t size, struct cq *cq);
bool cq_start(struct device *dev, uint16_t id, uint64_t base, uint32_t size, bool interrupts,
	      uint16_t vector);
void sq_stop(struct device *dev, struct sq *sq);
void cq_stop(struct device *dev, struct cq *cq);
void queues_stop(struct device *dev);
/* Doorbells that were rung though no queue is there. */
void queues_check_doorbells(struct device *dev);
/* Memory goes: queues in it die. */
void queues_check_unmap(struct device *dev, uint64_t iova, uint64_t size);
/* Where the doorbells are changes: shadow doorbells. */
void queues_place_doorbells(struct device *dev);

/* ---- commands ---- */

struct command_rule {
	const char *name; /* NULL: no such command */
	uint16_t (*run)(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe,
			uint32_t *dw0);
	bool has_data;
	bool has_nsid;
	uint32_t reserved[6]; /* bits of CDW10 … CDW15 that must be zero */
};

extern const struct command_rule admin_commands[256];
extern const struct command_rule io_commands[256];

/* Commands that were fetched together. */
void commands_run(struct device *dev, struct sq *sq, const struct nvme_sqe *sqes, uint32_t count);
void commands_run_delayed(struct device *dev, uint64_t now);
/* Those of sq end with status, or without any completion. sq NULL: all. */
void commands_drop_delayed(struct device *dev, const struct sq *sq, bool complete);
bool command_abort(struct device *dev, struct sq *sq, uint16_t cid);

uint16_t identify(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0);
uint16_t get_log_page(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0);
uint16_t get_features(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0);
uint16_t set_features(struct device *dev, struct sq *sq, const struct nvme_sqe *sqe, uint32_t *dw0);
void features_reset(struct device *dev);
void log_error(struct device *dev, const struct sq *sq, uint16_t cid, uint16_t status);

/* Bytes of the identify data that tests replace. */
struct patch {
	uint32_t nsid; /* 0: the controller's */
	uint32_t offset;
	uint32_t size;
	uint64_t value;
};

const char *patch_field(const char *name, bool controller, struct patch *patch);

/* ---- asynchronous events ---- */

struct events {
	uint16_t requests[EVENT_REQUESTS];
	uint32_t request_count;
	bool pending[MAX_EVENTS]; /* by type */
	bool masked[MAX_EVENTS];  /* until the log page is read */
	uint32_t info[MAX_EVENTS];
};

void event_raise(struct device *dev, uint32_t type, uint32_t info, uint32_t log_page);
void events_deliver(struct device *dev);
void events_log_was_read(struct device *dev, uint32_t log_page);

/* ---- the controller ---- */

struct features {
	uint32_t values[256];
	uint32_t coalescing_off[MAX_VECTORS / 32]; /* by vector */
};

struct controller {
	uint64_t cap;
	uint32_t cc;
	uint32_t csts;
	uint32_t intm;
	uint32_t aqa;
	uint64_t asq;
	uint64_t acq;
	uint32_t page_size;
	uint32_t io_queues; /* granted */
	bool shadow;        /* doorbell buffers are in use */
	bool shut_down;
	uint64_t shadow_iova;
	uint64_t event_iova;
	uint8_t *shadow_doorbells;
	uint8_t *event_indexes;
	uint64_t ready_at;        /* ns; 0: nothing is coming */
	uint64_t keep_alive_seen; /* ns */
	struct sq sqs[MAX_QUEUES];
	struct cq cqs[MAX_QUEUES];
	struct sq *active[MAX_QUEUES]; /* that exist */
	uint32_t active_count;
	struct features features;
	struct events events;
	uint32_t changed_namespaces[NVME_ID_NS_LIST_MAX];
	uint32_t changed_count;
};

uint64_t controller_cap(const struct device *dev);
uint64_t controller_read(struct device *dev, uint32_t offset, uint32_t size);
void controller_write(struct device *dev, uint32_t offset, uint32_t size, uint64_t value);
/* Not enabled any more; hard: the registers, too, are as after power-on. */
void controller_reset(struct device *dev, bool hard);
void controller_tick(struct device *dev, uint64_t now);
void controller_fatal(struct device *dev);
uint32_t doorbell_offset(const struct device *dev, uint16_t queue, bool completion);

/* ---- faults ---- */

enum fault_kind {
	FAULT_STATUS,
	FAULT_LOSE,
	FAULT_DELAY,
	FAULT_PHASE,
	FAULT_CID,
	FAULT_FATAL,
	FAULT_REMOVE,
	FAULT_DISCONNECT,
	FAULT_POWER,
	FAULT_KINDS,
};

struct fault {
	uint32_t id; /* 0: free */
	enum fault_kind kind;
	int queue;     /* -1: any; -2: any I/O queue */
	int opcode;    /* -1: any */
	uint32_t nsid; /* 0: any */
	uint64_t skip; /* commands that still go by first */
	uint64_t left; /* times that it still happens */
	uint64_t hits;
	uint16_t status;
	uint16_t cid;
	uint64_t ms;
};

struct faults {
	struct fault list[MAX_FAULTS];
	uint32_t armed; /* that are in the list */
	uint32_t next_id;
	/* what the completion that is being made has wrong */
	bool wrong_phase;
	bool wrong_cid;
	uint16_t cid;
};

/* A command that waits. */
struct delayed {
	uint64_t due; /* ns */
	struct sq *sq;
	struct nvme_sqe sqe;
};

/* ---- the client ---- */

struct client {
	int socket; /* -1: none */
	bool negotiated;
	int vectors[MAX_VECTORS]; /* eventfds; -1: none */
	int request;              /* eventfd: the device wants to go; -1: none */
};

bool server_listen(struct device *dev);
void server_stop_listening(struct device *dev);
void server_accept(struct device *dev);
/* One message. */
void server_receive(struct device *dev);
void server_disconnect(struct device *dev);

uint32_t pci_config_size(void);
void pci_config_init(struct device *dev);
void pci_config_read(struct device *dev, uint32_t offset, uint32_t count, uint8_t *data);
void pci_config_write(struct device *dev, uint32_t offset, uint32_t count, const uint8_t *data);

/* ---- the control socket ---- */

#define MAX_CONTROLS 8
#define LINE_SIZE    4096

struct control {
	int socket; /* -1: none */
	size_t length;
	char line[LINE_SIZE];
};

bool control_listen(struct device *dev);
void control_accept(struct device *dev);
void control_receive(struct device *dev, struct control *control);
/* Carries out one line; writes the answer's line. Whether it was right. */
bool control_run(struct device *dev, char *line, FILE *answer);

/* ---- all of it ---- */

/* What tests set; the names are those of the control socket. */
struct settings {
	uint64_t queues;
	uint64_t vectors;
	uint64_t mdts;
	uint64_t noiob;
	uint64_t sgl;
	uint64_t cache;
	uint64_t fused;
	uint64_t dbbuf;
	uint64_t oncs;
	uint64_t ready;
	uint64_t ready_ms;
	uint64_t shutdown;
	uint64_t listen;
	uint64_t temperature;
	uint64_t mqes;
	uint64_t timeout;
	uint64_t stride;
	uint64_t mpsmin;
	uint64_t mpsmax;
	uint64_t css;
};

struct statistics {
	uint64_t admin[256];
	uint64_t io[256];
	uint64_t interrupts;
	uint64_t enables;
	uint64_t resets; /* by DEVICE_RESET */
	uint64_t connections;
	uint64_t shutdowns;
	uint64_t unsafe_shutdowns;
	uint64_t errors;
	uint64_t blocks_read; /* of 512 bytes */
	uint64_t blocks_written;
	uint64_t crossings; /* of NOIOB, by one command */
};

struct device {
	const char *socket_path;
	const char *control_path;
	bool spin;
	bool stop;
	int listener;
	int control_listener;
	int bar0_fd;
	uint8_t *bar0;
	bool removed; /* all registers read as ones */
	uint64_t now; /* ns, monotonic; as of the last look */
	struct settings settings;
	struct statistics statistics;
	struct violations violations;
	struct client client;
	struct control controls[MAX_CONTROLS];
	uint8_t config[PAGE];
	uint8_t msix_table[PAGE];
	struct controller controller;
	struct nvme_ns namespaces[MAX_NAMESPACES];
	struct patch patches[MAX_PATCHES];
	uint32_t patch_count;
	struct faults faults;
	struct delayed delayed[MAX_DELAYED];
	uint32_t delayed_count;
	struct nvme_error_log_page error_log[ERROR_ENTRIES]; /* the newest first */
	struct dma dma;
	struct transfer transfer; /* of the command that runs */
};

/* Ready, and not broken. */
static inline bool
controller_runs(const struct device *dev)
{
	return (dev->controller.csts & (NVME_CSTS_RDY_MASK | CSTS_FATAL)) == NVME_CSTS_RDY_MASK;
}

uint64_t now_ns(void);
/* As after power-on, and nothing of the client is used any more. */
void device_remove(struct device *dev);
uint64_t device_power_loss(struct device *dev);
void device_namespace_changed(struct device *dev, uint32_t nsid);

#endif
