package callhook_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
)

// faults returns those of a config that somebody wrote, nil when it has none.
func faults(t *testing.T, data []byte) []callhook.Fault {
	t.Helper()
	c, err := callhook.ParseConfig(data)
	if err == nil {
		err = c.Validate()
	}
	if err == nil {
		return nil
	}
	var ce *callhook.ConfigError
	if !errors.As(err, &ce) || len(ce.Faults) == 0 {
		t.Fatalf("the error is %T without faults: %v", err, err)
	}
	return ce.Faults
}

// TestBadConfigs compares every fault of the configs in testdata/configs/bad with
// what stands in the file beside it.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/configs/bad/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			for _, f := range faults(t, data) {
				fmt.Fprintln(&b, f)
				readable(t, f)
			}
			if b.Len() == 0 {
				t.Fatal("it has no fault")
			}
			golden(t, strings.TrimSuffix(file, ".json")+".golden", b.Bytes())
		})
	}
}

// readable fails the test when a message speaks to a Go programmer.
func readable(t *testing.T, f callhook.Fault) {
	t.Helper()
	for _, bad := range []string{"json: cannot", "json: unknown", "json: invalid", "net/url", "strconv", "interface", "unmarshal", "<nil>", "%!", "looking for", "callhook."} {
		if strings.Contains(f.Message, bad) {
			t.Errorf("%s: %q in its message", f, bad)
		}
	}
	if len(f.Message) < 10 || len(f.Message) > 800 || strings.ContainsFunc(f.String(), unicode.IsControl) {
		t.Errorf("%q has no message that can be shown", f)
	}
}

