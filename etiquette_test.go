package callhook_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callhook-go/callhook"
)

// outcome is what became of one delivery.
type outcome struct {
	State    callhook.State
	Reason   callhook.Reason
	Sent     int // exchanges
	Attempts int // that count against it
}

// The pauses that answers lead to.
var (
	scheduled = []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second,
		1215 * time.Second, 3645 * time.Second, 3 * time.Hour}
	refused = []time.Duration{time.Minute, 3 * time.Minute, 9 * time.Minute, 27 * time.Minute}
	growing = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
		64 * time.Second, 128 * time.Second, 256 * time.Second, 512 * time.Second, 15 * time.Minute, 15 * time.Minute}
)

// TestEtiquette holds every row of "what an answer means" for one delivery.
func TestEtiquette(t *testing.T) {
	type row struct {
		name    string
		url     string // instead of http://x.test/hook
		webhook string // more of the config
		answers []http.HandlerFunc
		wait    time.Duration // instead of a minute
		want    outcome
		pauses  []time.Duration // between attempts
		exact   bool            // the pauses are not spread
	}
	delivered := func(sent, attempts int) outcome {
		return outcome{State: callhook.StateDelivered, Sent: sent, Attempts: attempts}
	}
	dead := func(r callhook.Reason, sent, attempts int) outcome {
		return outcome{State: callhook.StateDead, Reason: r, Sent: sent, Attempts: attempts}
	}
	var rows []row
	add := func(r row) { rows = append(rows, r) }

	// 200–299: delivered.
	for _, code := range []int{200, 201, 202, 203, 204, 205, 206, 207, 226, 250, 299} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code)}, want: delivered(1, 1)})
	}
	add(row{name: "200 and a body that stalls", answers: []http.HandlerFunc{stall(200, `{"ok":`)}, wait: time.Second, want: delivered(1, 1)})
	add(row{name: "200 and a body that breaks off", answers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	}}, want: delivered(1, 1)})
	add(row{name: "200 and malformed gzip", answers: []http.HandlerFunc{reply(200, "not gzip", "Content-Encoding: gzip")}, want: delivered(1, 1)})

	// As success says.
	zoho := `"success": {"path": "data.0.code", "equals": "SUCCESS"}`
	add(row{name: "Zoho: success in a 200", webhook: zoho, answers: []http.HandlerFunc{reply(200, `{"data":[{"code":"SUCCESS"}]}`)}, want: delivered(1, 1)})
	add(row{name: "Zoho: error in a 200", webhook: zoho, answers: []http.HandlerFunc{
		reply(200, `{"data":[{"code":"INVALID_DATA","status":"error"}]}`), reply(201, `{"data":[{"code":"SUCCESS"}]}`)},
		want: delivered(2, 2), pauses: scheduled[:1]})
	for name, answer := range map[string]http.HandlerFunc{
		"not JSON": reply(200, `SUCCESS`), "no body": status(204), "duplicate keys in malformed JSON": reply(200, `{"data":[{"code":"SUCCESS"}]`),
		"another type": reply(200, `{"data":[{"code":["SUCCESS"]}]}`), "more than 64 KiB": reply(200, `{"data":[{"code":"SUCCESS"}],"x":"`+string(make([]byte, 70_000))+`"}`),
		"a body that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"data":[{"code":"SUCCESS"}]}`)
		},
	} {
		add(row{name: "success.path and " + name, webhook: zoho, answers: []http.HandlerFunc{answer, reply(200, `{"data":[{"code":"SUCCESS"}]}`)},
			want: delivered(2, 2), pauses: scheduled[:1]})
	}
	add(row{name: "success.path and a body that stalls", webhook: zoho + `, "timeout": "4s"`,
		answers: []http.HandlerFunc{stall(200, `{"data":[{"code":"SUCCESS"}`), reply(200, `{"data":[{"code":"SUCCESS"}]}`)},
		want:    delivered(2, 2), pauses: []time.Duration{9 * time.Second}, exact: false})
	for equals, body := range map[string]string{`true`: `{"ok": true}`, `1.10`: `{"ok":1.10}`, `{"a":[1,2]}`: `{"ok": {"a": [1, 2]}}`, `"\u00e9"`: `{"ok":"é"}`} {
		add(row{name: "success.equals " + equals, webhook: `"success": {"path": "ok", "equals": ` + equals + `}`,
			answers: []http.HandlerFunc{reply(200, body)}, want: delivered(1, 1)})
	}
	add(row{name: "Google Apps Script: 302", webhook: `"success": {"status": [200, 302]}`,
		answers: []http.HandlerFunc{status(302, "Location: http://elsewhere.test/")}, want: delivered(1, 1)})
	add(row{name: "success.status and a body that stalls", webhook: `"success": {"status": [302]}`, answers: []http.HandlerFunc{stall(302, "moved")},
		wait: time.Second, want: delivered(1, 1)})
	add(row{name: "success.status without 200", webhook: `"success": {"status": [202]}`, answers: []http.HandlerFunc{status(200), status(202)},
		want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "success.path and a 429 whose body stalls", webhook: zoho, answers: []http.HandlerFunc{stall(429, "later"), reply(200, `{"data":[{"code":"SUCCESS"}]}`)},
		want: delivered(2, 1)})
	add(row{name: "success and other answers", webhook: zoho, wait: 24 * time.Hour, answers: []http.HandlerFunc{status(422)},
		want: dead(callhook.ReasonRejected, 5, 5), pauses: refused})

	// 3xx: tried again, never followed.
	for _, code := range []int{300, 301, 302, 303, 304, 307, 308} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code, "Location: http://elsewhere.test/"), status(200)},
			want: delivered(2, 2), pauses: scheduled[:1]})
	}

	// About this event: 5 attempts in an hour, then dead.
	for _, code := range []int{400, 409, 415, 422} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code)}, wait: time.Hour,
			want: dead(callhook.ReasonRejected, 5, 5), pauses: refused})
		add(row{name: fmt.Sprint(code, " once"), answers: []http.HandlerFunc{status(code), status(200)}, wait: time.Hour, want: delivered(2, 2), pauses: refused[:1]})
	}
	add(row{name: "400 between failures", answers: []http.HandlerFunc{status(500), status(400), status(500), status(400), status(200)}, wait: time.Hour,
		want: delivered(5, 5), pauses: []time.Duration{scheduled[0], refused[0], scheduled[2], refused[1]}})

	// Other 4xx: somebody may activate a workflow or fix a secret.
	for _, code := range []int{401, 402, 403, 404, 405, 406, 407, 411, 412, 416, 417, 418, 421, 423, 424, 426, 428, 444, 451, 499} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code), status(code), status(200)}, want: delivered(3, 3), pauses: scheduled[:2]})
	}
	add(row{name: "404 for ever", answers: []http.HandlerFunc{status(404)}, wait: 20 * time.Minute, want: outcome{Sent: 6, Attempts: 6}, pauses: scheduled[:5]})

	// Failures of the receiver.
	for _, code := range []int{408, 425, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599, 999} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code), status(code), status(200)}, want: delivered(3, 3), pauses: scheduled[:2]})
	}
	add(row{name: "503 with a Retry-After that says nothing", answers: []http.HandlerFunc{status(503, "Retry-After: -1"), status(200)},
		want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "500 with Retry-After", answers: []http.HandlerFunc{status(500, "Retry-After: 40"), status(200)}, want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "max_attempts", webhook: `"retry": {"max_attempts": 3}`, answers: []http.HandlerFunc{status(500)},
		want: dead(callhook.ReasonMaxAttempts, 3, 3), pauses: scheduled[:2]})
	add(row{name: "retry as configured", webhook: `"retry": {"initial": "2s", "multiplier": 2, "max_interval": "5s", "max_attempts": 5}`,
		answers: []http.HandlerFunc{status(500)}, want: dead(callhook.ReasonMaxAttempts, 5, 5),
		pauses: []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}})
	add(row{name: "max_age", webhook: `"retry": {"max_age": "45s"}`, answers: []http.HandlerFunc{status(500)}, wait: time.Hour,
		want: dead(callhook.ReasonExpired, 3, 3), pauses: scheduled[:2]})

	// 410: waits, and no attempt is burnt.
	add(row{name: "410", answers: []http.HandlerFunc{status(410), status(200)}, wait: 3 * time.Hour, want: outcome{Sent: 1}})
	add(row{name: "410 past max_age", webhook: `"retry": {"max_age": "150m"}`, answers: []http.HandlerFunc{status(410), status(200)}, wait: 5 * time.Hour,
		want: dead(callhook.ReasonExpired, 1, 0)})
	add(row{name: "410 with call data in the path: as 404", url: "http://x.test/{{call.id}}", answers: []http.HandlerFunc{status(410), status(200)},
		want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "410 with call data in the query: as 404", url: "http://x.test/?id={{call.id}}", answers: []http.HandlerFunc{status(410), status(200)},
		want: delivered(2, 2), pauses: scheduled[:1]})

	// Too large.
	for _, code := range []int{413, 414, 431} {
		add(row{name: fmt.Sprint(code), answers: []http.HandlerFunc{status(code)}, want: dead(callhook.ReasonTooLarge, 1, 1)})
		add(row{name: fmt.Sprint(code, " with Retry-After"), answers: []http.HandlerFunc{status(code, "Retry-After: 30"), status(200)},
			want: delivered(2, 2), pauses: []time.Duration{30 * time.Second}, exact: true})
	}

	// Come later: no attempt is burnt.
	for name, answer := range map[string]http.HandlerFunc{
		"429": status(429, "Retry-After: 20"), "503": status(503, "Retry-After: 20"), "Make's 400": reply(400, "Queue is full.", "Retry-After: 20"),
	} {
		add(row{name: name + " with Retry-After", answers: []http.HandlerFunc{answer, answer, status(200)}, want: delivered(3, 1),
			pauses: []time.Duration{20 * time.Second, 20 * time.Second}, exact: true})
	}
	for name, answer := range map[string]http.HandlerFunc{"429": status(429), "Make's 400": reply(400, `{"message":"queue is FULL"}`)} {
		add(row{name: name + " for ever", answers: []http.HandlerFunc{answer}, wait: 48 * time.Minute, want: outcome{Sent: 13}, pauses: growing, exact: true})
		add(row{name: name + " past max_age", webhook: `"retry": {"max_age": "10m"}`, answers: []http.HandlerFunc{answer}, wait: time.Hour,
			want: dead(callhook.ReasonExpired, 10, 0), pauses: growing[:9], exact: true})
	}
	add(row{name: "429 and then nobody asks for time", answers: []http.HandlerFunc{status(429), status(429), status(500), status(200)}, want: delivered(4, 2)})
	add(row{name: "the pause of 429 is at least a second", answers: []http.HandlerFunc{status(429, "Retry-After: 0"), status(200)}, want: delivered(2, 1),
		pauses: []time.Duration{time.Second}, exact: true})
	add(row{name: "and at most an hour", answers: []http.HandlerFunc{status(429, "Retry-After: 99999999999999999999"), status(200)}, wait: 2 * time.Hour,
		want: delivered(2, 1), pauses: []time.Duration{time.Hour}, exact: true})

	// No answer: it may have arrived.
	add(row{name: "no answer in time", webhook: `"timeout": "2s"`, answers: []http.HandlerFunc{silent, status(200)}, want: delivered(2, 2),
		pauses: []time.Duration{7 * time.Second}})
	add(row{name: "the connection ends", answers: []http.HandlerFunc{cutOff, status(200)}, want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "not HTTP", answers: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			fmt.Fprint(conn, "SSH-2.0-OpenSSH_9.6\r\n")
			conn.Close()
		}
	}, status(200)}, want: delivered(2, 2), pauses: scheduled[:1]})
	add(row{name: "refused", url: "http://nobody.test/", answers: []http.HandlerFunc{status(200)}, wait: 40 * time.Second, want: outcome{Sent: 3, Attempts: 3}, pauses: scheduled[:2]})
	add(row{name: "TLS error", url: "https://x.test:80/", answers: []http.HandlerFunc{status(200)}, wait: 40 * time.Second, want: outcome{Sent: 3, Attempts: 3}, pauses: scheduled[:2]})

	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				x, elsewhere, w := newEndpoint(r.answers...), newEndpoint(), new(watch)
				n.handle("x.test", x.ServeHTTP)
				n.handle("elsewhere.test", elsewhere.ServeHTTP)
				if r.url == "" {
					r.url = "http://x.test/hook"
				}
				if r.wait == 0 {
					r.wait = time.Minute
				}
				queue := callhook.NewMemoryQueue(nil)
				o := callhook.Options{Configs: callhook.Static(hook(t, r.url, r.webhook)), Dial: n.Dial, Queue: queue, Trace: w.trace()}
				run(t, o, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(r.wait)
					synctest.Wait()
					d, state, reason := w.settled()
					var left [3]int64 // delivered, dead, pending
					switch state {
					case callhook.StateDelivered:
						left[0] = 1
					case callhook.StateDead:
						left[1] = 1
					default:
						left[2], d = 1, list(t, queue, callhook.Filter{})[0]
					}
					tries := w.tries()
					if diff := cmp.Diff(r.want, outcome{state, reason, len(tries), d.Attempts}); diff != "" {
						t.Fatalf("(-want +got)\n%s%+v", diff, tries)
					}
					if r.pauses != nil {
						checkPauses(t, r.pauses, pauses(tries), r.exact)
					}
					if got := h.Stats().Attempts; got != int64(r.want.Sent) {
						t.Errorf("Stats.Attempts is %d, want %d", got, r.want.Sent)
					}
					if len(elsewhere.requests()) > 0 {
						t.Error("a redirect was followed")
					}
					for i, a := range tries {
						if last := i == len(tries)-1 && state == callhook.StateDelivered; last != (a.Error == "") {
							t.Errorf("attempt %d has the error %q", i, a.Error)
						}
					}
					balance(t, h, left[0], left[1], left[2])
				})
			})
		})
	}
}

