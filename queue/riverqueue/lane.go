package riverqueue

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"sync"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// lane is what never changes of a lane, once a delivery has named it.
type lane struct {
	callhook.LaneRef
	name      string
	id        int32
	partition int16
}

// lanes knows lanes by their names.
type lanes struct {
	q   *Queue
	mu  sync.Mutex
	all map[string]*lane
}

// maxLanes bounds those that are kept in memory; others are asked for again.
const maxLanes = 100_000

// of returns the lanes of ds. Those that are new are stored at once, whatever becomes
// of ds: a transaction of the caller's that stays open holds nobody up.
func (ls *lanes) of(ctx context.Context, tx pgx.Tx, ds []*callhook.Delivery) ([]*lane, error) {
	out := make([]*lane, len(ds))
	unknown := map[string]callhook.LaneRef{}
	ls.mu.Lock()
	for i, d := range ds {
		if out[i] = ls.all[d.Lane]; out[i] == nil {
			if _, ok := unknown[d.Lane]; !ok {
				unknown[d.Lane] = callhook.LaneRef{Tenant: d.Tenant, Agent: d.Agent, Webhook: d.Webhook}
			}
		}
	}
	ls.mu.Unlock()
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := ls.find(ctx, tx, unknown)
	if err != nil {
		return nil, err
	}
	for i, d := range ds {
		if out[i] == nil {
			out[i] = found[d.Lane]
		}
	}
	return out, nil
}

// find returns lanes, and stores those that are new. A caller who is in a transaction
// has a connection of the pool, and others like it may have the rest: so none of those
// is waited for.
func (ls *lanes) find(ctx context.Context, tx pgx.Tx, unknown map[string]callhook.LaneRef) (map[string]*lane, error) {
	if tx == nil {
		return ls.store(ctx, ls.q.o.Pool, unknown)
	}
	byName := map[pgtype.UUID]string{}
	for name := range unknown {
		byName[keyOf(name)] = name
	}
	found, err := ls.read(ctx, tx, slices.Collect(maps.Keys(byName)), byName)
	if err != nil || len(found) == len(unknown) {
		return found, err
	}
	conn, err := beside(ctx, ls.q.o.Pool)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	return ls.store(ctx, conn, unknown)
}

// database is a pool, a connection or a transaction.
type database interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
}

// store returns lanes as they are stored, and stores those that are new.
func (ls *lanes) store(ctx context.Context, db database, unknown map[string]callhook.LaneRef) (map[string]*lane, error) {
	byName := map[pgtype.UUID]string{}
	var keys []pgtype.UUID
	for name := range unknown {
		key := keyOf(name)
		byName[key] = name
		keys = append(keys, key)
	}
	slices.SortFunc(keys, byKey)
	n := len(keys)
	partitions, names, tenants, agents, webhooks := make([]int16, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, key := range keys {
		name := byName[key]
		ref := unknown[name]
		partitions[i], names[i] = ls.q.partition(key), text(name)
		tenants[i], agents[i], webhooks[i] = text(ref.Tenant), text(ref.Agent), text(ref.Webhook)
	}
	if _, err := db.Exec(ctx, ls.q.sql.addLanes, keys, partitions, names, tenants, agents, webhooks); err != nil {
		return nil, err
	}
	return ls.read(ctx, db, keys, byName)
}

const addLanesSQL = `INSERT INTO {s}.callhook_lanes (key, partition, lane, tenant, agent, webhook)
SELECT * FROM unnest($1::uuid[], $2::int2[], $3::text[], $4::text[], $5::text[], $6::text[]) AS t(key, partition, lane, tenant, agent, webhook)
WHERE NOT EXISTS (SELECT FROM {s}.callhook_lanes l WHERE l.key = t.key)
ON CONFLICT (key) DO NOTHING`

const readLanesSQL = `SELECT key, id, partition, tenant, agent, webhook FROM {s}.callhook_lanes WHERE key = ANY($1::uuid[])`

func (ls *lanes) read(ctx context.Context, db database, keys []pgtype.UUID, byName map[pgtype.UUID]string) (map[string]*lane, error) {
	rows, err := db.Query(ctx, ls.q.sql.readLanes, keys)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]*lane{}
	for rows.Next() {
		var key pgtype.UUID
		l := new(lane)
		if err := rows.Scan(&key, &l.id, &l.partition, &l.Tenant, &l.Agent, &l.Webhook); err != nil {
			return nil, err
		}
		l.name, l.Tenant, l.Agent, l.Webhook = byName[key], plain(l.Tenant), plain(l.Agent), plain(l.Webhook)
		found[l.name] = l
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if len(ls.all)+len(found) > maxLanes {
		clear(ls.all)
	}
	for name, l := range found {
		ls.all[name] = l
	}
	return found, nil
}

// known returns a lane by its name; nil for none.
func (ls *lanes) known(ctx context.Context, name string) (*lane, error) {
	ls.mu.Lock()
	l := ls.all[name]
	ls.mu.Unlock()
	if l != nil {
		return l, nil
	}
	key := keyOf(name)
	found, err := ls.read(ctx, ls.q.o.Pool, []pgtype.UUID{key}, map[pgtype.UUID]string{key: name})
	return found[name], err
}

// partition is the part of the lanes that one belongs to.
func (q *Queue) partition(key pgtype.UUID) int16 {
	return int16(binary.BigEndian.Uint32(key.Bytes[:4]) % uint32(q.partitions))
}
