/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One request on its way: made by the loop from a message, queued, run by the writer in a commit
 * group, answered, freed by the loop. It is one allocation with its steps and values; it names its
 * peer by id, for the client may leave while it runs.
 *
 *	   made ──▶ queued ──▶ taken ──▶ answered ──▶ freed
 *	             │  ▲         │
 *	   cancelled ┘  └─────────┘ given back: the commit group was full, or the file was busy
 *
 * Between queue_push() and queue_collect() the request is the writer's, but for the fields that are
 * marked as the loop's.
 */

#include "proto/buffer.h"
#include "proto/message.h"
#include "server/base/list.h"
#include "server/funnel/credentials.h"
#include "server/funnel/failure.h"
#include "server/store/dedupe.h"
#include "server/store/store.h"

enum request_kind {
	REQUEST_WRITE,
	REQUEST_DESCRIBE,
	REQUEST_BYE,
	REQUEST_TASK,
	REQUEST_SYNC,
	REQUEST_DRILL,
	REQUEST_LEASE,  /* for an open lease; it waits there, not in the queue */
	REQUEST_COMMIT, /* of a lease that is over: the answer is remembered, or it is gone */
};

enum lease_op {
	LEASE_OP_BEGIN,
	LEASE_OP_STEP,
	LEASE_OP_FETCH,
	LEASE_OP_CLOSE,
	LEASE_OP_DESCRIBE,
	LEASE_OP_COMMIT,
	LEASE_OP_ROLLBACK,
};

struct lease;

/* What a REQUEST_LEASE asks for. */
struct lease_part {
	enum lease_op op;
	struct lease *of;               /* the loop's */
	struct lease_settings settings; /* LEASE_OP_BEGIN */
	uint64_t cursor;
	uint32_t rows;
};

/* In the order in which they are served. */
enum request_class { CLASS_INTERACTIVE, CLASS_NORMAL, CLASS_BULK, CLASS_COUNT };
const char *request_class_name(enum request_class class);
bool request_class_parse(struct span name, enum request_class *ret_class);

/* What a class has had since the start. */
struct class_facts {
	size_t waiting;
	uint64_t refused;
	uint64_t served;
	uint64_t writer_us; /* charged */
	uint64_t waited_us;
	uint64_t waited_us_max;
	uint64_t turns; /* commit groups and runs of tasks that began with it */
};

struct request;
struct holder;
struct known_by;

/* How a run of a task ended. */
enum task_end {
	TASK_DONE,
	TASK_MORE,    /* run it again when it is its turn */
	TASK_BUSY,    /* … soon: another process holds the write lock; failure.message says so */
	TASK_UNKNOWN, /* as STORE_UNKNOWN: failure.message says why; the writer stops */
};

/*
 * Work that the writer does between commit groups, with no transaction open before and after: a
 * slice of something long, or a turn for itself (a checkpoint, a lease). It is a request of the
 * kind REQUEST_TASK: it waits in its class like a batch, is charged like one, and one that is done
 * is answered like one, if `outcome` is set; else it just ends.
 */
struct task {
	const char *what; /* "checkpoint", "chunk": for people; NULL: this is no task */
	/*
	 * In the writer's thread. One that can be cut should hold the writer no longer than
	 * budget_us and answer TASK_MORE; whoever waits in a higher class then goes first.
	 */
	enum task_end (*run)(struct request *request, struct store *store, uint64_t budget_us);
	/* In the loop's thread, while it runs: asks it to end soon. NULL: it cannot. */
	void (*interrupt)(struct request *request);
	/* In the loop's thread, before it is freed, also if it never ran. May be NULL. */
	void (*ended)(struct request *request);
	/* In any thread: what it is known by just now. NULL: its client's label, and `text`. */
	void (*known_by)(const struct request *request, struct known_by *ret_known);
	void *ctx;
	struct bytes text;   /* its SQL, if it has one: what it is known by to who waits for it */
	const char *refusal; /* the writer's: why nothing should be written now, or NULL */
	bool urgent;         /* before everybody, also while the writer is held (queue_hold) */
};

