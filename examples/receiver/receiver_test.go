package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
)

// The keys of the tests. Each private key is followed by its public half.
var (
	newKey   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	oldKey   = "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
	otherKey = "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{3}, 64))

	newPrivate, newPublic = pair(4)
	oldPrivate, oldPublic = pair(5)
	otherPrivate, _       = pair(6)
)

func pair(seed byte) (private, public string) {
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	b64 := base64.StdEncoding.EncodeToString
	return "whsk_" + b64(k.Seed()), "whpk_" + b64(k.Public().(ed25519.PublicKey))
}

// TestDelivery: callhook itself sends a call's data to each receiver.
func TestDelivery(t *testing.T) {
	type keys []string
	each(t, func(t *testing.T, p program) {
		for _, tt := range []struct {
			name     string
			sender   keys
			receiver keys
			v1a      bool   // it takes a receiver that checks v1a
			refused  string // a part of the reply; empty when it is taken
		}{
			{"v1", keys{newKey}, keys{newKey}, false, ""},
			{"rotated, the receiver has the old key", keys{newKey, oldKey}, keys{oldKey}, false, ""},
			{"rotated, the receiver has the new key", keys{newKey, oldKey}, keys{newKey}, false, ""},
			{"rotated, the receiver has both keys", keys{oldKey}, keys{newKey, oldKey}, false, ""},
			{"v1 and v1a, the receiver has whsec_", keys{newPrivate, newKey}, keys{newKey}, false, ""},
			{"v1 and v1a, the receiver has whpk_", keys{newKey, newPrivate}, keys{newPublic}, true, ""},
			{"v1a", keys{newPrivate}, keys{newPublic}, true, ""},
			{"v1a, rotated, the receiver has the old key", keys{newPrivate, oldPrivate}, keys{oldPublic}, true, ""},
			{"v1a, rotated, the receiver has the new key", keys{newPrivate, oldPrivate}, keys{newPublic}, true, ""},
			{"v1a, the receiver has keys of both kinds", keys{newPrivate}, keys{otherKey, newPublic}, true, ""},
			{"another key", keys{otherKey}, keys{newKey, oldKey}, false, "signature"},
			{"v1a, another key", keys{otherPrivate}, keys{newPublic}, true, "signature"},
			{"v1a, the receiver has whsec_", keys{newPrivate}, keys{newKey}, false, map[bool]string{true: "signature", false: "cannot check v1a"}[p.v1a]},
		} {
			if tt.v1a && !p.v1a {
				continue // TestKeysThatCannotBe
			}
			t.Run(tt.name, func(t *testing.T) {
				r := start(t, p, t.TempDir(), "", tt.receiver...)
				s := newSender(t, r.url, tt.sender...)
				s.call(t)
				a := wait(t, s.attempts, "attempt")
				if tt.refused == "" {
					d := wait(t, s.delivered, "delivery")
					if a.attempt.Status != http.StatusNoContent {
						t.Errorf("answered %d, want 204", a.attempt.Status)
					}
					if got, want := r.line(t), (printed{d.ID, "call.ended", "call_1", false}); got != want {
						t.Errorf("printed %+v, want %+v", got, want)
					}
					return
				}
				if a.attempt.Status != http.StatusUnauthorized || !strings.Contains(a.attempt.Reply, tt.refused) {
					t.Errorf("answered %d %q, want 401 and %q", a.attempt.Status, a.attempt.Reply, tt.refused)
				}
				if got := s.hooks.Stats().Queue; a.verdict.State != callhook.StateWaiting || got.Pending != 1 || got.Dead != 0 || got.Delivered != 0 {
					t.Errorf("it is %s, and the queue %+v: want it pending", a.verdict.State, got)
				}
				// The key is mended at the sender, and the event arrives.
				right := tt.receiver[0]
				if right == newPublic {
					right = newPrivate
				}
				s.keys.Store(&[]string{right})
				d := wait(t, s.delivered, "delivery")
				if got, want := r.line(t), (printed{d.ID, "call.ended", "call_1", false}); got != want {
					t.Errorf("printed %+v, want %+v", got, want)
				}
			})
		}
	})
}

