package callhooktest

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/callhook-go/callhook"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Equal are options for [cmp.Diff] with which callhook's results compare as tests want
// them to:
//
//	if diff := cmp.Diff(want, hooks.PreCall(ctx, call), callhooktest.Equal()...); diff != "" {
//
// How long something took, when an attempt was made and at which address are left out.
// Errors are equal when one is the other, as [errors.Is] has it, or both say the same.
// JSON is equal when it means the same. Empty lists and maps equal nil ones, and
// [callhook.PreCallResult].Late is not compared.
func Equal() cmp.Options {
	return cmp.Options{
		cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(callhook.PreCallResult{}, "Elapsed", "Timing", "Late"),
		cmpopts.IgnoreFields(callhook.Attempt{}, "At", "Elapsed", "Timing", "Remote"),
		cmpopts.IgnoreFields(callhook.Delivery{}, "EnqueuedAt", "Seq"),
		cmp.Comparer(func(a, b error) bool {
			if a == nil || b == nil {
				return a == nil && b == nil
			}
			return errors.Is(a, b) || errors.Is(b, a) || a.Error() == b.Error()
		}),
		cmp.FilterValues(func(a, b json.RawMessage) bool { return json.Valid(a) && json.Valid(b) },
			cmp.Transformer("JSON", func(raw json.RawMessage) (v any) {
				_ = json.Unmarshal(raw, &v) // it is valid
				return v
			})),
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	}
}
