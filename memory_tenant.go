package callhook

import "fmt"

// memoryTenant is what a tenant's pending deliveries take.
type memoryTenant struct{ bytes int64 }

// overQuota says whether ds would take their tenant over its bound. What is known
// already is not stored again, so it takes nothing.
func (q *MemoryQueue) overQuota(ds []*Delivery) error {
	if q.maxTenantBytes <= 0 {
		return nil
	}
	seen, more := map[string]bool{}, map[string]int64{}
	for _, d := range ds {
		if seen[d.ID] || q.knows(d.ID) {
			continue
		}
		seen[d.ID] = true
		more[d.Tenant] += d.size()
		if has := q.tenant(d.Tenant).bytes; has+more[d.Tenant] > q.maxTenantBytes {
			return fmt.Errorf("%w: %q has %d bytes pending, this event takes %d more, and MemoryOptions.MaxTenantBytes is %d",
				ErrQuota, d.Tenant, has, more[d.Tenant], q.maxTenantBytes)
		}
	}
	return nil
}

func (q *MemoryQueue) tenant(name string) *memoryTenant {
	t := q.tenants[name]
	if t == nil {
		t = new(memoryTenant)
		q.tenants[name] = t
	}
	return t
}

// takes notes that a pending delivery takes so much more.
func (q *MemoryQueue) takes(it *item, bytes int64) {
	q.bytes += bytes
	it.tenant.bytes += bytes
}
