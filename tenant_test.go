package callhook_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
	"github.com/google/go-cmp/cmp"
)

// TestTenantConcurrency: a tenant has no more attempts under way than it may, with
// however many webhooks, and gets all delivered; another does not notice.
func TestTenantConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most, last := map[string]int{}, map[string]int{}, map[string]time.Duration{}
		begun := time.Now()
		crm := callhooktest.NewEndpoint(t, callhooktest.ReplyFunc(func(r *callhooktest.Request) callhooktest.Answer {
			tenant := r.Event.Data.Call.TenantID
			mu.Lock()
			now[tenant]++
			most[tenant] = max(most[tenant], now[tenant])
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now[tenant]--
			last[tenant] = time.Since(begun)
			mu.Unlock()
			return callhooktest.Answer{}
		}))
		var configs []*callhook.Config
		for i := range 6 {
			configs = append(configs, parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": "a%d", "post_call": [{"name": "w", "url": "https://crm.test/"}]}`, []string{"big", "small"}[i/5], i)))
		}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(configs...), Concurrency: 100, TenantConcurrency: 3}, callhooktest.Network{"crm.test": crm})
		raise := func(c *callhook.Config, id string) {
			call := ended(id)
			call.TenantID, call.AgentID = c.TenantID, c.AgentID
			if err := h.PostCall(t.Context(), call); err != nil {
				t.Error(err)
			}
		}
		for i := range 60 {
			raise(configs[i%5], fmt.Sprint("b", i))
		}
		for i := range 6 {
			raise(configs[5], fmt.Sprint("s", i))
		}
		h.Delivered(t, 66)
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(map[string]int{"big": 3, "small": 3}, most); diff != "" {
			t.Errorf("most at once (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]time.Duration{"big": 20 * time.Second, "small": 2 * time.Second}, last); diff != "" {
			t.Errorf("the last was answered after (-want +got):\n%s", diff)
		}
	})
}

// TestTenantLookups: beyond what a tenant may ask at once its callers fall back without
// waiting, and another tenant's do not notice.
func TestTenantLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := callhooktest.NewEndpoint(t, callhooktest.Answer{Delay: time.Second, Body: `{"variables":{"customer_name":"Ada"}}`})
		var configs []*callhook.Config
		for _, tenant := range []string{"big", "small"} {
			configs = append(configs, parse(t, fmt.Sprintf(`{"tenant_id": %q, "agent_id": "a", "pre_call": {"url": "https://crm.test/"}}`, tenant)))
		}
		h := callhooktest.NewHooks(t, callhook.Options{Configs: callhook.Static(configs...), TenantConcurrency: 3}, callhooktest.Network{"crm.test": crm})
		type outcome struct {
			tenant string
			callhook.Outcome
			quota bool
			took  time.Duration
		}
		var mu sync.Mutex
		got := map[outcome]int{}
		for range 2 { // what was asked is given back
			var calls sync.WaitGroup
			for i := range 13 {
				calls.Go(func() {
					c := callhook.SampleCall(callhook.TypePreCall)
					c.TenantID, c.AgentID, c.From = []string{"big", "small"}[i/10], "a", fmt.Sprint("+4420794600", 10+i)
					pre := h.PreCall(t.Context(), c)
					mu.Lock()
					defer mu.Unlock()
					got[outcome{c.TenantID, pre.Outcome, errors.Is(pre.Err, callhook.ErrQuota), pre.Elapsed}]++
				})
			}
			calls.Wait()
		}
		want := map[outcome]int{
			{"big", callhook.OutcomeApplied, false, time.Second}:   6,
			{"big", callhook.OutcomeFailed, true, 0}:               14,
			{"small", callhook.OutcomeApplied, false, time.Second}: 6,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