// TestTestSend: an event that is only a test is marked, and can be told.
func TestTestSend(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		r := start(t, p, t.TempDir(), "", newKey)
		s := newSender(t, r.url, newKey)
		res, err := s.hooks.TestSend(t.Context(), s.config, "receiver", nil)
		if err != nil || !res.OK || res.Status != http.StatusNoContent {
			t.Fatalf("%+v, %v", res, err)
		}
		if got := r.line(t); !got.Test || got.Type != "call.ended" {
			t.Errorf("printed %+v, want a test", got)
		}
	})
}

// TestKeysThatCannotBe: a receiver does not start with a key that would refuse
// everything, and says why.
func TestKeysThatCannotBe(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, tt := range []struct {
			name, keys, want string
			starts           bool
		}{
			{"none", " ", "WEBHOOK_KEYS is empty", false},
			{"not base64", newKey + " whsec_%%%", "base64", false},
			{"v1a", newKey + " " + newPublic, "v1a (Ed25519), which this receiver cannot check", p.v1a},
		} {
			t.Run(tt.name, func(t *testing.T) {
				dir := t.TempDir()
				if tt.starts {
					start(t, p, dir, "", strings.Fields(tt.keys)...)
					return
				}
				ctx, stop := context.WithTimeout(t.Context(), patience)
				defer stop()
				cmd := command(ctx, t, p, dir, "", tt.keys)
				out, err := cmd.CombinedOutput()
				if exit := new(exec.ExitError); !errors.As(err, &exit) || !strings.Contains(string(out), tt.want) {
					t.Errorf("%v, want it to end and say %q:\n%s", err, tt.want, out)
				}
			})
		}
	})
}

const body = `{"type":"call.ended","data":{"call":{"id":"call_1","name":"Zoë � \u0000"}}}`

