package riverqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5"
)

// OpenConfigs returns configs that are kept in the database of o.Pool, whose tables
// [Migrate] has made. Every node that watches them, as [callhook.Hooks.Run] does, hears
// of a publish at once, by LISTEN, for which it makes a connection beside the pool's.
// Of the options it needs Pool, Schema and Logger. There is nothing to close.
func OpenConfigs(ctx context.Context, o Options) (*callhook.Configs, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	o.Partitions = 0
	if _, err := settled(ctx, o); err != nil {
		return nil, fmt.Errorf("riverqueue: opening configs: %w", err)
	}
	return &callhook.Configs{Store: &configs{o}}, nil
}

// configs is a [callhook.ConfigStore] in a table.
type configs struct{ o Options }

func (s *configs) Get(ctx context.Context, ref callhook.ConfigRef) ([]byte, string, error) {
	var doc []byte
	var version int64
	err := s.o.Pool.QueryRow(ctx, s.sql("SELECT doc, version FROM {s}.callhook_configs WHERE tenant = $1 AND agent = $2 AND revision = $3"),
		text(ref.Tenant), text(ref.Agent), ref.Revision).Scan(&doc, &version)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, "", nil
	case err != nil:
		return nil, "", storeError("reading a config", err)
	}
	return doc, strconv.FormatInt(version, 10), nil
}

func (s *configs) Put(ctx context.Context, ref callhook.ConfigRef, doc []byte, version string) (string, error) {
	tenant, agent := text(ref.Tenant), text(ref.Agent)
	var had int64
	if version != "" {
		n, err := strconv.ParseInt(version, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != version {
			return "", callhook.ErrConflict // it is none of this store's
		}
		had = n
	}
	args := []any{tenant, agent, ref.Revision, had}
	var statement string
	switch {
	case doc == nil && version == "":
		statement = "SELECT 0::int8 WHERE $4::int8 = 0 AND NOT EXISTS (SELECT FROM {s}.callhook_configs WHERE tenant = $1 AND agent = $2 AND revision = $3)"
	case doc == nil:
		statement = "DELETE FROM {s}.callhook_configs WHERE tenant = $1 AND agent = $2 AND revision = $3 AND version = $4 RETURNING 0::int8"
	case version == "":
		statement = "INSERT INTO {s}.callhook_configs (tenant, agent, revision, version, doc) SELECT $1, $2, $3, nextval('{s}.callhook_version'), $5 WHERE $4::int8 = 0 ON CONFLICT DO NOTHING RETURNING version"
		args = append(args, doc)
	default:
		statement = "UPDATE {s}.callhook_configs SET version = nextval('{s}.callhook_version'), doc = $5, stored_at = now() WHERE tenant = $1 AND agent = $2 AND revision = $3 AND version = $4 RETURNING version"
		args = append(args, doc)
	}
	var now int64
	err := pgx.BeginFunc(ctx, s.o.Pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, s.sql(statement), args...).Scan(&now); err != nil || ref.Revision != callhook.Production {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT pg_notify($1, $2)", s.channel(), payload(tenant, agent))
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", callhook.ErrConflict
	case err != nil:
		return "", storeError("storing a config", err)
	case now == 0:
		return "", nil
	}
	return strconv.FormatInt(now, 10), nil
}

// payload names an agent in a notification, which has at most 8,000 bytes; "" stands
// for any.
func payload(tenant, agent string) string {
	b, err := json.Marshal([2]string{tenant, agent})
	if err != nil || len(b) > 7000 {
		return ""
	}
	return string(b)
}

func (s *configs) List(ctx context.Context) ([]callhook.ConfigRef, error) {
	rows, err := s.o.Pool.Query(ctx, s.sql("SELECT DISTINCT tenant, agent FROM {s}.callhook_configs WHERE revision <= 0"))
	if err != nil {
		return nil, storeError("listing configs", err)
	}
	refs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ref callhook.ConfigRef, err error) {
		err = row.Scan(&ref.Tenant, &ref.Agent)
		ref.Tenant, ref.Agent = plain(ref.Tenant), plain(ref.Agent)
		return ref, err
	})
	return refs, storeError("listing configs", err)
}

func (s *configs) Revisions(ctx context.Context, ref callhook.ConfigRef) ([]int, error) {
	rows, err := s.o.Pool.Query(ctx, s.sql("SELECT revision FROM {s}.callhook_configs WHERE tenant = $1 AND agent = $2 AND revision > 0"), text(ref.Tenant), text(ref.Agent))
	if err != nil {
		return nil, storeError("listing revisions", err)
	}
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
	return numbers, storeError("listing revisions", err)
}

// Watch listens. A connection that breaks is its error; whoever calls it again hears
// that something may have been missed.
func (s *configs) Watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	err := s.watch(ctx, changed)
	if ctx.Err() != nil {
		return nil
	}
	return storeError("watching configs", err)
}

func (s *configs) watch(ctx context.Context, changed func(callhook.ConfigRef)) error {
	conn, err := dedicated(ctx, s.o.Pool)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+ident(s.channel())); err != nil {
		return err
	}
	changed(callhook.ConfigRef{})
	return listenTo(ctx, conn, func(payload string) {
		var names [2]string
		_ = json.Unmarshal([]byte(payload), &names) // else it is any agent
		changed(callhook.ConfigRef{Tenant: plain(names[0]), Agent: plain(names[1])})
	})
}

func (s *configs) channel() string { return s.o.Schema + ".callhook_configs" }

func (s *configs) sql(statement string) string { return in(s.o.Schema, statement) }