// TestConfigBounds: what is too much is refused at once and in a few words.
func TestConfigBounds(t *testing.T) {
	list := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.ReplaceAll(format, "N", fmt.Sprint(i)))
		}
		return b.String()
	}
	post := func(members string) string {
		return `{"agent_id":"a","post_call":[{"url":"https://h.example/",` + members + `}]}`
	}
	for name, test := range map[string]struct {
		config string
		want   []string // the first faults
		count  int      // of faults, where there are more
	}{
		"bytes":           {config: `{"agent_id":"` + strings.Repeat("a", 1<<20) + `"}`, want: []string{"the config has 1048591 bytes; at most 1048576 are read"}},
		"depth":           {config: strings.Repeat("[", 20_000), want: []string{"this is not JSON: line 1, column 10001: it is nested too deep"}},
		"unknown names":   {config: `{` + list(`"xxxxxxxxN":1`, 3000) + `}`, want: []string{"xxxxxxxx0: there is no such field; the fields here are $schema, tenant_id, agent_id, revision, timezone, variables, pre_call, call_status, post_call"}, count: 1000},
		"variables":       {config: `{"agent_id":"a","variables":[` + list(`{"name":"vN"}`, 501) + `]}`, want: []string{"variables: 501 are declared; at most 500 can be"}},
		"status webhooks": {config: `{"agent_id":"a","call_status":[` + list(`{"name":"n-N","url":"https://h.example/"}`, 51) + `]}`, want: []string{"call_status: there are 51; at most 50 are possible"}},
		"post-call webhooks": {config: `{"agent_id":"a","post_call":[` + list(`{"name":"n-N","url":"https://h.example/"}`, 2000) + `]}`,
			want: []string{"post_call: there are 2000; at most 50 are possible"}},
		"headers":  {config: post(`"headers":{` + list(`"x-N":""`, 5000) + `}`), want: []string{"post_call[0].headers: there are 5000; at most 50 are possible"}},
		"keys":     {config: post(`"secrets":[` + list(`"${KN}"`, 11) + `]`), want: []string{"post_call[0].secrets: there are 11; at most 10 are possible"}},
		"secrets":  {config: post(`"headers":{"x":"` + list(`${SN}`, 51) + `"}`), want: []string{"post_call[0].headers.x: the webhook refers to more than 50 secrets"}},
		"statuses": {config: `{"agent_id":"a","call_status":[{"url":"https://h.example/","statuses":[` + list(`"sN"`, 101) + `]}]}`, want: []string{"call_status[0].statuses: there are 101; at most 100 are possible"}},
		"fields":   {config: post(`"payload":{"fields":[` + list(`{"path":"call.id","as":"aN"}`, 2000) + `]}`), want: []string{"post_call[0].payload.fields: 2000 fields are selected; at most 500 can be"}},
		"query":    {config: `{"agent_id":"a","pre_call":{"url":"https://h.example/","method":"GET","query":{` + list(`"qN":"1"`, 51) + `}}}`, want: []string{"pre_call.query: there are 51; at most 50 are possible"}},
		"placeholders": {config: post(`"payload":{"template":"` + strings.Repeat("{{call.id}}", 1001) + `"}`),
			want: []string{"post_call[0].payload.template: {{ call.id }}: the webhook has more than 1000 placeholders"}},
		"placeholders in many places": {config: post(`"payload":{"template":[` + list(`"{{call.id}}"`, 2500) + `]}`),
			want: []string{"post_call[0].payload.template[1000]: {{ call.id }}: the webhook has more than 1000 placeholders"}, count: 1000},
		"template depth":  {config: post(`"payload":{"template":` + strings.Repeat("[", 34) + strings.Repeat("]", 34) + `}`), want: []string{"post_call[0].payload.template: the template is nested more than 32 levels deep"}},
		"template values": {config: post(`"payload":{"template":[` + list(`N`, 10_001) + `]}`), want: []string{"post_call[0].payload.template: the template has more than 10000 values"}},
		"default depth": {config: `{"agent_id":"a","variables":[{"name":"v","default":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}]}`,
			want: []string{"variables[0].default: a value is nested more than 100 levels deep, or contains itself"}},
		"a long expression": {config: post(`"payload":{"template":"x{{call.id | map: ` + strings.Repeat("'',", 10_000) + `''}}"}`), want: []string{
			"post_call[0].payload.template: {{ call.id | map: " + strings.Repeat("'',", 100)[:100-len("call.id | map: ")] + "… }}: " +
				`filter map is written map: "inbound", "INBOUND", "outbound", "OUTBOUND"`}},
	} {
		t.Run(name, func(t *testing.T) {
			got := faults(t, []byte(test.config))
			count := max(test.count, len(test.want))
			if len(got) != count {
				t.Fatalf("%d faults, want %d", len(got), count)
			}
			for i, want := range test.want {
				if diff := cmp.Diff(want, got[i].String()); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if c, err := callhook.ParseConfig([]byte(test.config)); err == nil {
				c.Lint() // also of what is too much
			}
		})
	}
}