// TestRequests: what each receiver answers to what somebody may send it, and that
// only the right ones reach the work.
func TestRequests(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		now := time.Now()
		signed := func(id string, at time.Time, body string, keys ...string) http.Header {
			h := http.Header{"Content-Type": {"application/json"}}
			if err := callhook.Sign(h, id, at, []byte(body), keys...); err != nil {
				t.Fatal(err)
			}
			return h
		}
		with := func(h http.Header, name, value string) http.Header {
			h.Set(name, value)
			return h
		}
		tests := []struct {
			name   string
			header http.Header
			body   string
			want   int
		}{
			{"signed", signed("msg_signed", now, body, newKey), body, 204},
			{"signed with many keys", signed("msg_many", now, body, otherKey, otherPrivate, oldKey, newKey), body, 204},
			{"three minutes old", signed("msg_late", now.Add(-3*time.Minute), body, newKey), body, 204},
			{"three minutes in the future", signed("msg_early", now.Add(3*time.Minute), body, newKey), body, 204},
			{"signatures of versions that nobody knows", with(signed("msg_v9", now, body, newKey), "Webhook-Signature",
				"v9,AAAA v1 ,, v1,%%% "+signed("msg_v9", now, body, newKey).Get("Webhook-Signature")), body, 204},

			{"another key", signed("msg_other", now, body, otherKey), body, 401},
			{"a changed body", signed("msg_changed", now, body, newKey), body + " ", 401},
			{"a changed id", with(signed("msg_is", now, body, newKey), "Webhook-Id", "msg_was"), body, 401},
			{"an old request", signed("msg_old", now.Add(-8*time.Minute), body, newKey), body, 401},
			{"a request from the future", signed("msg_future", now.Add(8*time.Minute), body, newKey), body, 401},
			{"an old request with a new timestamp", with(signed("msg_renewed", now.Add(-8*time.Minute), body, newKey),
				"Webhook-Timestamp", fmt.Sprint(now.Unix())), body, 401},
			{"unsigned", http.Header{"Webhook-Id": {"msg_unsigned"}, "Webhook-Timestamp": {fmt.Sprint(now.Unix())}}, body, 401},
			{"no headers at all", http.Header{}, body, 401},
			{"no id", with(signed("msg_noid", now, body, newKey), "Webhook-Id", ""), body, 401},
			{"a timestamp that is none", with(signed("msg_soon", now, body, newKey), "Webhook-Timestamp", "soon"), body, 401},
			{"a timestamp of other digits", with(signed("msg_digits", now, body, newKey), "Webhook-Timestamp", "\xb2"), body, 401},
			{"a timestamp without end", with(signed("msg_endless", now, body, newKey), "Webhook-Timestamp", strings.Repeat("9", 5000)), body, 401},
			{"a signature that is none", with(signed("msg_none", now, body, newKey), "Webhook-Signature", "v1,"), body, 401},
			{"a signature of other letters", with(signed("msg_letters", now, body, newKey), "Webhook-Signature", "v1,\xe9\xff v1a,\xe9"), body, 401},
			{"short signatures", with(signed("msg_short", now, body, newKey), "Webhook-Signature", "v1,AAAA v1a,AAAA"), body, 401},
			{"the signature of v1 as v1a's", with(signed("msg_relabelled", now, body, newKey), "Webhook-Signature",
				strings.Replace(signed("msg_relabelled", now, body, newKey).Get("Webhook-Signature"), "v1,", "v1a,", 1)), body, 401},
			{"the signature of v1a as v1's", with(signed("msg_relabelled", now, body, newPrivate), "Webhook-Signature",
				strings.Replace(signed("msg_relabelled", now, body, newPrivate).Get("Webhook-Signature"), "v1a,", "v1,", 1)), body, 401},

			{"signed, but not JSON", signed("msg_garbage", now, "{", newKey), "{", 400},
			{"signed, but empty", signed("msg_empty", now, "", newKey), "", 400},
			{"signed, but null", signed("msg_null", now, " null", newKey), " null", 400},
			{"signed, but a list", signed("msg_list", now, `[{"type":"call.ended"}]`, newKey), `[{"type":"call.ended"}]`, 400},
			{"signed, but deep", signed("msg_deep", now, strings.Repeat("[", 1<<20), newKey), strings.Repeat("[", 1<<20), 400},
			{"signed, but not UTF-8", signed("msg_latin1", now, "{\"type\":\"\xe9\"}", newKey), "{\"type\":\"\xe9\"}", 400},
		}
		keys := []string{newKey}
		if p.v1a {
			keys = append(keys, newPublic)
		}
		r := start(t, p, t.TempDir(), "", keys...)
		var want []string
		for _, tt := range tests {
			if got, reply := r.do(t, http.MethodPost, tt.header, tt.body); got != tt.want {
				t.Errorf("%s: %d %q, want %d", tt.name, got, reply, tt.want)
			}
			if tt.want == http.StatusNoContent {
				want = append(want, tt.header.Get("Webhook-Id"))
			}
		}
		// A verifier of text takes all that is not UTF-8 for the same character.
		h := signed("msg_lookalike", now, body, newKey)
		if got, _ := r.do(t, http.MethodPost, h, strings.Replace(body, "�", "\xff", 1)); got != 400 && got != 401 {
			t.Errorf("a body that only looks like the signed one: %d, want 400 or 401", got)
		}
		if got, _ := r.do(t, http.MethodGet, signed("msg_get", now, "", newKey), ""); got != 405 {
			t.Errorf("GET: %d, want 405", got)
		}
		if got := r.worked(t, newKey); !slices.Equal(got, want) {
			t.Errorf("worked on %q, want %q", got, want)
		}
	})
}

