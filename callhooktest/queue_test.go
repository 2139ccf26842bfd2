package callhooktest_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/callhook-go/callhook/callhooktest"
)

// The subtests wait more than they work, so that many may at once.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

func TestMemoryQueue(t *testing.T) {
	callhooktest.TestQueue(t, func(*testing.T, string) callhook.Queue { return callhook.NewMemoryQueue(nil) })
}

// TestModel: the suite accepts an engine that does what the contract says, in each
// of the ways that the contract leaves open.
func TestModel(t *testing.T) {
	for name, o := range map[string]modelOptions{
		"in memory":          {},
		"keeping back":       {retains: true, keeps: true},
		"durable":            {durable: true, keeps: true},
		"durable and parked": {durable: true, retains: true, wary: true},
	} {
		t.Run(name, func(t *testing.T) {
			callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue { return openModel(t, dir, o) })
		})
	}
}

// TestCrowd: and one that several processes share.
func TestCrowd(t *testing.T) {
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue { return openCrowd(t, dir, "") })
}

// bare is a model that is no Inspector.
type bare struct{ callhook.Queue }

func TestNoInspector(t *testing.T) {
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue { return bare{openModel(t, dir, modelOptions{})} })
}

// faults are what an engine may do wrong, and the promise that it breaks.
var faults = []struct {
	fault, group, promise string
	says                  string // what is in the message
}{
	{"loses", "Consume", "many are handed out at once, of one lane", "58 of 64 were handed out"},
	{"truncates", "Enqueue", "a large body keeps its bytes", "a body of 262144 bytes was handed out as 65536 other bytes"},
	{"loses the seal", "Enqueue", "a delivery is handed out as it was enqueued", "Sealed is \"\", want"},
	{"twice", "Consume", "ten thousand lanes of one delivery each are served", "d9 was handed out"},
	{"loses changes", "Enqueue", "what the handler changed is there at the next hand-out", "len(Log) is \"0\", want \"1\""},
	{"forgets ids", "Enqueue", "an ID that was settled is ignored", "arrived was handed out again, though it was settled as delivered"},
	{"forgets done", "Consume", "each verdict's Done is called once, when it was carried out", "the Done of every verdict was called"},
	{"done early", "Park and Release", "a Release by a verdict's Done finds what the verdict parked", "a Release by the Done of a Park freed nothing"},
	{"two consume", "Consume", "a second Consume at the same time is an error and disturbs nothing", "a second Consume while the first runs"},
	{"early", "RetryAt", "a delivery comes at its time, not before and not much later", "before the time of its RetryAt"},
	{"loses parked", "Park and Release", "Release makes exactly n ready and says how many it found", "returned"},
	{"backwards", "Park and Release", "Release takes those without Attempts first, the earliest first, and every fourth has Attempts", "were released in the order"},
	{"starves", "Park and Release", "Release takes those without Attempts first, the earliest first, and every fourth has Attempts", "0 have Attempts, want 1"},
	{"wrong number", "Park and Release", "Release makes exactly n ready and says how many it found", "returned 10, want 4"},
	{"only parked", "Park and Release", "Release with n below zero frees all, also those that wait for a time", "returned 3, want 6"},
	{"other lanes", "Park and Release", "Release never touches another lane, however alike the names", "want 1"},
	{"keeps back", "Park and Release", "a lane without parked ones hands out what comes, again and again", "0 of 4 were handed out"},
	{"breaks order", "Order", "first attempts of one call in one lane go in the order raised", "that is earlier in the same call and lane"},
	{"breaks strict order", "Ordered", "an Ordered one waits until all earlier ones of its call and lane are settled", "b was handed out before a was settled"},
	{"ends early", "Ending", "Consume returns nil once ctx has ended and those in flight are stored", "while 4 were in flight"},
	{"goes on", "Ending", "nothing is handed out once ctx has ended", "c was handed out: ctx had ended"},
	{"open for ever", "Ending", "after Close every method says so", "Enqueue after Close: the error is <nil>"},
	{"crash loses", "Restart", "what was in flight in a crash comes again, as it was last stored", "of 21 were handed out"},
	{"brings back", "Restart", "what is settled does not come back, and its ID stays remembered", "was handed out again, though it was settled as delivered"},
	{"oldest first", "Inspector", "List finds by every field of the Filter, the last enqueued first", "want [blocked flying"},
	{"shares", "Inspector", "Get returns a delivery whole, as a copy", "Get(\"waiting\") does not return it as it was stored"},
	{"miscounts", "Inspector", "Counts and Lanes tell what there is and was", "do not balance"},
	{"goes on counting", "Replay", "a dead letter goes again as it is, its attempts and its age start over", "has Attempts 5, Rejections 4, Postponed 3"},
	{"forgets erased", "Erase", "a delivery is erased in whatever state, and its ID stays remembered", "Counts after one that was ready is erased"},
	{"unerases", "Erase", "an attempt under way goes on, and its verdict changes nothing", "after 1 were erased in flight"},
	{"divides lanes", "Shared", "the order of calls holds, and a lane is one's, while others come and go", "is in the handlers of two at the same time"},
	{"leaves what another has parked", "Shared", "of a lane that is taken over one that was parked goes by itself", "0 of 2 were handed out"},
	{"frees others' parked ones", "Shared", "Release frees only what the releaser's own lanes have", "which the one had parked, and none"},
}

