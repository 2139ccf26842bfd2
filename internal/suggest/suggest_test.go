package suggest_test

import (
	"strings"
	"testing"

	"github.com/callhook-go/callhook/internal/suggest"
)

func TestDidYouMean(t *testing.T) {
	fields := []string{"url", "timeout", "max_bytes", "max_attempts", "call.from", "call.from_name", "call.to", "call.transfers.#.to", "agent_id", strings.Repeat("x", 100)}
	for name, want := range map[string]string{
		"ulr": "url", "URL": "url", "timeot": "timeout", "maxBytes": "max_bytes", "attempts": "max_attempts", "agent": "agent_id",
		"call.form": "call.from", "call.frm_name": "call.from_name", "call.transfers.#.two": "call.transfers.#.to",
		"": "", "zzz": "", "call.nothing": "", "call.": "", "completely_different": "", strings.Repeat("x", 99): "",
	} {
		if want != "" {
			want = ` (did you mean "` + want + `"?)`
		}
		if got := suggest.DidYouMean(name, fields); got != want {
			t.Errorf("%.30q: %q, want %q", name, got, want)
		}
	}
	if got := suggest.DidYouMean("a", nil); got != "" {
		t.Error(got)
	}
}