// checkPauses compares pauses that are spread by 20 % and never longer than the cap.
func checkPauses(t *testing.T, want, got []time.Duration, exact bool) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%d pauses %v, want %d: %v", len(got), got, len(want), want)
		return
	}
	for i := range want {
		least, most := want[i]*8/10, min(want[i]*12/10, max(want[i], 3*time.Hour))
		if exact {
			least, most = want[i], want[i]+300*time.Millisecond // what reading a body may take
		}
		if got[i] < least || got[i] > most {
			t.Errorf("pause %d is %s, want %s to %s", i, got[i], least, most)
		}
	}
}

// TestScheduleForThreeDays: 5 seconds, three times longer each time, at most three
// hours, for three days.
func TestScheduleForThreeDays(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x, w := newEndpoint(status(500)), new(watch)
		n.handle("x.test", x.ServeHTTP)
		o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", "")), Dial: n.Dial, Trace: w.trace()}
		run(t, o, func(h *callhook.Hooks) {
			start := time.Now()
			raise(t, h, ended("c1"))
			time.Sleep(80 * time.Hour)
			synctest.Wait()
			d, _, reason := w.settled()
			if reason != callhook.ReasonExpired {
				t.Fatalf("reason %q, want %q", reason, callhook.ReasonExpired)
			}
			tries := w.tries()
			if last := tries[len(tries)-1].At.Sub(start); last > 72*time.Hour || last < 68*time.Hour {
				t.Errorf("the last attempt was after %s, want shortly before 72h", last)
			}
			want := append([]time.Duration(nil), scheduled...)
			for len(want) < len(tries)-1 {
				want = append(want, 3*time.Hour)
			}
			got := pauses(tries)
			checkPauses(t, want, got, false)
			spread := map[time.Duration]bool{}
			for _, p := range got[7:] {
				if p > 3*time.Hour {
					t.Errorf("a pause of %s is longer than max_interval", p)
				}
				spread[p] = true
			}
			if len(spread) < len(got[7:])/2 {
				t.Errorf("the pauses at the cap are not spread: %v", got[7:])
			}
			if d.Attempts != len(tries) || len(d.Log) != 10 || !d.Log[9].At.Equal(tries[len(tries)-1].At) {
				t.Errorf("%d attempts and a log of %d, want %d and the last 10", d.Attempts, len(d.Log), len(tries))
			}
			balance(t, h, 0, 1, 0)
		})
	})
}

