package riverqueue

import "context"

// Purge does now what a consumer does now and then.
func (q *Queue) Purge(ctx context.Context) { q.purge(ctx) }

// Heal is the same, for all partitions.
func (q *Queue) Heal(ctx context.Context) { q.heal(ctx, q.others(nil)) }