/* When a write is answered. */
enum ack {
	ACK_COMMITTED,
	ACK_SHIPPED,    /* … and is on the replicas that are waited for */
	ACK_EVERYWHERE, /* … on every replica (`sync`) */
};

/* How a request ended. */
enum outcome { OUTCOME_OPEN, OUTCOME_OK, OUTCOME_FAILED, OUTCOME_REPEAT };

struct request {
	struct list node; /* in a queue, a commit group, or among the answered */

	/* The queue's, under its lock. */
	bool taken;          /* the writer has it */
	struct list arrival; /* among all that wait, by age */
	struct line *line;   /* NULL: urgent */
	int64_t estimate_us; /* what it was charged in advance */
	bool owed;           /* … and that was time owed to its class */
	uint64_t number;     /* for `kill`; no other request since the start has it */

	/* The loop's. */
	struct list in_flight; /* peer::in_flight[] */
	uint64_t peer_id;      /* 0: nobody's; TASK_PEER + n: a task with a line of its own */

	uint32_t id; /* on the wire */
	enum request_kind kind;
	enum request_class class;
	struct credentials *credentials; /* counted by the loop; the writer only reads */
	size_t bytes;                    /* what it counts in the queue */
	uint64_t received_us;
	uint64_t deadline_us; /* not begun, or not done, by then: answered `deadline` */
	bool own_deadline;    /* the client has named it: it holds also while the writer is held */

	enum ack ack; /* the loop's: when the answer goes out */

	struct identity identity;
	struct guard guard; /* its epoch is NULL if there is none */
	struct step *steps; /* REQUEST_WRITE; of REQUEST_DESCRIBE only the sql of the first */
	size_t steps_count;
	struct task task;        /* REQUEST_TASK */
	struct lease_part lease; /* REQUEST_LEASE */

	/* The writer's. */
	bool use_savepoint;       /* learned when it ran without one */
	uint64_t slice_rows;      /* of a step that is applied in slices: what the next one takes */
	uint64_t exec_timeout_us; /* … of one row */
	bool begun;               /* … and some rows are applied: it is not withdrawn any more */
	bool condemned; /* it threw a transaction away: its failure stands, do not run it again */
	enum outcome outcome;
	struct failure failure;
	struct buffer payload; /* what is remembered and answered: see reply.h */
	uint64_t commit_no;
	uint64_t taken_us;
	uint64_t exec_us;
	uint64_t commit_us;
	uint64_t group;   /* batches in its commit group */
	uint64_t cost_us; /* what its line is charged: all runs of it, and its part of the commit */
	bool offended; /* it was stopped at a limit of execution: its line goes alone for a while */

	struct holder *waited_for; /* owned; NULL: it has not waited long, or nobody knows */

	struct buffer reply; /* the frame that answers it */

	struct request_shelf *shelf; /* where its memory goes when it is freed; or NULL */
};

/* Tasks that belong to no connection, or outlive theirs, take peer ids from here on. */
#define TASK_PEER (UINT64_C(1) << 63)

/*
 * The memory of requests that are over, with that of their answers, for the next ones: what one thread
 * has filled and the other frees is the allocator's worst case. The loop's; bounded.
 */
struct request_shelf {
	struct list blocks;
	size_t count;
};
void request_shelf_init(struct request_shelf *shelf);
void request_shelf_finish(struct request_shelf *shelf);

/*
 * Room behind the struct for `extra` bytes, aligned for anything. NULL: no memory. A small one comes
 * from the shelf, unless that is NULL.
 */
struct request *request_new(enum request_kind kind, size_t extra, void **ret_extra);
struct request *request_from(
	struct request_shelf *shelf, enum request_kind kind, size_t extra, void **ret_extra);
void request_free(struct request *request); /* accepts NULL; the loop's */