// TestHeldLane: what asks for time holds its lane and no other.
func TestHeldLane(t *testing.T) {
	later := map[string]http.HandlerFunc{"429": status(429, "Retry-After: 20"), "503": status(503, "Retry-After: 20"), "400": reply(400, "Queue is full", "Retry-After: 20")}
	for name, answer := range later {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				busy, other := newEndpoint(answer, status(200)), newEndpoint()
				n.handle("busy.test", busy.ServeHTTP)
				n.handle("other.test", other.ServeHTTP)
				config := parse(t, `{"agent_id": "a", "post_call": [{"name": "busy", "url": "http://busy.test/"}, {"name": "other", "url": "http://other.test/"}]}`)
				run(t, callhook.Options{Configs: callhook.Static(config), Dial: n.Dial}, func(h *callhook.Hooks) {
					start := time.Now()
					raise(t, h, ended("c1"))
					time.Sleep(time.Second)
					raise(t, h, ended("c2"), ended("c3"))
					time.Sleep(10 * time.Second)
					synctest.Wait()
					if got := len(busy.requests()); got != 1 {
						t.Errorf("the held lane got %d requests, want 1", got)
					}
					if got := len(other.requests()); got != 3 {
						t.Errorf("the other lane got %d requests, want 3", got)
					}
					time.Sleep(20 * time.Second)
					synctest.Wait()
					var at []time.Duration
					for _, r := range busy.requests() {
						at = append(at, r.At.Sub(start))
					}
					want := []time.Duration{0, 20 * time.Second, 20 * time.Second, 20 * time.Second}
					if diff := cmp.Diff(want, at); diff != "" {
						t.Errorf("requests to the held lane (-want +got)\n%s", diff)
					}
					balance(t, h, 6, 0, 0)
				})
			})
		})
	}
}

