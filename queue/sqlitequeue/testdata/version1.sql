-- A queue as version 1 of the schema left it.
BEGIN TRANSACTION;
CREATE TABLE bodies (
  seq    INTEGER PRIMARY KEY,
  body   BLOB,
  record BLOB
);
INSERT INTO "bodies" VALUES(1,X'7B226964223A2277616974696E67222C2263616C6C6572223A22416461227D',X'7B226964223A2263616C6C32227D');
INSERT INTO "bodies" VALUES(2,X'7B226964223A2264656164222C2263616C6C6572223A22416461227D',NULL);
INSERT INTO "bodies" VALUES(4,X'7B226964223A227061726B6564222C2263616C6C6572223A22416461227D',NULL);
INSERT INTO "bodies" VALUES(5,X'7B226964223A227265616479222C2263616C6C6572223A22416461227D',NULL);
INSERT INTO "bodies" VALUES(6,X'7B226964223A22626C6F636B6564222C2263616C6C6572223A22416461227D',NULL);
CREATE TABLE calls (
  call    TEXT NOT NULL,
  lane_id INTEGER NOT NULL,
  seq     INTEGER NOT NULL,
  PRIMARY KEY (call, lane_id, seq)
) WITHOUT ROWID;
CREATE TABLE counts (
  lane_id   INTEGER PRIMARY KEY,
  accepted  INTEGER NOT NULL,
  delivered INTEGER NOT NULL,
  dead      INTEGER NOT NULL,
  erased    INTEGER NOT NULL,
  ready     INTEGER NOT NULL,
  parked    INTEGER NOT NULL,
  waiting   INTEGER NOT NULL,
  blocked   INTEGER NOT NULL,
  last_seq  INTEGER NOT NULL
);
INSERT INTO "counts" VALUES(1,3,0,0,0,1,0,1,1,6);
INSERT INTO "counts" VALUES(2,3,1,1,0,0,1,0,0,4);
CREATE TABLE deliveries (
  seq         INTEGER PRIMARY KEY,
  lane_id     INTEGER NOT NULL,
  id          TEXT NOT NULL,
  call        TEXT NOT NULL,
  -- ready: not tried yet; the process has it in memory, or keeps it back until its lane has room
  -- parked: the same, for what was tried before; waiting: for the time at_us
  -- blocked: for earlier events of its call; delivered, dead, erased: settled
  state       TEXT NOT NULL,
  at_us       INTEGER NOT NULL, -- Unix microseconds: waiting until, parked since, or settled at; 0 for the others
  attempts    INTEGER NOT NULL,
  rejections  INTEGER NOT NULL,
  postponed   INTEGER NOT NULL,
  ordered     INTEGER NOT NULL,
  enqueued_ns INTEGER,          -- Unix nanoseconds
  reason      TEXT,             -- of dead ones
  meta        TEXT,             -- JSON: what else it is; NULL once only the ID is remembered
  log         TEXT,             -- JSON: its last attempts
  sum         INTEGER           -- CRC-32C of what never changes << 32 | of attempts, reason and log
);
INSERT INTO "deliveries" VALUES(1,1,'waiting','call2','waiting',2082758400000000,1,0,0,0,1793523600000000000,NULL,'{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z","numbers":["aGFzaA"],"values":{"call.from":"+44 20 7946 0018"}}','[{"at":"2026-11-01T09:00:00Z","elapsed":1000000000,"status":503,"error":"callhook: 503","reply":"busy"}]',-7170008598351394044);
INSERT INTO "deliveries" VALUES(2,2,'dead','call3','dead',1795456908381322,1,0,0,0,1793523600000000000,'rejected','{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z"}','[{"at":"2026-11-01T09:00:00Z","elapsed":1000000000,"status":503,"error":"callhook: 503","reply":"busy"}]',-5400264420103603355);
INSERT INTO "deliveries" VALUES(3,2,'delivered','call4','delivered',1795456908381322,1,0,0,0,1793523600000000000,NULL,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(4,2,'parked','call5','parked',1795456908381322,1,0,0,0,1793523600000000000,NULL,'{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z"}','[{"at":"2026-11-01T09:00:00Z","elapsed":1000000000,"status":503,"error":"callhook: 503","reply":"busy"}]',-2815992060446455036);
INSERT INTO "deliveries" VALUES(5,1,'ready','call1','ready',0,0,0,0,0,1793523600000000000,NULL,'{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z"}',NULL,8418306794230948730);
INSERT INTO "deliveries" VALUES(6,1,'blocked','call1','blocked',0,0,0,0,0,1793523600000000000,NULL,'{"type":"post_call","event":"call.ended","at":"2026-11-01T09:00:00Z"}',NULL,663371650538185594);
CREATE TABLE lanes (
  id      INTEGER PRIMARY KEY,
  lane    TEXT NOT NULL UNIQUE,
  tenant  TEXT NOT NULL,
  agent   TEXT NOT NULL,
  webhook TEXT NOT NULL
);
INSERT INTO "lanes" VALUES(1,'acme/bot/crm','acme','bot','crm');
INSERT INTO "lanes" VALUES(2,'beta/bot/crm','beta','bot','crm');
CREATE TABLE numbers (
  hash TEXT NOT NULL,
  seq  INTEGER NOT NULL,
  PRIMARY KEY (hash, seq)
) WITHOUT ROWID;
INSERT INTO "numbers" VALUES('aGFzaA',1);
CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value
) WITHOUT ROWID;
INSERT INTO "settings" VALUES('calls_to',0);
CREATE UNIQUE INDEX deliveries_id ON deliveries(id);
CREATE INDEX deliveries_pending ON deliveries(lane_id, state, at_us) WHERE state = 'ready' OR state = 'parked' OR state = 'waiting';
CREATE INDEX deliveries_blocked ON deliveries(call, lane_id) WHERE state = 'blocked';
CREATE INDEX deliveries_kept ON deliveries(state) WHERE meta IS NOT NULL AND (state = 'dead' OR state = 'delivered');
CREATE VIEW queue AS
  SELECT d.seq, d.id, d.call, d.state, l.tenant, l.agent, l.webhook,
         strftime('%Y-%m-%dT%H:%M:%fZ', d.enqueued_ns / 1e9, 'unixepoch') AS enqueued_at,
         CASE WHEN d.at_us > 0 THEN strftime('%Y-%m-%dT%H:%M:%fZ', d.at_us / 1e6, 'unixepoch') END AS at,
         d.attempts, d.rejections, d.postponed, d.reason, d.meta ->> 'type' AS type, d.meta ->> 'event' AS event,
         d.log ->> '$[#-1].status' AS last_status, d.log ->> '$[#-1].error' AS last_error, CAST(b.body AS TEXT) AS body
  FROM deliveries d JOIN lanes l ON l.id = d.lane_id LEFT JOIN bodies b ON b.seq = d.seq
  WHERE d.meta IS NOT NULL;
CREATE VIEW lane_counts AS
  SELECT l.tenant, l.agent, l.webhook, c.accepted, c.delivered, c.dead, c.erased,
         c.ready + c.parked + c.waiting + c.blocked AS pending, c.ready, c.parked, c.waiting, c.blocked
  FROM lanes l JOIN counts c ON c.lane_id = l.id;
COMMIT;
PRAGMA application_id = 1667787633;
PRAGMA user_version = 1;