// TestLargestBody: a body as large as callhook sends is taken, and no more is read
// than the limit.
func TestLargestBody(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		r := start(t, p, t.TempDir(), "", newKey)
		large := `{"pad":"` + strings.Repeat("x", 4<<20) + `"}`
		if status := r.post(t, "msg_large", large, newKey); status != 204 {
			t.Errorf("4 MiB: %d, want 204", status)
		}
		// The client says how long it is, and does not send it.
		if got := r.raw(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", limit+1)); got != 413 {
			t.Errorf("announced: %d, want 413", got)
		}
		// The client does not say, and does not stop.
		chunk := fmt.Sprintf("%x\r\n%s", limit+1, strings.Repeat("x", limit+1))
		want := 413
		if p.run == "python3" {
			chunk, want = "", 411 // it takes no body of which it does not know the length
		}
		if got := r.raw(t, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+chunk); got != want {
			t.Errorf("in chunks: %d, want %d", got, want)
		}
		if got, want := r.worked(t, newKey), []string{"msg_large"}; !slices.Equal(got, want) {
			t.Errorf("worked on %q, want %q", got, want)
		}
	})
}

// TestOnce: the work is done once for each webhook-id.
func TestOnce(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		t.Run("sent twice", func(t *testing.T) {
			r := start(t, p, t.TempDir(), "", newKey)
			for _, id := range []string{"msg_1", "msg_1", "msg_2", "msg_1"} {
				if status := r.post(t, id, body, newKey); status != 204 {
					t.Errorf("%s: %d, want 204", id, status)
				}
			}
			if got, want := r.worked(t, newKey), []string{"msg_1", "msg_2"}; !slices.Equal(got, want) {
				t.Errorf("worked on %q, want %q", got, want)
			}
		})

		t.Run("at the same time", func(t *testing.T) {
			r := start(t, p, t.TempDir(), "slow", newKey)
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					if status := r.post(t, "msg_1", body, newKey); status != 204 {
						t.Errorf("%d, want 204", status)
					}
				})
			}
			wg.Wait()
			if got, want := r.worked(t, newKey), []string{"msg_1"}; !slices.Equal(got, want) {
				t.Errorf("worked on %q, want %q", got, want)
			}
		})

		t.Run("killed in between", func(t *testing.T) {
			dir := t.TempDir()
			r := start(t, p, dir, "", newKey)
			for _, id := range []string{"msg_1", "msg_2"} {
				if status := r.post(t, id, body, newKey); status != 204 {
					t.Errorf("%s: %d, want 204", id, status)
				}
			}
			r.kill()
			r = start(t, p, dir, "", newKey)
			for _, id := range []string{"msg_2", "msg_3", "msg_1"} {
				if status := r.post(t, id, body, newKey); status != 204 {
					t.Errorf("%s: %d, want 204", id, status)
				}
			}
			if got, want := r.worked(t, newKey), []string{"msg_3"}; !slices.Equal(got, want) {
				t.Errorf("worked on %q, want %q", got, want)
			}
		})

		// callhook tries for 3 days, keeps dead letters for 30, and a replay is tried for
		// 3 more: an id is known that long, and not for ever.
		t.Run("weeks later", func(t *testing.T) {
			for _, tt := range []struct {
				age  time.Duration
				want []string
			}{
				{36 * 24 * time.Hour, nil},
				{41 * 24 * time.Hour, []string{"msg_1"}},
			} {
				dir := t.TempDir()
				r := start(t, p, dir, "", newKey)
				r.post(t, "msg_1", body, newKey)
				r.kill()
				p.age(t, filepath.Join(dir, "seen"), tt.age)
				r = start(t, p, dir, "", newKey)
				if status := r.post(t, "msg_1", body, newKey); status != 204 {
					t.Errorf("%d, want 204", status)
				}
				if got := r.worked(t, newKey); !slices.Equal(got, tt.want) {
					t.Errorf("after %s: worked on %q, want %q", tt.age, got, tt.want)
				}
			}
		})

		// What failed is not remembered, and callhook sends it again.
		t.Run("the work failed", func(t *testing.T) {
			r := start(t, p, t.TempDir(), "fails once", newKey)
			s := newSender(t, r.url, newKey)
			s.call(t)
			if a := wait(t, s.attempts, "attempt"); a.attempt.Status != 500 || strings.Contains(a.attempt.Reply, "a bad moment") {
				t.Errorf("answered %d %q, want 500 and no word of the inside", a.attempt.Status, a.attempt.Reply)
			}
			d := wait(t, s.delivered, "delivery")
			if got, want := r.worked(t, newKey), []string{d.ID}; !slices.Equal(got, want) {
				t.Errorf("worked on %q, want %q", got, want)
			}
		})
	})
}