// TestStreak: without Retry-After the pause of the lane grows, whichever delivery
// is answered, and a success ends the streak.
func TestStreak(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(429), status(429), status(429), status(200), status(200), status(429), status(200))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 1`)), Dial: n.Dial}, func(h *callhook.Hooks) {
			start := time.Now()
			raise(t, h, ended("c1"), ended("c2"), ended("c3"))
			time.Sleep(time.Minute)
			synctest.Wait()
			var at []time.Duration
			for _, r := range x.requests() {
				at = append(at, r.At.Sub(start))
			}
			want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 7 * time.Second, 7 * time.Second, 8 * time.Second}
			if diff := cmp.Diff(want, at); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			balance(t, h, 3, 0, 0)
		})
	})
}

// TestHeldTogether: several answers to requests that were under way together are
// one reason to wait, not several.
func TestHeldTogether(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		slow := func(code int) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(100 * time.Millisecond)
				w.WriteHeader(code)
			}
		}
		x := newEndpoint(slow(429), slow(429), slow(429), slow(429), status(200))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"concurrency": 4`)), Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"), ended("c2"), ended("c3"), ended("c4"))
			time.Sleep(1200 * time.Millisecond)
			synctest.Wait()
			balance(t, h, 4, 0, 0)
		})
	})
}

