package riverqueue

import (
	"strings"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/jackc/pgx/v5/pgtype"
)

// scanned is a delivery as it is read.
type scanned struct {
	id, call, meta, log, numbers    string
	lane, tenant, agent, webhook    string
	ordered                         bool
	attempts, rejections, postponed int
	enqueued                        int64
	body, record                    []byte
}

func (r *scanned) delivery() (callhook.Delivery, error) {
	d := callhook.Delivery{
		ID: plain(r.id), Call: plain(r.call), Lane: plain(r.lane), Tenant: plain(r.tenant), Agent: plain(r.agent), Webhook: plain(r.webhook),
		Ordered: r.ordered, Attempts: r.attempts, Rejections: r.rejections, Postponed: r.postponed,
		EnqueuedAt: time.Unix(0, r.enqueued), Body: r.body, Record: r.record,
	}
	if r.numbers != "" {
		for _, n := range strings.Split(r.numbers, unit) {
			d.Numbers = append(d.Numbers, plain(n))
		}
	}
	err := applyMeta(&d, r.meta)
	if err == nil {
		d.Log, err = decodeLog(r.log)
	}
	return d, err
}

// infinite reads a time that may be no time.
type infinite struct{ time.Time }

func (t *infinite) ScanTimestamptz(v pgtype.Timestamptz) error {
	t.Time = time.Time{}
	if v.Valid && v.InfinityModifier == pgtype.Finite {
		t.Time = v.Time
	}
	return nil
}
