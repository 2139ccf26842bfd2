package crashtest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// failures notes what a test would have been told.
type failures struct {
	testing.TB
	all []string
}

func (f *failures) Helper()                        {}
func (f *failures) Logf(string, ...any)            {}
func (f *failures) Error(args ...any)              { f.all = append(f.all, fmt.Sprint(args...)) }
func (f *failures) Errorf(format string, a ...any) { f.all = append(f.all, fmt.Sprintf(format, a...)) }

// TestCheck: what a kill explains is no fault, and what it does not explain is one.
func TestCheck(t *testing.T) {
	at := func(seconds float64) time.Time { return time.Unix(0, int64(seconds*1e9)) }
	sent := func(process string, number int, arrived float64) exchange {
		return exchange{process, number, at(arrived), at(arrived + 0.01)}
	}
	kills := []Kill{{"a", at(10), at(10.1)}}
	for name, c := range map[string]struct {
		arrived []exchange
		want    []string
	}{
		"in order":                                 {[]exchange{sent("a", 1, 1), sent("a", 2, 2), sent("a", 3, 3)}, nil},
		"again after a kill":                       {[]exchange{sent("a", 1, 9), sent("a", 2, 9.9), sent("b", 2, 11), sent("b", 3, 12)}, nil},
		"two again after a kill":                   {[]exchange{sent("a", 1, 1), sent("a", 2, 9.8), sent("a", 3, 9.9), sent("b", 2, 11), sent("b", 3, 12)}, nil},
		"answered after who took over":             {[]exchange{sent("a", 1, 1), sent("b", 2, 10.2), sent("a", 2, 9.9), sent("b", 3, 10.3)}, nil},
		"read after the end of who had sent it":    {[]exchange{sent("a", 1, 1), sent("a", 2, 10.15), sent("b", 2, 10.3), sent("b", 3, 10.4)}, nil},
		"read after who took over was":             {[]exchange{sent("a", 1, 1), sent("b", 2, 10.15), sent("a", 2, 10.2), sent("b", 3, 10.4)}, nil},
		"again from another, after the kill":       {[]exchange{sent("a", 1, 1), sent("b", 2, 10.15), sent("b", 2, 10.3), sent("b", 3, 10.4)}, []string{"event 2 of call was answered at"}},
		"lost":                                     {[]exchange{sent("a", 1, 1), sent("a", 2, 2)}, []string{"event 3 of call call was accepted and never arrived"}},
		"out of order":                             {[]exchange{sent("a", 1, 1), sent("a", 3, 2), sent("b", 2, 3)}, []string{"of call call event 2 arrived after 3, from b after 0: it is ordered"}},
		"out of order once more":                   {[]exchange{sent("a", 1, 9.7), sent("a", 2, 9.8), sent("a", 3, 9.9), sent("b", 3, 11), sent("b", 2, 12)}, []string{"of call call event 2 arrived after 3, from b after 3: it is ordered"}},
		"again without a kill":                     {[]exchange{sent("a", 1, 1), sent("a", 1, 2), sent("a", 2, 3), sent("a", 3, 4)}, []string{"event 1 of call was answered at"}},
		"again after a kill, answered long before": {[]exchange{sent("a", 1, 1), sent("b", 1, 11), sent("b", 2, 12), sent("b", 3, 13)}, []string{"event 1 of call was answered at"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger(t)
			for n := range 3 {
				l.Accept(fmt.Sprint("call ", n+1))
			}
			for _, e := range c.arrived {
				l.arrived[fmt.Sprint("call ", e.number)] = true
			}
			l.calls["call"] = c.arrived
			f := &failures{TB: t}
			l.Check(f, kills)
			if !slices.EqualFunc(f.all, c.want, func(got, want string) bool { return len(got) >= len(want) && got[:len(want)] == want }) {
				t.Errorf("got %q, want %q", f.all, c.want)
			}
		})
	}
	f := &failures{TB: t}
	NewLedger(t).Check(f, nil)
	if len(f.all) != 1 {
		t.Errorf("where nothing was accepted: %q", f.all)
	}
}