// TestParseConfig: what people write without meaning anything by it.
func TestParseConfig(t *testing.T) {
	want := &callhook.Config{AgentID: "reception"}
	for name, text := range map[string]string{
		"plain":      `{"agent_id": "reception"}`,
		"BOM":        "\ufeff" + `{"agent_id": "reception"}`,
		"CRLF":       "{\r\n\t\"agent_id\": \"reception\"\r\n}\r\n",
		"null":       `{"agent_id": "reception", "timezone": null, "variables": null, "pre_call": null, "call_status": null, "revision": null}`,
		"\\u escape": `{"agent\u005fid": "recep\u0074ion"}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := callhook.ParseConfig([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestConfigRoundTrip: a config survives being written.
func TestConfigRoundTrip(t *testing.T) {
	for name, c := range exampleConfigs(t) {
		t.Run(name, func(t *testing.T) {
			first, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			again := parse(t, string(first))
			if diff := cmp.Diff(c, again, cmp.Transformer("JSON", compact)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			second, err := json.Marshal(again)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(first), string(second)); diff != "" {
				t.Errorf("written twice (-want +got):\n%s", diff)
			}
		})
	}
}

// compact makes raw JSON comparable: writing a config escapes < and > in it.
func compact(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err.Error()
	}
	return v
}

func TestLoadConfig(t *testing.T) {
	c, err := callhook.LoadConfig("examples/config/n8n.json")
	if err != nil || c.AgentID != "reception" {
		t.Fatalf("%v, %v", c, err)
	}
	if _, err := callhook.LoadConfig("examples/config/nobody.json"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nobody.json") {
		t.Errorf("a file that does not exist: %v", err)
	}
	_, err = callhook.LoadConfig("testdata/configs/bad/not_json_cut_off.json")
	want := "callhook: config testdata/configs/bad/not_json_cut_off.json: this is not JSON: line 3, column 45: it ends too early: a }, a ] or a quote is missing"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestLoadConfigFS(t *testing.T) {
	files := fstest.MapFS{
		"agents/b.json":   {Data: []byte(`{"agent_id": "b"}`)},
		"agents/a.json":   {Data: []byte(`{"agent_id": "a"}`)},
		"agents/notes.md": {Data: []byte(`#`)},
		"sales.json":      {Data: []byte(`{"agent_id": "sales"}`)},
		"bad/one.json":    {Data: []byte(`{"agent": "x"}`)},
		"bad/two.json":    {Data: []byte("{\n\"agent_id\" \"x\"}")},
		"bad/three.json":  {Data: []byte(`{"agent_id": "fine"}`)},
	}
	for name, test := range map[string]struct {
		patterns []string
		want     []string // of agents
		err      string
		is       error
	}{
		"in order":          {patterns: []string{"sales.json", "agents/*.json"}, want: []string{"sales", "a", "b"}},
		"none":              {},
		"nothing matches":   {patterns: []string{"agents/*.json", "nobody/*.json"}, err: "callhook: config: nobody/*.json: file does not exist", is: fs.ErrNotExist},
		"a bad pattern":     {patterns: []string{"[.json"}, err: "callhook: config: [.json: syntax error in pattern"},
		"a directory":       {patterns: []string{"agents"}, err: "callhook: config: read agents: invalid argument"},
		"every file's name": {patterns: []string{"bad/*.json"}, err: "callhook: config bad/one.json: agent: there is no such field (did you mean \"agent_id\"?)\ncallhook: config bad/two.json: this is not JSON: line 2, column 12: a colon is missing after the name"},
	} {
		t.Run(name, func(t *testing.T) {
			configs, err := callhook.LoadConfigFS(files, test.patterns...)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(test.err, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
			var got []string
			for _, c := range configs {
				got = append(got, c.AgentID)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestConfigError(t *testing.T) {
	one := &callhook.ConfigError{Source: "agent a", Faults: []callhook.Fault{{Path: "pre_call.url", Message: "it is missing"}}}
	two := &callhook.ConfigError{Faults: []callhook.Fault{{Message: "this"}, {Path: "x", Message: "that"}}}
	for err, want := range map[error]string{
		one: "callhook: config agent a: pre_call.url: it is missing",
		two: "callhook: config: 2 faults:\n\tthis\n\tx: that",
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
	_, err := callhook.New(callhook.Options{Configs: callhook.Static(
		&callhook.Config{AgentID: "a"}, &callhook.Config{AgentID: "a"}, &callhook.Config{TenantID: "t", AgentID: "a"})})
	if want := "callhook: config agent a: agent_id: 2 configs are for this agent: keep one"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := (*callhook.Config)(nil).Validate(); err == nil {
		t.Error("a nil config is valid")
	}
}

// TestCheckMessages: what Check says of secrets and of order, without a secret in it.
func TestCheckMessages(t *testing.T) {
	t.Setenv("TEST_GOOD", secret)
	t.Setenv("TEST_SHORT", "whsec_c2hvcnQ=")
	t.Setenv("TEST_BROKEN", "a\r\nb")
	t.Setenv("TEST_EMPTY", "")
	secrets := callhook.EnvSecrets("TEST_")
	for name, test := range map[string]struct {
		options callhook.Options
		config  string
		want    []string // what stands in the faults, one each
	}{
		"good":      {options: callhook.Options{Secrets: secrets}, config: `{"agent_id":"a","pre_call":{"url":"https://h.example/${GOOD}","secrets":["${GOOD}"]}}`},
		"not valid": {options: callhook.Options{Secrets: secrets}, config: `{"agent_id":"a","pre_call":{"url":"x"}}`, want: []string{"pre_call.url: "}},
		"no secrets": {config: `{"agent_id":"a","pre_call":{"url":"https://h.example/","headers":{"X":"${A}"}},"post_call":[{"url":"https://h.example/${B}"}]}`,
			want: []string{"pre_call: it refers to the secret ${A}, and Options.Secrets is nil", "post_call[0]: it refers to the secret ${B}"}},
		"unresolved": {options: callhook.Options{Secrets: secrets}, config: `{"agent_id":"a","pre_call":{"url":"https://h.example/${GOOD}","headers":{"X":"${NOBODY}"}},"call_status":[{"url":"https://h.example/","secrets":["${EMPTY}"]}],"post_call":[{"url":"https://h.example/${BROKEN}"}]}`,
			want: []string{"pre_call: ${NOBODY}: no such secret", "call_status[0]: ${EMPTY}: no such secret", "post_call[0]: ${BROKEN}: no such secret: its value has a line break"}},
		"keys": {options: callhook.Options{Secrets: secrets}, config: `{"agent_id":"a","post_call":[{"url":"https://h.example/","secrets":["${GOOD}","${SHORT}"]}]}`,
			want: []string{"post_call[0]: secrets[1]: "}},
		"ordered":           {config: `{"agent_id":"a","call_status":[{"url":"https://h.example/","ordered":true}]}`},
		"ordered, not kept": {options: callhook.Options{Queue: unordered{callhook.NewMemoryQueue(nil)}}, config: `{"agent_id":"a","call_status":[{"url":"https://h.example/","ordered":true}],"post_call":[{"url":"https://h.example/"}]}`, want: []string{"call_status[0].ordered: the queue cannot keep this order"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.Configs = callhook.Static()
			h, err := callhook.New(test.options)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			c := parse(t, test.config)
			err = h.Check(t.Context(), c)
			if len(test.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var ce *callhook.ConfigError
			if !errors.As(err, &ce) || len(ce.Faults) != len(test.want) {
				t.Fatalf("error %v, want %d faults", err, len(test.want))
			}
			for i, want := range test.want {
				if got := ce.Faults[i].String(); !strings.HasPrefix(got, want) {
					t.Errorf("fault %q, want %q", got, want)
				}
			}
			if strings.Contains(err.Error(), "c2hvcnQ") || strings.Contains(err.Error(), "a\r\nb") {
				t.Errorf("a secret stands in the error: %v", err)
			}
		})
	}
}

// TestSecretRef: who asks for a secret, and where it goes, in one spelling.
func TestSecretRef(t *testing.T) {
	for url, origin := range map[string]string{
		"https://api.crm.example/x/${TOKEN}":            "https://api.crm.example",
		"HTTPS://API.CRM.Example:443/?a=${TOKEN}":       "https://api.crm.example",
		"http://api.crm.example:80/${TOKEN}":            "http://api.crm.example",
		"http://api.crm.example:443/${TOKEN}":           "http://api.crm.example:443",
		"https://api.crm.example:/${TOKEN}":             "https://api.crm.example",
		"https://api.crm.example:8443?a=${TOKEN}":       "https://api.crm.example:8443",
		"https://[2606:4700::1111]:443/${TOKEN}":        "https://[2606:4700::1111]",
		"https://api.crm.example.evil.example/${TOKEN}": "https://api.crm.example.evil.example",
	} {
		var got callhook.SecretRef
		h, err := callhook.New(callhook.Options{Configs: callhook.Static(), Secrets: func(_ context.Context, ref callhook.SecretRef) (string, error) {
			got = ref
			return "x", nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		c := &callhook.Config{TenantID: "t", AgentID: "a", PostCall: []callhook.PostCallWebhook{{Endpoint: callhook.Endpoint{Name: "log", URL: url}}}}
		if err := h.Check(t.Context(), c); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(callhook.SecretRef{Tenant: "t", Agent: "a", Webhook: "log", Origin: origin, Name: "TOKEN"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		h.Close()
	}
}

// TestPreviewURL: where call data may stand in a URL, and that it stays there.
func TestPreviewURL(t *testing.T) {
	const climbs, empty = `would make the URL's path climb with ".."`, "a placeholder in the URL's path is empty"
	for name, test := range map[string]struct{ url, from, want, err string }{
		"a segment":             {url: "https://h.example/c/{{call.from}}/x", from: "+44 20", want: "https://h.example/c/+44%2020/x"},
		"a query value":         {url: "https://h.example/?a=1&n={{call.from}}&b=2", from: "+44 &b=3#?/", want: "https://h.example/?a=1&n=%2B44+%26b%3D3%23%3F%2F&b=2"},
		"a part of a value":     {url: "https://h.example/?q=phone:{{call.from}}={{call.id}}", from: "1", want: "https://h.example/?q=phone:1=c1"},
		"an empty value":        {url: "https://h.example/?n={{call.from}}", want: "https://h.example/?n="},
		"slashes":               {url: "https://h.example/{{call.from}}", from: "a/b//evil.example/c", want: "https://h.example/a%2Fb%2F%2Fevil.example%2Fc"},
		"another host":          {url: "https://h.example/{{call.from}}", from: "//evil.example", want: "https://h.example/%2F%2Fevil.example"},
		"a user":                {url: "https://h.example/{{call.from}}", from: "@evil.example", want: "https://h.example/@evil.example"},
		"a query in a path":     {url: "https://h.example/{{call.from}}/x?a=1", from: "?b=2#c", want: "https://h.example/%3Fb=2%23c/x?a=1"},
		"a backslash":           {url: "https://h.example/{{call.from}}", from: `a\b`, want: "https://h.example/a%5Cb"},
		"escapes":               {url: "https://h.example/{{call.from}}", from: "%2e%2e%2f%0d%0a", want: "https://h.example/%252e%252e%252f%250d%250a"},
		"control characters":    {url: "https://h.example/{{call.from}}?a={{call.from}}", from: "a\r\nHost: evil\x00", want: "https://h.example/a%0D%0AHost:%20evil%00?a=a%0D%0AHost%3A+evil%00"},
		"unicode":               {url: "https://h.example/{{call.from}}", from: "Zoë\u2028\u202e", want: "https://h.example/Zo%C3%AB%E2%80%A8%E2%80%AE"},
		"invalid UTF-8":         {url: "https://h.example/{{call.from}}", from: "\xc0\xae\xc0\xae", want: "https://h.example/%EF%BF%BD%EF%BF%BD%EF%BF%BD%EF%BF%BD"},
		"not expanded again":    {url: "https://h.example/{{call.from}}?a={{call.from}}", from: "{{call.id}}${TOKEN}", want: "https://h.example/%7B%7Bcall.id%7D%7D$%7BTOKEN%7D?a=%7B%7Bcall.id%7D%7D%24%7BTOKEN%7D"},
		"a dot":                 {url: "https://h.example/a/{{call.from}}", from: ".", err: climbs},
		"two dots":              {url: "https://h.example/a/{{call.from}}/b", from: "..", err: climbs},
		"two dots of two":       {url: "https://h.example/a/.{{call.from}}", from: ".", err: climbs},
		"two dots, one escaped": {url: "https://h.example/a/%2e{{call.from}}", from: ".", err: climbs},
		"two placeholders":      {url: "https://h.example/{{call.from}}{{call.from}}", from: ".", err: climbs},
		"slash and dots":        {url: "https://h.example/{{call.from}}", from: "x/../../admin", err: climbs},
		"backslash and dots":    {url: "https://h.example/{{call.from}}", from: `x\..\admin`, err: climbs},
		"dots and semicolon":    {url: "https://h.example/{{call.from}}/x", from: "..;a=b", err: climbs},
		"dots in a name":        {url: "https://h.example/{{call.from}}", from: "a..b", want: "https://h.example/a..b"},
		"dots in a query":       {url: "https://h.example/?a={{call.from}}", from: "../..", want: "https://h.example/?a=..%2F.."},
		"empty, at the end":     {url: "https://h.example/customers/{{call.from}}", err: empty},
		"empty, in between":     {url: "https://h.example/customers/{{call.from}}/notes", err: empty},
		"empty, before a query": {url: "https://h.example/customers/{{call.from}}?a=1", err: empty},
		"only a slash":          {url: "https://h.example/customers/{{call.from}}", from: "/", err: empty},
		"empty, with a default": {url: "https://h.example/customers/{{call.from | default: 'withheld'}}", want: "https://h.example/customers/withheld"},
		"empty, with a prefix":  {url: "https://h.example/customers/tel-{{call.from}}", want: "https://h.example/customers/tel-"},
		"a secret in the path":  {url: "https://h.example/${TOKEN}/x?key=${TOKEN}", want: "https://h.example/***/x?key=***"},
		"a space in the query":  {url: "https://h.example/a b?q=a b&ü={{call.from}}", from: "1", want: "https://h.example/a%20b?q=a%20b&%C3%BC=1"},
		"without a slash":       {url: "https://h.example?n={{call.from}}", from: "1", want: "https://h.example?n=1"},
		"a port":                {url: "https://h.example:8443/{{call.from}}", from: "1", want: "https://h.example:8443/1"},
		"IPv6":                  {url: "https://[2606:4700::1111]:8443/{{call.from}}", from: "1", want: "https://[2606:4700::1111]:8443/1"},
		"IPv6 with a zone":      {url: "https://[fe80::1%25eth0]/{{call.from}}", from: "1", want: "https://[fe80::1%25eth0]/1"},
		"another script":        {url: "https://xn--bcher-kva.example/ü/{{call.from}}", from: "1", want: "https://xn--bcher-kva.example/%C3%BC/1"},
		"braces in a filter":    {url: "https://h.example/{{ call.from | default: '}}?a=b' }}", want: "https://h.example/%7D%7D%3Fa=b"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := json.Marshal(test.url)
			if err != nil {
				t.Fatal(err)
			}
			c := parse(t, `{"agent_id":"a","post_call":[{"url":`+string(data)+`}]}`)
			p, err := c.Preview("post_call", &callhook.Call{ID: "c1", AgentID: "a", From: test.from})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("%v, %v, want an error with %q", p, err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, p.URL); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPreviewQuery: the query of a lookup is added to that of its URL.
func TestPreviewQuery(t *testing.T) {
	for url, want := range map[string]string{
		"https://h.example":        "https://h.example?a+b=1&n=%2B44&s=***x+y",
		"https://h.example/":       "https://h.example/?a+b=1&n=%2B44&s=***x+y",
		"https://h.example/?":      "https://h.example/?&a+b=1&n=%2B44&s=***x+y",
		"https://h.example/x?q=1":  "https://h.example/x?q=1&a+b=1&n=%2B44&s=***x+y",
		"https://h.example/?{{=1":  "",
		"https://h.example/?q={}#": "",
	} {
		c := parse(t, `{"agent_id":"a","pre_call":{"method":"GET","query":{"n":"{{call.from}}","a b":"1","s":"${TOKEN}x y"}}}`)
		c.PreCall.URL = url
		p, err := c.Preview("pre_call", &callhook.Call{ID: "c1", AgentID: "a", From: "+44"})
		if (err != nil) != (want == "") {
			t.Errorf("%s: %v", url, err)
		}
		if err == nil && p.URL != want {
			t.Errorf("%s: %s, want %s", url, p.URL, want)
		}
	}
}

// TestPreviewHeader: no call data ends a header.
func TestPreviewHeader(t *testing.T) {
	c := parse(t, `{"agent_id":"a","post_call":[{"url":"https://h.example/","headers":{
		"x-name":" {{call.from_name}} ","X-Plain":"{{call.from_name | json}}","X-Sum":"{{call.metadata}} ${TOKEN}","X-None":"{{call.to}}",
		"User-Agent":"mine","content-type":"application/x-mine"}}]}`)
	call := &callhook.Call{ID: "c1", AgentID: "a", FromName: "Zoë\r\nWebhook-Signature: v1,x\x00\x7f\u2028", Metadata: callhook.Object{"a": "\r\n{{call.id}}${TOKEN}"}}
	p, err := c.Preview("post_call", call)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"X-Name":       "ZoëWebhook-Signature: v1,x",
		"X-Plain":      `"Zoë\r\nWebhook-Signature: v1,x\u0000` + "\u2028\"",
		"X-Sum":        `{"a":"\r\n{{call.id}}${TOKEN}"} ***`,
		"X-None":       "",
		"User-Agent":   "mine",
		"Content-Type": "application/x-mine",
	}
	for name, v := range want {
		if diff := cmp.Diff([]string{v}, p.Header[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if len(p.Header) != len(want)+2 || p.Header.Get(callhook.HeaderSignature) != "" {
		t.Errorf("headers %v", p.Header)
	}
}

func TestPreview(t *testing.T) {
	c := parse(t, `{"agent_id":"a","pre_call":{"url":"https://h.example/"},"post_call":[{"name":"log","url":"https://h.example/","method":"PUT","secrets":["${KEY}"]}]}`)
	call := &callhook.Call{ID: "c1", AgentID: "a"}
	if _, err := c.Preview("nobody", call); err == nil || !strings.Contains(err.Error(), `no webhook "nobody"`) {
		t.Errorf("a webhook that does not exist: %v", err)
	}
	if p, err := c.Preview("log", nil); err != nil || !strings.Contains(string(p.Body), `"agent_id":"a"`) {
		t.Errorf("no call: %v, %v", p, err)
	}
	if _, err := c.Preview("log", &callhook.Call{ID: "c1"}); !errors.Is(err, callhook.ErrInvalidCall) {
		t.Errorf("a call without an agent: %v", err)
	}
	var ce *callhook.ConfigError
	if _, err := (&callhook.Config{}).Preview("log", call); !errors.As(err, &ce) {
		t.Errorf("a config that is not valid: %v", err)
	}
	p, err := c.Preview("log", call)
	if err != nil {
		t.Fatal(err)
	}
	var event callhook.Event
	if err := json.Unmarshal(p.Body, &event); err != nil {
		t.Fatal(err)
	}
	if p.Method != "PUT" || p.Header.Get(callhook.HeaderSignature) != "***" || event.ID != p.Header.Get(callhook.HeaderID) {
		t.Errorf("%s %v %s", p.Method, p.Header, p.Body)
	}
	if time.Since(event.Timestamp) > time.Minute { // a call that goes on: as if it ended now
		t.Errorf("timestamp %s", event.Timestamp)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]string{"2s": "2s", "500ms": "500ms", "72h": "72h", "90s": "1m30s", "1h0m0s": "1h", "60m": "1h", "1h30m": "1h30m", "1h0m5s": "1h0m5s", "0": "0s", "10m": "10m", "100h0m1s": "100h0m1s", "-60s": "-1m"} {
		var d callhook.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(d)
		if err != nil || string(got) != `"`+want+`"` {
			t.Errorf("%s is written %s, %v; want %q", text, got, err, want)
		}
		var again callhook.Duration
		if err := json.Unmarshal(got, &again); err != nil || again != d {
			t.Errorf("%s comes back as %s, %v", text, again, err)
		}
	}
}