// TestConcurrencyLimit: no more requests than the webhook says, and all arrive.
func TestConcurrencyLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 8, 64} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				var most, now int
				lock := make(chan struct{}, 1)
				n.handle("x.test", func(w http.ResponseWriter, _ *http.Request) {
					lock <- struct{}{}
					now++
					most = max(most, now)
					<-lock
					time.Sleep(time.Second)
					lock <- struct{}{}
					now--
					<-lock
				})
				o := callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", fmt.Sprintf(`"concurrency": %d`, limit))), Dial: n.Dial}
				run(t, o, func(h *callhook.Hooks) {
					const calls = 100
					for _, id := range names("c", calls) {
						raise(t, h, ended(id))
					}
					// A full lane needs this long, and as long again to begin slowly.
					time.Sleep(time.Duration(calls/limit+1) * time.Second)
					synctest.Wait()
					if most != min(limit, calls) {
						t.Errorf("%d requests ran at once, want %d", most, limit)
					}
					balance(t, h, calls, 0, 0)
				})
			})
		})
	}
}

// TestSuccessComparesJSON: a value at success.path is compared as JSON.
func TestSuccessComparesJSON(t *testing.T) {
	for _, tt := range []struct {
		equals, got string
		want        bool
	}{
		{`1`, `1`, true}, {`1`, `1.0`, false}, {`"1"`, `1`, false}, {`true`, `"true"`, false}, {`"a/b"`, `"a\/b"`, true}, {`[]`, `[ ]`, true}, {`{}`, `null`, false},
	} {
		t.Run(tt.equals+" "+tt.got, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *network) {
				n.handle("x.test", reply(200, `{"v": `+tt.got+`}`))
				webhook := `"retry": {"max_attempts": 1}, "success": {"path": "v", "equals": ` + tt.equals + `}`
				run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", webhook)), Dial: n.Dial}, func(h *callhook.Hooks) {
					raise(t, h, ended("c1"))
					time.Sleep(time.Second)
					synctest.Wait()
					if got := h.Stats().Queue.Delivered == 1; got != tt.want {
						t.Errorf("delivered: %v, want %v", got, tt.want)
					}
				})
			})
		})
	}
}

