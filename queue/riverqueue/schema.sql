-- What callhook keeps beside River's tables, in the same schema. {s} is its name.

CREATE TABLE {s}.callhook_settings (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    partitions smallint
);
INSERT INTO {s}.callhook_settings (version) VALUES (1);

-- The IDs that are known, for days after what they stand for is settled.
CREATE TABLE {s}.callhook_ids (
    key uuid PRIMARY KEY,
    seq bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX callhook_ids_at ON {s}.callhook_ids USING brin (at);

CREATE TABLE {s}.callhook_lanes (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    partition smallint NOT NULL,
    lane text NOT NULL,
    tenant text NOT NULL,
    agent text NOT NULL,
    webhook text NOT NULL,
    delivered bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    erased bigint NOT NULL DEFAULT 0,
    turn smallint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE SEQUENCE {s}.callhook_seq;

-- What is pending, and dead letters. The state is ready or waiting, and then ticket
-- is the River job that brings it to a handler; or blocked, by its call's earlier
-- ones; or parked; or dead.
CREATE TABLE {s}.callhook_deliveries (
    seq bigint PRIMARY KEY,
    key uuid NOT NULL,
    ticket bigint,
    call_hash bigint NOT NULL,
    enqueued bigint NOT NULL,
    parked bigint,
    due timestamptz,
    stored_at timestamptz NOT NULL DEFAULT now(),
    dead_at timestamptz,
    lane integer NOT NULL,
    attempts integer NOT NULL,
    rejections integer NOT NULL,
    postponed integer NOT NULL,
    partition smallint NOT NULL,
    ordered boolean NOT NULL,
    state text NOT NULL,
    reason text,
    id text NOT NULL,
    call text NOT NULL,
    meta text NOT NULL,
    log text,
    numbers text[],
    body bytea,
    record bytea
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX callhook_deliveries_call ON {s}.callhook_deliveries (call_hash, lane, seq);
CREATE INDEX callhook_deliveries_pending ON {s}.callhook_deliveries (lane, enqueued) WHERE state <> 'dead';
CREATE INDEX callhook_deliveries_fresh ON {s}.callhook_deliveries (lane, seq) WHERE state = 'parked' AND attempts = 0;
CREATE INDEX callhook_deliveries_tried ON {s}.callhook_deliveries (lane, parked, seq) WHERE state = 'parked' AND attempts > 0;
CREATE INDEX callhook_deliveries_dead ON {s}.callhook_deliveries (dead_at) WHERE state = 'dead';
CREATE INDEX callhook_deliveries_numbers ON {s}.callhook_deliveries USING gin (numbers) WHERE numbers IS NOT NULL;

-- Who consumes, and which partitions each of them has.
CREATE TABLE {s}.callhook_consumers (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    beat timestamptz NOT NULL
);
CREATE TABLE {s}.callhook_partitions (
    partition smallint PRIMARY KEY,
    owner bigint,
    last bigint
);

CREATE SEQUENCE {s}.callhook_version;

-- The documents of the config store. revision is 0 for production, -1 for a draft.
CREATE TABLE {s}.callhook_configs (
    tenant text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    revision integer NOT NULL,
    version bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    doc bytea NOT NULL,
    PRIMARY KEY (tenant, agent, revision)
);

-- For people.
CREATE VIEW {s}.callhook_queue AS
SELECT d.seq, d.id, l.tenant, l.agent, l.webhook, d.call,
    CASE WHEN j.state = 'running' THEN 'in_flight' ELSE d.state END AS state,
    d.reason, d.attempts, d.rejections, d.postponed, to_timestamp(d.enqueued / 1e9) AS enqueued_at, d.due, d.dead_at,
    d.log::json -> -1 ->> 'status' AS last_status, d.log::json -> -1 ->> 'error' AS last_error,
    octet_length(d.body) AS bytes, d.partition, d.ticket AS river_job
FROM {s}.callhook_deliveries d
JOIN {s}.callhook_lanes l ON l.id = d.lane
LEFT JOIN {s}.river_job j ON j.id = d.ticket;