// TestTornLine: half a line at the end of the file, as a crash leaves it, costs
// nothing but that line.
func TestTornLine(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		if p.run == "python3" {
			return // SQLite's own care
		}
		dir := t.TempDir()
		r := start(t, p, dir, "", newKey)
		r.post(t, "msg_1", body, newKey)
		r.kill()
		f, err := os.OpenFile(filepath.Join(dir, "seen"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"id":"msg_2","a`); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, ids := range [][]string{{"msg_1", "msg_2"}, {"msg_1", "msg_2", "msg_3"}} {
			r = start(t, p, dir, "", newKey)
			for _, id := range ids {
				if status := r.post(t, id, body, newKey); status != 204 {
					t.Errorf("%s: %d, want 204", id, status)
				}
			}
			if got, want := r.worked(t, newKey), ids[len(ids)-1:]; !slices.Equal(got, want) {
				t.Errorf("worked on %q, want %q", got, want)
			}
			r.kill()
		}
	})
}

// TestSameServer: the two receivers for Node differ in how they verify, and in
// nothing else.
func TestSameServer(t *testing.T) {
	var servers []string
	for _, name := range []string{"plain.mjs", "standardwebhooks.mjs"} {
		_, server, ok := strings.Cut(content(t, "node", name), "\n// What follows is the same in standardwebhooks.mjs and in plain.mjs.\n")
		if !ok {
			t.Fatalf("%s has no line that says where its server begins", name)
		}
		servers = append(servers, server)
	}
	if servers[0] != servers[1] {
		t.Error("the servers of plain.mjs and standardwebhooks.mjs are not the same")
	}
}

// TestReadme: what the README shows works.
func TestReadme(t *testing.T) {
	readme := content(t, "README.md")
	snippet := func(language string) string {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(readme)
		if m == nil {
			t.Fatalf("the README has no %s", language)
		}
		return m[1]
	}
	if !strings.Contains(content(t, "receiver_test.go"), "\n"+snippet("go")) {
		t.Error("README.md does not show the function that sends as it is in receiver_test.go")
	}
	for _, name := range []string{"bash", "openssl", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not in PATH: install it", name)
		}
	}
	script := snippet("sh")
	each(t, func(t *testing.T, p program) {
		r := start(t, p, t.TempDir(), "", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
		here := strings.ReplaceAll(script, "http://127.0.0.1:8080", r.url)
		if here == script {
			t.Fatal("the script does not send to http://127.0.0.1:8080")
		}
		out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", here).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "204") {
			t.Fatalf("%v:\n%s", err, out)
		}
		got, want := r.next(t), `{"id":"msg_1","type":"call.ended","call":"call_1","test":false}`
		if got != want || !strings.Contains(readme, "`"+want+"`") {
			t.Errorf("printed %s, want %s, as the README says", got, want)
		}
	})
}

// send sends a signed webhook, as callhook does.
func send(url, id string, body []byte, keys ...string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := callhook.Sign(req.Header, id, time.Now(), body, keys...); err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
