package callhook_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// TestDiff: what differs is told field by field, with the paths of faults, and no
// secret with it.
func TestDiff(t *testing.T) {
	for name, tt := range map[string]struct {
		from, to string
		want     []string
	}{
		"nothing":       {`"post_call": [{"url": "https://a.example/"}]`, `"post_call": [{"url": "https://a.example/"}]`, nil},
		"the revision":  {`"revision": 1`, `"revision": 2`, nil},
		"how it is set": {`"post_call": [{"url": "https://a.example/", "payload": {"template": {"a": [1, 2]}}}]`, `"post_call": [{"url":"https://a.example/","payload":{"template":{"a":[1,2]}}}]`, nil},
		"fields": {`"timezone": "Europe/London", "pre_call": {"name": "crm", "url": "https://a.example/", "timeout": "2s"}`, `"pre_call": {"name": "crm", "url": "https://b.example/", "timeout": "2s", "method": "GET"}`,
			[]string{`timezone: "Europe/London" → not set`, `pre_call.url (crm): "https://a.example/" → "https://b.example/"`, `pre_call.method (crm): not set → "GET"`}},
		"a webhook added before another": {`"post_call": [{"name": "n8n", "url": "https://a.example/", "ordered": true}]`,
			`"post_call": [{"name": "make", "url": "https://b.example/", "rate": "5/s"}, {"name": "n8n", "url": "https://a.example/", "concurrency": 2}]`,
			[]string{`post_call[0].name (make): not set → "make"`, `post_call[0].url (make): not set → "https://b.example/"`, `post_call[0].rate (make): not set → "5/s"`,
				`post_call[1].ordered (n8n): true → not set`, `post_call[1].concurrency (n8n): not set → 2`}},
		"a webhook removed": {`"call_status": [{"name": "a", "url": "https://a.example/"}, {"url": "https://b.example/"}]`, `"call_status": [{"url": "https://b.example/"}]`,
			[]string{`call_status[0].name (a): "a" → not set`, `call_status[0].url (a): "https://a.example/" → not set`}},
		"the order": {`"variables": [{"name": "a"}, {"name": "b"}]`, `"variables": [{"name": "b"}, {"name": "a"}]`, []string{`variables: ["a","b"] → ["b","a"]`}},
		"lists": {`"post_call": [{"url": "https://a.example/", "payload": {"fields": ["call.id", "call.from"]}}]`, `"post_call": [{"url": "https://a.example/", "payload": {"fields": ["call.id", {"path": "call.to", "as": "to"}]}}]`,
			[]string{`post_call[0].payload.fields[1] (post_call): "call.from" → {"path":"call.to","as":"to"}`}},
		"a longer list": {`"call_status": [{"url": "https://a.example/", "statuses": ["busy"]}]`, `"call_status": [{"url": "https://a.example/", "statuses": ["busy", "failed"]}]`,
			[]string{`call_status[0].statuses (call_status): ["busy"] → ["busy","failed"]`}},
		"templates": {`"post_call": [{"url": "https://a.example/", "payload": {"template": {"a": {"b": 1}, "c": [{"d": 1}, {"e": 2}]}}}]`, `"post_call": [{"url": "https://a.example/", "payload": {"template": {"a": {"b": 1.0}, "c": [{"d": 1}, {"e": "<3>"}]}}}]`,
			[]string{`post_call[0].payload.template.a.b (post_call): 1 → 1.0`, `post_call[0].payload.template.c[1].e (post_call): 2 → "<3>"`}},
		"references": {`"post_call": [{"url": "https://a.example/", "headers": {"Authorization": "Bearer ${A}"}, "secrets": ["${A}"]}]`, `"post_call": [{"url": "https://a.example/", "headers": {"Authorization": "Bearer ${B}"}, "secrets": ["${A}", "${B}"]}]`,
			[]string{`post_call[0].headers.Authorization (post_call): "Bearer ${A}" → "Bearer ${B}"`, `post_call[0].secrets (post_call): ["${A}"] → ["${A}","${B}"]`}},
		"secrets": {`"variables": [{"name": "pin", "secret": true, "default": "SECRET1"}],
				"pre_call": {"url": "https://SECRET2@a.example/?api_key=SECRET3&b=1", "query": {"token": "SECRET4"}, "body": {"auth": {"password": "SECRET5"}}, "cache_key": "a"},
				"post_call": [{"url": "https://a.example/", "headers": {"Authorization": "Bearer SECRET6", "X-Api-Key": "${KEY}SECRET7"}, "secrets": ["SECRET8", "${KEY}"],
					"payload": {"template": {"list": [{"token": "SECRET9"}]}}}]`,
			`"variables": [{"name": "pin", "secret": true, "default": "SECRET11"}],
				"pre_call": {"url": "https://SECRET12@a.example/?api_key=SECRET13&b=2", "query": {"token": "SECRET14"}, "body": {"auth": {"password": "SECRET15"}}, "cache_key": "b"},
				"post_call": [{"url": "https://a.example/", "headers": {"Authorization": "Bearer SECRET16", "X-Api-Key": "${KEY}SECRET17"}, "secrets": ["SECRET18", "${KEY}"],
					"payload": {"template": {"list": [{"token": "SECRET19"}, 1]}}}]`,
			[]string{`variables[0].default (pin): "***" → "***" (another)`,
				`pre_call.url: "https://***@a.example/?api_key=***&b=1" → "https://***@a.example/?api_key=***&b=2"`, `pre_call.query.token: "***" → "***" (another)`,
				`pre_call.body.auth.password: "***" → "***" (another)`, `pre_call.cache_key: "a" → "b"`,
				`post_call[0].headers.Authorization (post_call): "***" → "***" (another)`, `post_call[0].headers.X-Api-Key (post_call): "***" → "***" (another)`,
				`post_call[0].secrets (post_call): ["***","${KEY}"] → ["***","${KEY}"] (another)`,
				`post_call[0].payload.template.list (post_call): [{"token":"***"}] → [{"token":"***"},1]`}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range parse(t, `{"agent_id": "a", `+tt.from+`}`).Diff(parse(t, `{"agent_id": "a", `+tt.to+`}`)) {
				got = append(got, d.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestDiffNil: a nil config is an empty one.
func TestDiffNil(t *testing.T) {
	var none *callhook.Config
	got := fmt.Sprint(none.Diff(zone("Europe/London")), zone("").Diff(nil), none.Diff(nil))
	if want := `[agent_id: not set → "reception" timezone: not set → "Europe/London"] [agent_id: "reception" → not set] []`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzDiff: two configs differ if, and only if, there is a difference to show; no
// signing key is in it.
func FuzzDiff(f *testing.F) {
	f.Add(`{"agent_id": "a", "post_call": [{"url": "https://a.example/", "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}]}`, `{"agent_id": "b", "variables": [{"name": "x", "default": [1, {"a": null}]}]}`)
	f.Add(`{"pre_call": {"url": "//x@y?token=abc", "body": {"a.b": {"": 1}}}}`, `{"pre_call": {"url": "a://b@c@d/e", "body": []}}`)
	f.Fuzz(func(t *testing.T, x, y string) {
		a, err := callhook.ParseConfig([]byte(x))
		if err != nil {
			return
		}
		if got := a.Diff(a); len(got) > 0 {
			t.Errorf("a config differs from itself: %v", got)
		}
		b, err := callhook.ParseConfig([]byte(y))
		if err != nil {
			return
		}
		for _, d := range a.Diff(b) {
			if strings.Contains(d.String(), "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") && strings.Contains(d.Path, "secrets") {
				t.Errorf("a secret is shown: %s", d)
			}
			if d.From == d.To {
				t.Errorf("%s does not differ", d)
			}
		}
	})
}