// TestEveryField: each field that a queue stores is set in what the suite enqueues, and
// missed when it is lost; one that is added to Delivery is asked for here.
func TestEveryField(t *testing.T) {
	queues := []string{"Seq", "State", "RetryAt", "Reason"} // the queue's own
	fields := reflect.TypeFor[callhook.Delivery]()
	for i := range fields.NumField() {
		f := fields.Field(i)
		if !f.IsExported() || slices.Contains(queues, f.Name) {
			continue
		}
		want, got := callhooktest.Full(), callhooktest.Full()
		field := reflect.ValueOf(got).Elem().Field(i)
		if field.IsZero() {
			t.Errorf("the suite enqueues no delivery with %s", f.Name)
		}
		field.SetZero()
		if diff := callhooktest.Diff(want, got); !strings.Contains(diff, f.Name) {
			t.Errorf("a queue may lose %s, and the suite says %q", f.Name, diff)
		}
	}
}

const faultVariable = "CALLHOOKTEST_FAULT"

// TestFaults: the suite finds what an engine does wrong, and says what that is.
func TestFaults(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			group, promise := strings.ReplaceAll(tt.group, " ", "_"), strings.ReplaceAll(tt.promise, " ", "_")
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestFaulty$/^"+group+"$/^"+regexp.QuoteMeta(promise)+"$")
			cmd.Env = append(os.Environ(), faultVariable+"="+tt.fault)
			out, err := cmd.CombinedOutput()
			name := "--- FAIL: TestFaulty/" + group + "/" + promise
			if err == nil || !bytes.Contains(out, []byte(name)) || !bytes.Contains(out, []byte(tt.says)) {
				t.Errorf("a queue with this fault: %v, want a failure with %q that says %q\n%s", err, name, tt.says, out)
			}
		})
	}
}

// TestFaulty is the suite with an engine that has a fault, when TestFaults runs it.
func TestFaulty(t *testing.T) {
	fault := os.Getenv(faultVariable)
	if fault == "" {
		return
	}
	callhooktest.SetPatience(time.Second)
	callhooktest.TestQueue(t, func(t *testing.T, dir string) callhook.Queue {
		for _, tt := range faults {
			if tt.fault == fault && tt.group == "Shared" {
				return openCrowd(t, dir, fault)
			}
		}
		return openModel(t, dir, modelOptions{durable: true, fault: fault})
	})
}
