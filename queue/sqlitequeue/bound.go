package sqlitequeue

import (
	"fmt"

	"github.com/callhook-go/callhook"
)

// refusal says why an enqueue is not stored, nil when it is. One that brings nothing
// new never is refused.
func (t *txn) refusal(e *enqueue) (why, err error) {
	if why, err = t.overQuota(e); why != nil || err != nil {
		return why, err
	}
	over, err := t.over(e)
	if err != nil || !over {
		return nil, err
	}
	for _, r := range e.records {
		if known, err := t.knows(r); err != nil {
			return nil, err
		} else if !known {
			return fmt.Errorf("sqlitequeue: %s has reached its bound of %d bytes (Options.MaxBytes): %w", t.q.path, t.q.o.MaxBytes, callhook.ErrQueueFull), nil
		}
	}
	return nil, nil
}

// knows reports whether the ID of a record is remembered.
func (t *txn) knows(r *record) (bool, error) {
	if err := t.db.known.BindText(1, r.d.ID); err != nil {
		return false, err
	}
	_, known, err := value(t.db.known)
	return known, err
}

// overQuota says whether an enqueue would take its tenant over its bound. It is only
// then that it looks which of it is new.
func (t *txn) overQuota(e *enqueue) (why, err error) {
	most := t.q.o.MaxTenantBytes
	if most <= 0 {
		return nil, nil
	}
	fits := true
	for _, r := range e.records {
		fits = fits && r.lane.tenant.next+e.size <= most
	}
	if fits {
		return nil, nil
	}
	seen, more := map[string]bool{}, map[*tenant]int64{}
	for _, r := range e.records {
		if seen[r.d.ID] {
			continue
		}
		seen[r.d.ID] = true
		if known, err := t.knows(r); known || err != nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		of := r.lane.tenant
		if more[of] += r.size; of.next+more[of] > most {
			return fmt.Errorf("sqlitequeue: %w: %q has %d bytes pending, this event takes %d more, and Options.MaxTenantBytes is %d",
				callhook.ErrQuota, r.lane.Tenant, of.next, more[of], most), nil
		}
	}
	return nil, nil
}

// sizeEvery is how many bytes may come until the size of the database is looked at
// again: it takes longer than storing a delivery.
const sizeEvery = 4 << 20

// over reports whether an enqueue would take the database over its bound.
func (t *txn) over(e *enqueue) (bool, error) {
	w := t.w
	w.added += e.size
	if w.added > sizeEvery || w.used+w.added > t.q.o.MaxBytes {
		pages, _, err := value(t.db.pages)
		if err != nil {
			return false, err
		}
		free, _, err := value(t.db.free)
		if err != nil {
			return false, err
		}
		w.used, w.added = (pages-free)*pageSize, e.size
	}
	if w.used+w.added <= t.q.o.MaxBytes {
		return false, nil
	}
	w.added -= e.size
	return true, nil
}
