package sqlitequeue

import (
	"fmt"
	"log/slog"

	"github.com/ncruces/go-sqlite3"
)

// applicationID marks a database as a queue of callhook: "chkq".
const applicationID = 0x63686b71

// migrations make each version from the one before; a new file goes through all.
// One that was released is never changed.
var migrations = []string{
	1: `
CREATE TABLE lanes (
  id      INTEGER PRIMARY KEY,
  lane    TEXT NOT NULL UNIQUE,
  tenant  TEXT NOT NULL,
  agent   TEXT NOT NULL,
  webhook TEXT NOT NULL
);
-- What changes all the time, apart, so that 10,000 lanes are few pages.
-- accepted = delivered + dead + erased + ready + parked + waiting + blocked.
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
CREATE UNIQUE INDEX deliveries_id ON deliveries(id);
CREATE INDEX deliveries_pending ON deliveries(lane_id, state, at_us) WHERE state = 'ready' OR state = 'parked' OR state = 'waiting';
CREATE INDEX deliveries_blocked ON deliveries(call, lane_id) WHERE state = 'blocked';
CREATE INDEX deliveries_kept ON deliveries(state) WHERE meta IS NOT NULL AND (state = 'dead' OR state = 'delivered');
-- Apart, so that looking through deliveries does not read bodies, and a settled one gives its pages back.
CREATE TABLE bodies (
  seq    INTEGER PRIMARY KEY,
  body   BLOB,
  record BLOB
);
CREATE TABLE numbers (
  hash TEXT NOT NULL,
  seq  INTEGER NOT NULL,
  PRIMARY KEY (hash, seq)
) WITHOUT ROWID;
-- Which deliveries a call has, up to the seq in settings.calls_to: those after it are not here yet.
CREATE TABLE calls (
  call    TEXT NOT NULL,
  lane_id INTEGER NOT NULL,
  seq     INTEGER NOT NULL,
  PRIMARY KEY (call, lane_id, seq)
) WITHOUT ROWID;
CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value
) WITHOUT ROWID;
INSERT INTO settings VALUES ('calls_to', 0);
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
`,
	2: `
-- What the pending ones take, see Options.MaxTenantBytes.
ALTER TABLE counts ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE counts SET bytes = p.bytes FROM (
  SELECT d.lane_id, sum(` + sizeInSQL + `) AS bytes FROM deliveries d LEFT JOIN bodies b ON b.seq = d.seq
  WHERE d.state IN ('ready', 'parked', 'waiting', 'blocked') GROUP BY d.lane_id) p
WHERE p.lane_id = counts.lane_id;
DROP VIEW lane_counts;
CREATE VIEW lane_counts AS
  SELECT l.tenant, l.agent, l.webhook, c.accepted, c.delivered, c.dead, c.erased,
         c.ready + c.parked + c.waiting + c.blocked AS pending, c.bytes AS pending_bytes, c.ready, c.parked, c.waiting, c.blocked
  FROM lanes l JOIN counts c ON c.lane_id = l.id;
`,
}

// check returns the version of a database, zero for a new one, and changes nothing.
func check(c *sqlite3.Conn) (version int64, err error) {
	app, err := number(c, "PRAGMA application_id")
	if err != nil {
		return 0, err
	}
	if version, err = number(c, "PRAGMA user_version"); err != nil {
		return 0, err
	}
	objects, err := number(c, "SELECT count(*) FROM sqlite_schema")
	switch {
	case err != nil:
	case app == 0 && version == 0 && objects == 0: // new
	case app != applicationID:
		err = fmt.Errorf("%w (its application_id is %d): give the queue a file of its own", ErrForeign, app)
	case version < 1 || version >= int64(len(migrations)):
		err = fmt.Errorf("%w: it has version %d and this program knows those up to %d: run the newer program, or give this one a file of its own",
			ErrVersion, version, len(migrations)-1)
	}
	return version, err
}

// migrate brings a database to the version of this program.
func migrate(c *sqlite3.Conn, log *slog.Logger) error {
	version, err := check(c)
	if err != nil {
		return err
	}
	if version == 1 { // it did not overwrite all that it deleted
		if err := c.Exec("PRAGMA temp_store = FILE; VACUUM; PRAGMA temp_store = MEMORY"); err != nil {
			log.Warn("sqlitequeue: the file may still hold what was deleted by an older version, write it anew with VACUUM of the sqlite3 shell", "error", err)
		}
	}
	for v := int(version) + 1; v < len(migrations); v++ {
		err := c.Exec(fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; PRAGMA application_id = %d; COMMIT", migrations[v], v, applicationID))
		if err != nil {
			_ = c.Exec("ROLLBACK")
			return fmt.Errorf("migrating it to version %d: %w", v, err)
		}
	}
	return nil
}

// number returns the one number that a query gives.
func number(c *sqlite3.Conn, sql string) (int64, error) {
	st, _, err := c.Prepare(sql)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	var n int64
	if st.Step() {
		n = st.ColumnInt64(0)
	}
	return n, st.Err()
}
