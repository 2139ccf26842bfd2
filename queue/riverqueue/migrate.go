package riverqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// The errors of [Open] and [OpenConfigs] that can be told apart.
var (
	// ErrNotMigrated says that the tables are missing, or older than this package:
	// call [Migrate].
	ErrNotMigrated = errors.New("call riverqueue.Migrate once, as when a new version is deployed")
	// ErrVersion says that the tables were made by a newer version of this package.
	ErrVersion = errors.New("its tables were made by a newer version of callhook: deploy that one")
	// ErrPartitions says that the database has another number of partitions than
	// Options.Partitions.
	ErrPartitions = errors.New("all nodes have the same partitions, and they are not changed: leave Options.Partitions zero")
)

// version is that of the tables beside River's.
const version = 1

//go:embed schema.sql
var schemaSQL string

// Migrate makes the schema and its tables, River's and callhook's, or brings them up
// to date. It does nothing when they are, and may be called by many nodes at once.
// It needs the right to create a schema, or a schema that belongs to the user; a
// program that runs with fewer rights leaves it to a deployment.
//
// Each step is a transaction: after an error call it again.
func Migrate(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	if err := migrate(ctx, o); err != nil {
		return fmt.Errorf("riverqueue: migrating schema %s: %w", o.Schema, err)
	}
	return nil
}

func migrate(ctx context.Context, o Options) error {
	conn, err := dedicated(ctx, o.Pool)
	if err != nil {
		return err
	}
	defer hangUp(conn) // and with it goes the lock
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended('callhook.migrate.' || $1, 0))", o.Schema); err != nil {
		return err
	}
	has := func(query, name string) (yes bool, err error) {
		err = conn.QueryRow(ctx, query, name).Scan(&yes)
		return yes, err
	}
	if ok, err := has("SELECT to_regnamespace($1) IS NOT NULL", ident(o.Schema)); err != nil {
		return err
	} else if !ok {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA "+ident(o.Schema)); err != nil {
			return err
		}
	}
	m, err := rivermigrate.New(riverpgxv5.New(o.Pool), &rivermigrate.Config{Schema: o.Schema, Logger: slog.New(warnings{o.Logger.Handler()})})
	if err != nil {
		return err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("river: %w", err)
	}
	if ok, err := has("SELECT to_regclass($1) IS NOT NULL", ident(o.Schema)+".callhook_settings"); err != nil || ok {
		return err
	}
	_, err = conn.Exec(ctx, "BEGIN;"+in(o.Schema, schemaSQL)+"COMMIT", pgx.QueryExecModeSimpleProtocol)
	return err
}

// ident quotes a name that may have capitals.
func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// in writes a schema's name into a statement.
func in(schema, statement string) string { return strings.ReplaceAll(statement, "{s}", ident(schema)) }

// settled reads what all nodes agree on, and settles what is not yet.
func settled(ctx context.Context, o Options) (partitions int, err error) {
	var has int
	var isolation string
	err = o.Pool.QueryRow(ctx, in(o.Schema, "SELECT version, coalesce(partitions, 0), current_setting('default_transaction_isolation') FROM {s}.callhook_settings")).Scan(&has, &partitions, &isolation)
	switch pg, ok := errors.AsType[*pgconn.PgError](err); {
	case ok && (pg.Code == "42P01" || pg.Code == "3F000"), errors.Is(err, pgx.ErrNoRows):
		return 0, fmt.Errorf("schema %s has no tables of callhook: %w", o.Schema, ErrNotMigrated)
	case err != nil:
		return 0, err
	case has < version:
		return 0, fmt.Errorf("schema %s has tables of an older version: %w", o.Schema, ErrNotMigrated)
	case has > version:
		return 0, fmt.Errorf("schema %s: %w", o.Schema, ErrVersion)
	}
	if isolation != "read committed" {
		return 0, fmt.Errorf("transactions of Options.Pool are %s, by default_transaction_isolation: give it a pool with read committed, which is what Postgres has unless told", isolation)
	}
	if partitions == 0 {
		err = pgx.BeginFunc(ctx, o.Pool, func(tx pgx.Tx) error {
			n := o.Partitions
			if n == 0 {
				n = defaultPartitions
			}
			if err := tx.QueryRow(ctx, in(o.Schema, `UPDATE {s}.callhook_settings SET partitions = coalesce(partitions, $1::smallint) RETURNING partitions`), n).Scan(&partitions); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, in(o.Schema, `INSERT INTO {s}.callhook_partitions (partition) SELECT generate_series(0, $1::integer - 1) ON CONFLICT DO NOTHING`), partitions)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	if o.Partitions != 0 && o.Partitions != partitions {
		return 0, fmt.Errorf("schema %s has %d partitions, and Options.Partitions is %d: %w", o.Schema, partitions, o.Partitions, ErrPartitions)
	}
	return partitions, nil
}
