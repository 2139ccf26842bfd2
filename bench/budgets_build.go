package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/callhook-go/callhook"
)

// buildBudgets are those of bodies and signatures.
func (b *bench) buildBudgets(add addBudget) {
	add("payload, 12 fields of a call of 19 KB, beside encoding/json of the call", "≤ 1.5 ×, bytes kept", b.payload)
	add("signing 2 KB beside crypto/hmac", "≤ 1.2 ×, ≤ 4 allocations", b.signing)
}

// nowhere is a queue that takes all and keeps nothing.
type nowhere struct{ callhook.Queue }

func (nowhere) Enqueue(context.Context, ...*callhook.Delivery) error { return nil }

// payload measures PostCall with a queue that stores nothing: finding the config, the
// id and the body. That is a little more than the body alone.
func (b *bench) payload() (string, bool, error) {
	call, err := longCall()
	if err != nil {
		return "", false, err
	}
	config := config(0, "https://x.example.com/", 0)
	config.TenantID, config.AgentID = call.TenantID, call.AgentID
	hooks, err := callhook.New(callhook.Options{Configs: callhook.Static(config), Queue: nowhere{callhook.NewMemoryQueue(nil)}})
	if err != nil {
		return "", false, err
	}
	defer hooks.Close()
	type plain callhook.Call // without callhook's MarshalJSON
	var fault error
	ours, theirs := b.turns(20, func() {
		if err := hooks.PostCall(context.Background(), call); err != nil {
			fault = err
		}
	}, func() {
		if _, err := json.Marshal((*plain)(call)); err != nil {
			fault = err
		}
	})
	if fault != nil {
		return "", false, fault
	}
	kept, err := bytesKept()
	if err != nil {
		return "", false, err
	}
	times := float64(ours) / float64(theirs)
	text := fmt.Sprintf("%.2f × (%s and %s)", times, short(ours), short(theirs))
	if !kept {
		text += ", bytes changed"
	}
	return text, times <= 1.5 && kept, nil
}

// longCall is the call that the module's own benchmarks use.
func longCall() (*callhook.Call, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(root, "testdata", "calls", "answered_inbound.json"))
	if err != nil {
		return nil, err
	}
	call := new(callhook.Call)
	return call, json.Unmarshal(data, call)
}

// moduleRoot is the folder of callhook itself: this one, or the one above, or that
// above this file where it was compiled.
func moduleRoot() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	for _, root := range []string{".", "..", filepath.Dir(filepath.Dir(here))} {
		if _, err := os.Stat(filepath.Join(root, "testdata", "calls", "answered_inbound.json")); err == nil {
			return root, nil
		}
	}
	return "", errors.New("callhook's source is not there: run it from the root of a clone")
}

// bytesKept reports whether values arrive as they were raised.
func bytesKept() (bool, error) {
	const id, price, text = "12345678901234567890", "1.10", "<b>a & b</b>"
	call := theCall
	call.Collected = callhook.Object{"id": json.Number(id), "price": json.Number(price), "text": text}
	p, err := config(0, "https://x.example.com/", 0).Preview("post_call", &call)
	if err != nil {
		return false, err
	}
	body := string(p.Body)
	return strings.Contains(body, id) && strings.Contains(body, price) && strings.Contains(body, text), nil
}

// signing is measured by the module's own benchmark, since an attempt signs with a key
// that was read before, which nothing but a test of the module can reach: Sign reads its
// keys each time.
func (b *bench) signing() (string, bool, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", false, err
	}
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkSign$", "-benchtime", strconv.Itoa(b.samples)+"x", ".")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOWORK=off") // the module alone
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", false, fmt.Errorf("go test: %w: %.60s", err, out)
	}
	m, err := metrics(string(out))
	if err != nil {
		return "", false, err
	}
	times, allocs := m["ratio"], m["ours-allocs"]
	return fmt.Sprintf("%.2f × (%s and %s), %.0f allocations", times, short(time.Duration(m["ours-ns"])), short(time.Duration(m["peer-ns"])), allocs),
		times <= 1.2 && allocs <= 4, nil
}

// metrics reads the figures of the one benchmark in the output of go test.
func metrics(out string) (map[string]float64, error) {
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		m := map[string]float64{}
		for i := 2; i+1 < len(words); i += 2 {
			v, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return nil, err
			}
			m[words[i+1]] = v
		}
		return m, nil
	}
	return nil, fmt.Errorf("go test measured nothing: %.60s", out)
}