// TestSameDeliveryAgain: retries carry the same id and body, and a signature and
// timestamp of their own.
func TestSameDeliveryAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		x := newEndpoint(status(500), status(404), status(429), status(422), status(200))
		n.handle("x.test", x.ServeHTTP)
		run(t, callhook.Options{Configs: callhook.Static(hook(t, "http://x.test/", `"secrets": ["`+secret+`"]`)), Dial: n.Dial}, func(h *callhook.Hooks) {
			raise(t, h, ended("c1"))
			time.Sleep(time.Hour)
			synctest.Wait()
			got := x.requests()
			if len(got) < 5 {
				t.Fatalf("%d requests, want 5", len(got))
			}
			var event callhook.Event
			if err := json.Unmarshal(got[0].Body, &event); err != nil {
				t.Fatal(err)
			}
			signatures := map[string]bool{}
			for i, r := range got {
				if r.Header.Get(callhook.HeaderID) != event.ID {
					t.Errorf("request %d has the id %s, want %s", i, r.Header.Get(callhook.HeaderID), event.ID)
				}
				if diff := cmp.Diff(string(got[0].Body), string(r.Body)); diff != "" {
					t.Errorf("request %d has another body (-want +got)\n%s", i, diff)
				}
				if want := fmt.Sprint(r.At.Unix()); r.Header.Get(callhook.HeaderTimestamp) != want {
					t.Errorf("request %d has the timestamp %s, want %s", i, r.Header.Get(callhook.HeaderTimestamp), want)
				}
				if err := callhook.VerifyAt(r.Header, r.Body, r.At, []string{secret}); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
				signatures[r.Header.Get(callhook.HeaderSignature)] = true
			}
			if len(signatures) != len(got) {
				t.Errorf("%d requests have %d signatures", len(got), len(signatures))
			}
			balance(t, h, 1, 0, 0)
		})
	})
}
