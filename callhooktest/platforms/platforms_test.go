package platforms_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callhook-go/callhook/callhooktest"
	"github.com/callhook-go/callhook/callhooktest/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
)

// answer is what a platform said.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// at returns what stands at a path in the body's JSON.
func (a answer) at(path string) string { return gjson.Get(a.Body, path).String() }

// host is an endpoint with a host of its own, to which requests can be sent.
type host struct {
	t      *testing.T
	client *http.Client
	header http.Header // of every request
}

func at(t *testing.T, e *callhooktest.Endpoint, header ...string) *host {
	network := callhooktest.Network{"host.example": e}
	h := &host{t, &http.Client{Transport: &http.Transport{DialContext: network.Dial, DisableKeepAlives: true}}, http.Header{}}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		h.header.Set(name, value)
	}
	return h
}

// send sends a request with further header lines.
func (h *host) send(method, path, body string, header ...string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "http://host.example"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header = h.header.Clone()
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// step is a request, and what the answer says: by path, or as it is under "".
type step struct {
	name               string
	method, path, body string
	header             []string
	status             int
	says               map[string]string
}

func (h *host) play(steps []step) {
	h.t.Helper()
	for _, s := range steps {
		a := h.send(s.method, s.path, s.body, s.header...)
		if a.Status != s.status {
			h.t.Errorf("%s: %d %s, want %d", s.name, a.Status, a.Body, s.status)
			continue
		}
		got := map[string]string{}
		for path := range s.says {
			if path == "" {
				got[path] = a.Body
			} else {
				got[path] = a.at(path)
			}
		}
		if diff := cmp.Diff(s.says, got); s.says != nil && diff != "" {
			h.t.Errorf("%s (-want +got):\n%s\nin %s", s.name, diff, a.Body)
		}
	}
}

// watched is a test that notes errors instead of having them.
type watched struct {
	*testing.T
	errors chan string
}

func (w *watched) Errorf(format string, _ ...any) { w.errors <- format }

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// bubble runs f with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func wait(d time.Duration) { time.Sleep(d) } // of a bubble's clock

// TestDoors: each platform is reached on loopback as in memory, and records what came.
func TestDoors(t *testing.T) {
	hubspot, zoho, n8n := platforms.NewHubSpot(t), platforms.NewZoho(t), platforms.NewN8N(t)
	scenario, zap, zendesk, resend := platforms.NewMake(t), platforms.NewZapier(t), platforms.NewZendesk(t), platforms.NewResend(t)
	for name, p := range map[string]struct {
		*callhooktest.Endpoint
		path, body string
		status     int
	}{
		"HubSpot": {hubspot.Endpoint, hubspotSearch, `{}`, 401},
		"Zoho":    {zoho.Endpoint, "/crm/v8/Calls", `{}`, 401},
		"n8n":     {n8n.Endpoint, "/webhook/calls", `{}`, 404},
		"Make":    {scenario.Endpoint, "/abc", `{}`, 200},
		"Zapier":  {zap.Endpoint, "/hooks/catch/1/a/", `{}`, 200},
		"Zendesk": {zendesk.Endpoint, "/api/v2/tickets.json", `{}`, 401},
		"Resend":  {resend.Endpoint, "/emails", `{}`, 401},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := http.Post(p.Listen()+p.path, "application/json", strings.NewReader(p.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != p.status {
				t.Errorf("on loopback: %d, want %d", resp.StatusCode, p.status)
			}
			if a := at(t, p.Endpoint).send("POST", p.path, p.body); a.Status != p.status {
				t.Errorf("in memory: %d, want %d", a.Status, p.status)
			}
			for _, r := range p.Received(t, 2) {
				same(t, "recorded", p.path+" "+p.body, r.URL.Path+" "+string(r.Body))
			}
		})
	}
}
